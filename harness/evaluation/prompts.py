"""One item of a task as the model reads it, token by token, without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigError, EvaluationError, explain
from harness.core.sources import EvaluationBackend
from harness.data.tokens import rendered
from harness.evaluation import likelihood
from harness.evaluation.evaluator import PreparedSuite
from harness.evaluation.tasks import FEWSHOT_SEED

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase

Ids = list[int]


@dataclass(frozen=True)
class Read:
    """The tokens of one request: its prompt, and the answer that is scored.

    Attributes:
        prompt: token ids, cut at their beginning to fit the context; ``cut`` of them are left out.
        answer: token ids to be scored; empty if the model writes the answer.
        label: name of the answer.
    """

    prompt: Ids
    answer: Ids
    label: str
    cut: int = 0


def require_format(evaluation: EvaluationBackend, tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Check the chat template of prompt_format=chat.

    Raises ConfigError if there is none, DataError if it fails for a user's message.
    """
    if evaluation.prompt_format != "chat":
        return
    if not tokenizer.chat_template:
        got = f"chat, with {model}, whose tokenizer has no chat template"
        raise ConfigError(explain("evaluation.prompt_format", got=got, allowed="plain", fix="evaluation.prompt_format=plain"))
    rendered(tokenizer, [{"role": "user", "content": "a"}], add_generation_prompt=True)


def shown(
    prepared: PreparedSuite, evaluation: EvaluationBackend, tokenizer: PreTrainedTokenizerBase, max_length: int, number: int = 1
) -> dict[str, str]:
    """Return one item of each task as text, exactly as the evaluation sends it.

    That includes BOS, worked examples, chat template and cuts.

    Args:
        prepared: the suite.
        evaluation: the settings.
        tokenizer: the model's.
        max_length: of the model's context, in tokens.
        number: of the item among a task's chosen ones, from 1.

    Returns:
        Task, or data set → text.

    Raises:
        EvaluationError: if a task has fewer items.
    """
    for name, items in prepared.items.items():
        if not 1 <= number <= len(items):
            where = f"suite {prepared.suite.name}, task {name}: item"
            raise EvaluationError(explain(where, got=number, allowed=f"1 to {len(items)}"))
    encoder = _encoder(evaluation, tokenizer, max_length) if prepared.tasks else None
    return {name: _item(prepared, name, number, evaluation, tokenizer, max_length, encoder) for name in prepared.items}


def _item(
    prepared: PreparedSuite,
    name: str,
    number: int,
    evaluation: EvaluationBackend,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    encoder: Any,
) -> str:
    items = prepared.items[name]
    head = f"suite {prepared.suite.name}, task {name}: item {number} of {len(items)} (document {items[number - 1]})"
    try:
        if name in prepared.tasks:
            reads, notes = _asked(prepared.tasks[name], items[:number], evaluation, encoder)
        else:
            reads, notes = _scored(prepared, number, evaluation, tokenizer, max_length), []
    except Exception as error:  # noqa: BLE001 - the task will fail with the same error
        return f"{head}\n\ncannot be shown: {type(error).__name__}: {' '.join(str(error).split())}\n"
    return "\n".join([head, "", *_text(reads, tokenizer), *notes]) + "\n"


def _asked(task: Task, items: Sequence[int], evaluation: EvaluationBackend, encoder: Any) -> tuple[list[Read], list[str]]:
    """Return the requests of the last item, and notes.

    All items before it are built too, since its worked examples depend on them.
    """
    chat = evaluation.prompt_format == "chat"
    settings = {"apply_chat_template": chat, "chat_template": encoder.apply_chat_template if chat else None}
    layout = {"fewshot_as_multiturn": chat}
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    docs, shots = task.eval_docs, task.config.num_fewshot or 0
    for index in items:
        doc = docs[index]
        context = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc), **settings, **layout)
    requests = task.construct_requests(doc=doc, ctx=context, metadata=(task.config.task, 0, 1), **settings)
    requests = requests if isinstance(requests, list) else [requests]
    encoder.reads.clear()
    getattr(encoder, requests[0].request_type)(requests, disable_tqdm=True)
    several = task.OUTPUT_TYPE == "multiple_choice"
    reads = [Read(prompt, answer, f"choice {i}" if several else "answer", cut) for i, (prompt, answer, cut) in enumerate(encoder.reads)]
    notes = [f"settings: {requests[0].args[1]}"] if task.OUTPUT_TYPE == "generate_until" else []
    return reads, [*notes, f"right: {'choice ' if several else ''}{task.doc_to_target(doc)!r}"]


