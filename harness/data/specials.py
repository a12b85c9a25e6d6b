"""Special tokens that a tokenizer adds to a text by itself, and tokens beyond a model's rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from harness.core.errors import ModelError, explain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = ("a", "the", "1")
"""Texts that show what is added: the first that the vocabulary can spell."""


def added(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer adds before and after a text by itself."""
    for text in PROBES:
        plain = cast("list[int]", tokenizer.encode(text, add_special_tokens=False))
        whole = cast("list[int]", tokenizer.encode(text, add_special_tokens=True))
        for start in range(len(whole) - len(plain) + 1 if plain else 0):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
    return [], []


def without_appended(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer that appends nothing to a text: the same one, or a changed copy.

    Scores need it: after an appended EOS, the first token of an answer is not what follows the
    prompt, and lm-eval takes the EOS itself for the answer.

    Raises:
        ModelError: for a tokenizer that appends tokens in a way that cannot be turned off.
    """
    before, after = added(tokenizer)
    if not after:
        return tokenizer
    made: Any = copy.deepcopy(tokenizer)
    backend = getattr(made, "backend_tokenizer", None)
    if backend is None:
        made.build_inputs_with_special_tokens = lambda ids, other=None: [*before, *ids, *(other or [])]
    else:
        from tokenizers.processors import TemplateProcessing

        names = made.convert_ids_to_tokens(before)
        specials = list(dict.fromkeys(zip(names, before, strict=True)))
        backend.post_processor = TemplateProcessing(single=[*names, "$A"], pair=[*names, "$A", "$B"], special_tokens=specials)
    if added(made) != (before, []):
        got = f"one that appends {' '.join(map(str, tokenizer.convert_ids_to_tokens(after)))} to every text"
        fix = "set add_eos_token to false in its tokenizer_config.json, or edit post_processor in its tokenizer.json"
        raise ModelError(explain("tokenizer", got=got, allowed="one that appends nothing, for scoring", fix=fix))
    return cast("PreTrainedTokenizerBase", made)


def beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, int]:
    """Return the tokens of a tokenizer that a model with ``rows`` embedding rows lacks."""
    return {str(token): int(number) for token, number in tokenizer.get_added_vocab().items() if int(number) >= rows}


def in_text(text: str, tokenizer: PreTrainedTokenizerBase, strays: Mapping[str, int]) -> str | None:
    """Return the first of ``strays`` that a text is encoded to; None if there is none."""
    if not any(name in text for name in strays):
        return None
    ids = set(cast("list[int]", tokenizer.encode(text, add_special_tokens=False)))
    return next((name for name, number in strays.items() if number in ids), None)


def in_template(tokenizer: PreTrainedTokenizerBase, strays: Mapping[str, int]) -> str | None:
    """Return the first of ``strays`` that the chat template writes; None if there is none."""
    from jinja2 import TemplateError

    from harness.core.sandbox import FAILING, INVALID

    turns = [{"role": role, "content": "a"} for role in ("system", "user", "assistant", "user")]
    for messages in (turns, turns[1:]):  # some templates reject a system turn
        try:
            text = cast(str, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (TemplateError, *FAILING, *INVALID):
            continue
        if found := in_text(text, tokenizer, strays):
            return found
    return None
