"""Tokenizers that append EOS to every text, in every way that libraries know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers as hf
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from tests.support import families, tiny


def ending(processor: Any) -> Any:
    """The tiny tokenizer with another post-processor."""
    made: Any = families.with_bos()
    made._tokenizer.post_processor = processor
    return made


ENDS = [("<bos>", tiny.BOS), ("<eos>", tiny.EOS)]

APPENDING: Mapping[str, Callable[[], PreTrainedTokenizerBase]] = {
    "template": lambda: ending(processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ENDS)),
    "no BOS": lambda: ending(processors.TemplateProcessing(single="$A <eos>", special_tokens=ENDS[1:])),
    "sequence": lambda: ending(
        processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(single="<bos> $A <eos> <eos>", special_tokens=ENDS)])
    ),
    "bert": lambda: ending(processors.BertProcessing(("<eos>", tiny.EOS), ("<bos>", tiny.BOS))),
    "in Python": hf.ByT5Tokenizer,
}