def _scored(
    prepared: PreparedSuite, number: int, evaluation: EvaluationBackend, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Read]:
    """Return the request of a row whose answer is scored.

    A sampled answer is unknown without a model.
    """
    suite, row = prepared.suite, prepared.rows[number - 1]
    (example,) = likelihood.encoded(suite.name, [row], tokenizer, evaluation.prompt_format, max_length)
    start = next(i for i, scored in enumerate(example.supervised) if scored and i)
    ids, sampled = list(example.input_ids), suite.text != "gold"
    label = f"answer, cut at the model's {max_length} tokens" if example.truncated else "answer"
    return [Read(ids[:start], [] if sampled else ids[start:], label)]


def _text(reads: Sequence[Read], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the lines of requests, with the prompt once if all share it."""
    shared = all(read.prompt == reads[0].prompt for read in reads)
    lines = _prompt(reads[0], tokenizer) if shared else []
    for read in reads:
        lines += [] if shared else _prompt(read, tokenizer)
        if read.answer:
            lines += [f"{read.label}, {_count(read.answer)}: {tokenizer.decode(read.answer)!r}", *_tokens(read.answer, tokenizer), ""]
    return lines


def _prompt(read: Read, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    cut = f", {read.cut} before them cut to fit the context" if read.cut else ""
    return [f"prompt, {_count(read.prompt)}{cut}:", str(tokenizer.decode(read.prompt)), *_tokens(read.prompt, tokenizer), ""]


def _count(ids: Ids) -> str:
    return f"{len(ids)} token{'' if len(ids) == 1 else 's'}"


def _tokens(ids: Ids, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(ids)]
    return [f"  ids: {' '.join(map(str, ids))}", f"  pieces: {' | '.join(pieces)}"]


def _encoder(evaluation: EvaluationBackend, tokenizer: PreTrainedTokenizerBase, max_length: int) -> LM:
    """Return lm-eval's model class without a model.

    It encodes and cuts as in an evaluation, and keeps the tokens that a model would read.
    """
    import logging

    import torch
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    class Encoder(HFLM):  # type: ignore[misc]
        reads: list[tuple[Ids, Ids, int]]

        def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, Ids, Ids]], *_: Any, **__: Any) -> list[tuple[float, bool]]:
            for _text, context, answer in requests:
                cut = max(0, len(context) + len(answer) - self.max_length - 1)  # the last token of an answer is not an input
                self.reads.append((list(context)[cut:], list(answer), cut))
            return [(0.0, False)] * len(requests)

        def tok_batch_encode(self, strings: list[str], *args: Any, **settings: Any) -> Any:
            self.whole = super().tok_batch_encode(strings)[0].shape[1]
            return super().tok_batch_encode(strings, *args, **settings)

        def _model_generate(self, context: Any, *_: Any, **__: Any) -> Any:
            self.reads.append((context[0].tolist(), [], self.whole - context.shape[1]))
            return context

    without_weights: Mapping[str, Any] = {"device": torch.device("cpu"), "config": SimpleNamespace(model_type="")}
    arguments = evaluation.arguments(SimpleNamespace(**without_weights), tokenizer, max_length, "float32")  # type: ignore[arg-type]
    encoder = Encoder(backend="causal", batch_size=1, **arguments)
    encoder.reads = []
    return encoder
