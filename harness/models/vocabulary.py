"""Tokenizers of models: read, checked against the rows of an embedding, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.core.errors import ModelError, explain
from harness.models.quiet import failures, quiet
from harness.models.weights import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "The quick, brown  fox: 17 + 4 = 21!\nÉcole, 日本 <|x|>"
"""A text that shows how a tokenizer splits, and which tokens it adds."""


def read_tokenizer(name: str, folder: Path, *, trust: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder.

    Raises ModelError with the model's ``name``.
    """
    with quiet():
        from transformers import AutoTokenizer

        _limit_templates()
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        except failures() as error:
            allowed = "files that transformers can read"
            raise ModelError(explain(f"model {name}: tokenizer", got=first_line(error), allowed=allowed)) from error
    return cast("PreTrainedTokenizerBase", tokenizer)


def read_template(name: str, file: Path) -> str:
    """Return a chat template. Raises ModelError with the model's ``name``."""
    _limit_templates()
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(explain(f"model {name}: {file.name}", got=first_line(error), allowed="a template in UTF-8")) from error


def _limit_templates() -> None:
    """Let transformers compile chat templates with a budget."""
    from transformers.utils import chat_template_utils

    from harness.core.sandbox import LimitedEnvironment

    library: Any = chat_template_utils
    library.ImmutableSandboxedEnvironment = LimitedEnvironment


def require_rows(name: str, tokenizer: PreTrainedTokenizerBase, rows: int, fix: str = "use the model's own tokenizer") -> None:
    """Raise ModelError for token ids beyond the rows of the embedding.

    Unused added tokens may be beyond them (an image token in a text model), tokens of any text may
    not.
    """
    used = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    highest = max(tokenizer.vocab_size - 1, *(int(token) for token in used if isinstance(token, int)), 0)
    if highest >= rows:
        got, allowed = f"a tokenizer with token {highest}", f"at most {rows - 1}: the model has {rows} rows"
        raise ModelError(explain(f"model {name}", got=got, allowed=allowed, fix=fix))


def differences(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """Return the parts in which two tokenizers differ: tokenizer, chat template."""
    parts = {"tokenizer": (_words(one), _words(other)), "chat template": (one.chat_template, other.chat_template)}
    return [part for part, (first, second) in parts.items() if first != second]


def _words(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return tokenizer.get_vocab(), special, tokenizer(PROBE)["input_ids"]
