"""An author with scripted answers, for tests of methods that generate rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from harness.core.contexts import Sampling, WritingContext
from harness.core.progress import Silent
from harness.core.rows import Example, PromptFormat, Row, Turn
from harness.methods.rewriting import question
from harness.models.author import restated

END = 0
CUT = "…"
"""At the end of a text: it was cut at its limit, no end of text was written."""


class Words:
    """A tokenizer that numbers words as they occur; 0 ends a text, 1 begins one."""

    bos_token_id, eos_token_id = 1, END

    def __init__(self) -> None:
        self.words = ["<end>", "<begin>"]

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[number] for number in ids)


def of_bytes() -> PreTrainedTokenizerBase:
    """One token a byte, white space included, after the four special ones of ``tiny``."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({token: i for i, token in enumerate([*special, *letters])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = dict(zip(["pad_token", "bos_token", "eos_token", "unk_token"], special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)


class Scripted:
    """An author that writes scripted texts to each prompt, in order.

    Attributes:
        asked: (prompt, key, sampling), in order.
    """

    context_length = None

    def __init__(self, script: Mapping[str, Sequence[str]], tokenizer: Any = None) -> None:
        self.script = {prompt: list(texts) for prompt, texts in script.items()}
        self.tokenizer: Any = tokenizer or Words()
        self.asked: list[tuple[str, str, Sampling]] = []

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        found = []
        for prompt, key in zip(prompts, keys, strict=True):
            asked = self.tokenizer.decode(prompt)
            self.asked.append((asked, key, sampling))
            text = self.script[asked].pop(0)
            ids = self.tokenizer.encode(text.removesuffix(CUT), add_special_tokens=False)
            found.append((*ids, *([] if text.endswith(CUT) else [END])))
        return found

    def nats(self, examples: Sequence[Example]) -> list[float]:
        raise NotImplementedError

    def prompt(self, row: Row) -> tuple[int, ...]:
        return self.text_prompt(question(row))

    def text_prompt(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def spoken(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode([number for number in ids if number != END])).strip()

    def ended(self, ids: Sequence[int]) -> bool:
        return list(ids[-1:]) == [END]


def context(
    own: Scripted, others: Mapping[str, Scripted] | None = None, seed: int = 0, prompt_format: PromptFormat = "plain"
) -> WritingContext:
    """A context of authors that share one tokenizer; a prompt is its words."""
    return WritingContext(
        own=own,
        other=lambda name: (others or {})[name],
        restated=restated,
        prompt_format=prompt_format,
        anchor=(),
        seed=seed,
        progress=Silent(),
    )


def row(prompt: str, answer: str) -> Row:
    """A completion row in plain form."""
    return Row((Turn("user", prompt), Turn("assistant", f" {answer}")), "completion")
