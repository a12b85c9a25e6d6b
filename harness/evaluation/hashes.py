"""Hashes of what decides a task's scores: its settings, its items, a tokenizer.

Names and paths do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import outside
from harness.core import syntax
from harness.core.errors import EvaluationError, explain
from harness.core.rows import PromptFormat
from harness.evaluation import askable
from harness.evaluation.tasks import FEWSHOT_SEED, doc_hash
from harness.models.weights import first_line

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase


def digest(values: Any) -> str:
    """Return a hash of plain values (canonical JSON), 16 hexadecimal digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


UNREAD = frozenset(
    """task tag group task_alias metadata custom_dataset dataset_path dataset_name dataset_kwargs process_docs
    training_split validation_split test_split fewshot_split num_fewshot use_prompt""".split()
)
"""Settings that act through documents and prompts alone, which are hashed themselves.

Templates of prompts are not among them: a chat template joins their parts in another way."""

TWICE = 8
"""Items whose prompts are built twice, to find prompts that are drawn at random."""


def of_task(task: Task, items: Sequence[int], prompt_format: PromptFormat = "plain") -> dict[str, str]:
    """Return the hashes that decide a task's scores, of the task as lm-eval built it.

    Args:
        task: built, its data loaded.
        items: numbers of the documents asked, in order.
        prompt_format: of its prompts.

    Returns:
        ``version``: lm-eval's version of the task. ``settings``: hash of metrics, filters,
        generation settings and code that computes scores. ``items``: hash of the documents.
        ``prompts``: hash of prompts, continuations and targets. ``layout``: of worked
        examples under a chat template.

    Raises:
        EvaluationError: prompts that differ each time they are built, or a template that fails.
    """
    docs = task.eval_docs
    metadata = task.config.metadata if isinstance(task.config.metadata, dict) else {}
    settings = {key: value for key, value in task.config.to_dict(keep_callable=True).items() if key not in UNREAD}
    prompts = asked(task, items)
    if prompts[:TWICE] != asked(task, items[:TWICE]):
        fix = "a prompt that is the same for a document each time, without random numbers or the time"
        raise EvaluationError(explain(f"task {task.config.task}", got="prompts that differ each time they are built", fix=fix))
    turns = prompt_format == "chat" and task.config.num_fewshot
    return {
        "version": str(metadata.get("version", task.VERSION)),
        "settings": digest([_plain(settings), type(task).__qualname__, _own_code(task)]),
        "items": digest([doc_hash(docs[index]) for index in items]),
        "prompts": digest(prompts),
        **({"layout": "turns"} if turns else {}),
    }


def asked(task: Task, items: Sequence[int]) -> list[Any]:
    """Return what a model is asked for each item: requests and targets, as text.

    Raises EvaluationError for an item that cannot be asked or scored.
    """
    docs, shots = task.eval_docs, task.config.num_fewshot or 0
    found: list[Any] = []
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    for index in items:
        doc = docs[index]
        try:
            context = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
            made = task.construct_requests(doc=doc, ctx=context, metadata=(task.config.task, index, 1), apply_chat_template=False)
            requests = made if isinstance(made, list) else [made]
            target = task.doc_to_target(doc)
            choices = repr(task.doc_to_choice(doc)) if task.config.doc_to_choice is not None else ""  # their lengths normalise
            fault = askable.fault(task, doc, requests, target)
        except Exception as error:
            raise askable.unaskable(task, index, first_line(error)) from error
        if fault:
            raise askable.unaskable(task, index, fault)
        found.append([[repr(one.arguments) for one in requests], repr(target), choices])
    return found


def _own_code(task: Task) -> list[Any]:
    """Return the code of a task's functions that is not lm-eval's: their files.

    A function may call others of its file, and its file may import further ones, which are next to
    it or on Python's module search path. Installed packages are left out.

    Raises:
        EvaluationError: an imported file that has changed since this process imported it.
    """
    values = {key: value for key, value in task.config.to_dict(keep_callable=True).items() if key not in UNREAD}
    direct = [Path(inspect.getfile(one)) for one in (*_functions(values), type(task)) if hasattr(one, "__module__")]
    found: dict[Path, Any] = {}
    to_do = [(file, file.stem) for file in direct]
    while to_do:
        file, module = to_do.pop()
        if file in found or outside.is_installed(file) or file.suffix != ".py" or not file.is_file():
            continue
        source = file.read_bytes()
        if file not in direct and _imported_files.setdefault(file, source) != source:
            got = f"{file}, which changed after this process imported it"
            raise EvaluationError(explain(f"task {task.config.task}: code", got=got, fix="start Python again"))
        tree = syntax.parsed(source, f"task file {file.name}")
        found[file] = syntax.what_runs(tree)
        to_do += [
            (of, name) for name in outside.imported(tree, module, is_package=file.name == "__init__.py") for of in _files_of(name, file)
        ]
    return sorted(found.values(), key=str)


_imported_files: dict[Path, bytes] = {}
"""Files of code as this process first read them: Python does not import a file again."""


def _files_of(name: str, importer: Path) -> list[Path]:
    """Return the file of an imported module: next to the importing file, or as Python finds it."""
    if name.partition(".")[0] in {outside.OURS, *sys.stdlib_module_names}:
        return []
    beside = importer.parent.joinpath(*name.split("."))
    near = [file for file in (beside.with_name(f"{beside.name}.py"), beside / "__init__.py") if file.is_file()]
    far = outside.file_of(name)
    return near[:1] or ([far] if far else [])


def _functions(value: Any) -> list[Any]:
    """Return the functions inside a configuration value."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.values() if isinstance(value, Mapping) else value
        return [one for part in parts for one in _functions(part)]
    if isinstance(value, functools.partial):
        return _functions([value.func, *value.args, *value.keywords.values()])
    return [value] if inspect.isfunction(value) or inspect.isclass(value) else []


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
