"""Rows to tokens, with a mask of those that have a loss.

text        [BOS] text EOS, all supervised.
completion  plain: [BOS] prompt completion EOS, supervised from the completion on, with EOS.
            chat: a user and an assistant message, stripped.
chat        the tokenizer's chat template; the assistant's words and end-of-turn are supervised,
            but not those of answers that are not ``taught`` or are part of the prompt.
preference  two completions of one prompt: the better one, and ``Example.rejected``, the worse one.

BOS is there exactly once if the tokenizer adds one by itself or the chat template writes one, else
not at all. EOS is the tokenizer's ``eos_token``. A row longer than ``max_length`` is cut at its
end, and marked ``truncated``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from harness.core.errors import ConfigError, DataError, explain
from harness.core.rows import Example, Origin, PromptFormat, Row, RowKind, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = tuple[list[int], list[bool]]
"""Ids, and whether each has a loss."""


@dataclass(frozen=True)
class Supervision:
    """Totals of a set of examples: ``supervised_tokens`` of ``tokens`` have a loss."""

    rows: int
    tokens: int
    supervised_tokens: int
    truncated_rows: int
    rows_without_supervision: int


def encode(row: Row, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, max_length: int, origin: Origin) -> Example:
    """Turn one row into tokens with its mask.

    Args:
        row: of any kind.
        tokenizer: the model's.
        prompt_format: ``plain`` joins prompt and completion as they are; ``chat`` uses the chat
            template. Text rows ignore it.
        max_length: in tokens; a longer row is cut at the end.
        origin: target or anchor, kept with the example.

    Raises:
        DataError: for a conversation under ``plain``, or one that the chat template cannot render
            turn by turn.
        ConfigError: for ``chat`` with a tokenizer that has no chat template.
    """
    if row.kind == "preference":
        return _preference(row, tokenizer, prompt_format, max_length, origin)
    if row.kind == "text":
        ids, supervised = _text(row, tokenizer)
    elif prompt_format == "chat":
        ids, supervised = _chat(row, tokenizer)
    elif row.kind == "completion":
        ids, supervised = _completion(row, tokenizer)
    else:
        fix = "objective.prompt_format=chat, and a model with a chat template, such as model=smollm2-135m-instruct"
        raise DataError(explain("prompt format 'plain'", got="a conversation", allowed="text or prompt and completion", fix=fix))
    return Example(tuple(ids[:max_length]), tuple(supervised[:max_length]), origin, row.id, truncated=len(ids) > max_length)


@dataclass(frozen=True)
class TextSpan:
    """The scored text of an example: its tokens, without EOS, and UTF-8 bytes."""

    spells: tuple[bool, ...]
    bytes: int


def written(row: Row, tokenizer: PreTrainedTokenizerBase, example: Example) -> TextSpan:
    """Return the text that the supervised tokens of a plain example spell.

    It begins at the end of the last unscored token and ends where the example does.

    Args:
        row: text, or prompt and completion.
        tokenizer: the model's; a fast one, which gives the offsets of its tokens.
        example: that row, from ``encode`` with ``plain``.

    Raises:
        DataError: for a tokenizer that gives no offsets.
    """
    if not tokenizer.is_fast:
        got = f"{type(tokenizer).__name__}, which gives no offsets of tokens"
        raise DataError(explain("bytes of a text", got=got, allowed="a fast tokenizer (tokenizer.json)"))
    text = "\n\n".join(turn.content for turn in row.turns[:-1]) + row.turns[-1].content
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = cast("list[tuple[int, int]]", encoding["offset_mapping"])
    shift = len(_bos(tokenizer, cast("list[int]", encoding["input_ids"])))
    first = next((i for i, taught in enumerate(example.supervised) if taught and i), len(example.supervised))
    last = min(len(example.supervised), shift + len(offsets))  # exclusive
    start = offsets[first - shift - 1][1] if 0 < first - shift <= len(offsets) else 0
    end = len(text) if last == shift + len(offsets) else offsets[last - shift - 1][1]
    spells = tuple(first <= i < last for i in range(len(example.supervised)))
    return TextSpan(spells, len(text[start:end].encode()) if any(spells) else 0)


def supervision(examples: Sequence[Example]) -> Supervision:
    """Return the totals of examples.

    Raises DataError if none has a supervised token: a run would learn nothing.
    """
    found = Supervision(
        rows=len(examples),
        tokens=sum(example.tokens for example in examples),
        supervised_tokens=sum(example.supervised_tokens for example in examples),
        truncated_rows=sum(example.truncated for example in examples),
        rows_without_supervision=sum(example.supervised_tokens == 0 for example in examples),
    )
    if not found.supervised_tokens:
        got = f"no supervised token in {found.rows} rows ({found.truncated_rows} of them cut at training.max_length)"
        raise DataError(explain("data", got=got, allowed="at least one", fix="a larger training.max_length, or data with answers"))
    return found


def _bos(tokenizer: PreTrainedTokenizerBase, begins_with: Sequence[int]) -> list[int]:
    """Return the BOS id if the tokenizer adds one and the text lacks it."""
    bos = cast("int | None", tokenizer.bos_token_id)
    if bos is None or list(begins_with[:1]) == [bos]:
        return []
    return [bos] if tokenizer.encode("a", add_special_tokens=True)[:1] == [bos] else []


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        fix = "set eos_token in its tokenizer_config.json"
        raise DataError(explain("tokenizer", got="no EOS token", allowed="one that marks the end of a text", fix=fix))
    return cast(int, tokenizer.eos_token_id)


def _preference(row: Row, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, max_length: int, origin: Origin) -> Example:
    """Encode both answers as completions of the same prompt.

    The pair is truncated if either is.
    """
    *prompt, better, worse = row.turns
    kind: RowKind = "chat" if row.prompt_turns else "completion"
    one, other = (
        encode(
            Row((*prompt, Turn("assistant", turn.content)), kind, prompt_turns=row.prompt_turns),
            tokenizer,
            prompt_format,
            max_length,
            origin,
        )
        for turn in (better, worse)
    )
    return dataclasses.replace(one, row_id=row.id, truncated=one.truncated or other.truncated, rejected=other)


def prompt_of(example: Example) -> tuple[int, ...]:
    """Return the tokens before the first supervised one, for a model to continue.

    All tokens if none is supervised.
    """
    return example.input_ids[: next((place for place, taught in enumerate(example.supervised) if taught), len(example.input_ids))]


def _text(row: Row, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    text = row.turns[0].content
    ids = list(_last_document(text, tokenizer)[slice(*row.part)] if row.part else _document(text, tokenizer))
    return ids, [True] * len(ids)


def _document(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return a whole text as tokens."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return (*_bos(tokenizer, ids), *ids, _eos(tokenizer))


_last_document = functools.lru_cache(maxsize=1)(_document)
"""The same for the pieces of a long document, which are encoded one after the other."""


def _completion(row: Row, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Encode prompt and completion as one text, as lm-eval encodes context and continuation.

    Trailing white space of the prompt belongs to the completion, and the completion is everything
    after the prompt's own encoding. Where a tokenizer merges across the border (the completion
    begins without a space), the merged token is supervised and no text is lost.
    """
    *system, prompt, completion = [turn.content for turn in row.turns]
    whole_prompt = "\n\n".join([*system, prompt])
    context = whole_prompt.rstrip()
    prefix = tokenizer.encode(context, add_special_tokens=False)
    ids = tokenizer.encode(whole_prompt + completion, add_special_tokens=False)
    border = next((i for i, (a, b) in enumerate(zip(prefix, ids, strict=False)) if a != b), min(len(prefix), len(ids)))
    bos = _bos(tokenizer, ids)
    ids = [*bos, *ids, _eos(tokenizer)]
    return ids, [index >= border + len(bos) for index in range(len(ids))]


