"""Hashes of what decides a task's scores: its settings, its items, a tokenizer.

Names and paths do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.core import syntax
from harness.evaluation.tasks import FEWSHOT_SEED, doc_hash

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase


def digest(values: Any) -> str:
    """Return a hash of plain values (canonical JSON), 16 hexadecimal digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def of_task(task: Task, items: Sequence[int]) -> dict[str, str]:
    """Return the hashes that decide a task's scores, once it is built.

    Returns:
        ``version``: lm-eval's version of the task. ``settings``: hash of its resolved
        configuration, functions by source. ``items``: hash of the documents asked, in order.
        ``prompts``, with worked examples alone, which come from other documents: hash of the
        prompts.
    """
    docs = task.eval_docs
    metadata = task.config.metadata if isinstance(task.config.metadata, dict) else {}
    # The source of documents and the code that builds them do not count, their content does: it is
    # hashed next to the settings. The metadata name a path too.
    places = {"metadata", "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset", "process_docs"}
    settings = {key: value for key, value in task.config.to_dict(keep_callable=True).items() if key not in places}
    found = {
        "version": str(metadata.get("version", task.VERSION)),
        "settings": digest(_plain(settings)),
        "items": digest([doc_hash(docs[index]) for index in items]),
    }
    if shots := task.config.num_fewshot:
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        found["prompts"] = digest([task.fewshot_context(docs[index], num_fewshot=shots) for index in items])
    return found


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer: vocabulary, rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = dict(sorted(tokenizer.get_vocab().items()))
    if backend is not None:  # padding and truncation are state left by earlier calls
        rules = {key: value for key, value in json.loads(backend.to_str()).items() if key not in {"padding", "truncation"}}
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items() if name != "pad_token"}
    return digest([rules, special, tokenizer.encode("a"), tokenizer.chat_template])


def _plain(value: Any) -> Any:
    """Return a configuration value without memory addresses.

    Functions become their source, classes and other objects their name.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list | tuple) else sorted(items, key=str)
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if inspect.isroutine(value):
        return _source(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return (value if isinstance(value, type) else type(value)).__qualname__


def _source(function: Any) -> Any:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # built in
        return str(function.__qualname__)
    try:
        return syntax.what_runs(ast.parse(textwrap.dedent(source)))
    except SyntaxError:  # a lambda inside an expression
        return source