def _chat(row: Row, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Encode a conversation under the chat template; supervise the assistant's turns.

    An assistant turn is the text between two shorter renderings, mapped to tokens by offsets.
    """
    if tokenizer.chat_template is None:
        fix = "prompt_format=plain, or a model with a chat template"
        raise ConfigError(explain("prompt_format", got="chat, with a tokenizer that has no chat template", allowed="plain", fix=fix))
    messages = [{"role": turn.role, "content": turn.content.strip() if row.kind == "completion" else turn.content} for turn in row.turns]
    text = rendered(tokenizer, messages)
    taught = [i for i, turn in enumerate(row.turns) if turn.role == "assistant" and turn.taught and i >= row.prompt_turns]
    spans = [_assistant_span(tokenizer, messages, i, text) for i in taught]
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = cast("list[int]", encoding["input_ids"]), cast("list[tuple[int, int]]", encoding["offset_mapping"])
    # By overlap: byte-level tokenizers trim the offsets of white space, at the border of a span
    # some to nothing.
    supervised = [any(end > low and start < high for low, high in spans) for start, end in offsets]
    bos = _bos(tokenizer, ids)
    return [*bos, *ids], [*[False] * len(bos), *supervised]


def _assistant_span(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], index: int, text: str) -> tuple[int, int]:
    """Return start and end of an assistant turn in the rendered text.

    It starts after the generation prompt and ends after the end-of-turn token, without the white
    space that the template writes behind that: the model stops before it.
    """
    before = rendered(tokenizer, messages[:index], add_generation_prompt=True)
    upto = rendered(tokenizer, messages[: index + 1])
    if not (text.startswith(upto) and upto.startswith(before)):
        got = f"one that renders turn {index} differently when others follow"
        fix = "conversations of one answer, another chat template, or prompt_format=plain"
        raise DataError(explain("chat template", got=got, allowed="one that only appends", fix=fix))
    turn = upto[len(before) :].rstrip()
    if turn.endswith(messages[index]["content"].strip()):
        got = "one that writes nothing after an assistant's turn"
        raise DataError(explain("chat template", got=got, allowed="one with an end-of-turn token", fix="another chat template"))
    return len(before), len(before) + len(turn)


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], **options: Any) -> str:
    """Return messages as text. Raises DataError where the template fails."""
    from jinja2 import TemplateError

    from harness.core.sandbox import FAILING, INVALID, reason

    try:
        return cast(str, tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except (TemplateError, *FAILING, *INVALID) as error:
        got = f"'{reason(error)}' for roles {', '.join(message['role'] for message in messages)}"
        raise DataError(explain("chat template", got=got, allowed="a conversation it can render")) from error
