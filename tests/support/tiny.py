"""The tiny models of the contract, and what only tests add to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from harness.core.progress import Interrupted, Silent
from harness.core.rows import Example, Origin
from harness.methods.contract.tiny import BOS as BOS
from harness.methods.contract.tiny import EOS as EOS
from harness.methods.contract.tiny import MAX_LENGTH as MAX_LENGTH
from harness.methods.contract.tiny import MODELS as MODELS
from harness.methods.contract.tiny import PAD as PAD
from harness.methods.contract.tiny import SPECIAL as SPECIAL
from harness.methods.contract.tiny import VOCABULARY as VOCABULARY
from harness.methods.contract.tiny import WORDS as WORDS
from harness.methods.contract.tiny import copied as copied
from harness.methods.contract.tiny import gpt_neox as gpt_neox
from harness.methods.contract.tiny import learning as learning
from harness.methods.contract.tiny import llama as llama
from harness.methods.contract.tiny import resolved as resolved
from harness.methods.contract.tiny import rows as rows
from harness.methods.contract.tiny import run as run
from harness.methods.contract.tiny import same as same
from harness.methods.contract.tiny import seeded as seeded
from harness.methods.contract.tiny import tokenizer as tokenizer
from harness.training.job import Stop

torch.set_num_threads(1)  # on matrices this small, a second thread only waits


def example(*ids: int, supervised: Sequence[int] | None = None, origin: Origin = "target") -> Example:
    """An example whose supervised positions are given; None is all of them."""
    taught = range(len(ids)) if supervised is None else supervised
    return Example(ids, tuple(position in taught for position in range(len(ids))), origin, row_id="-".join(map(str, ids)))


def but_for_time(stops: Sequence[Stop]) -> list[Stop]:
    """Stops without what differs from run to run: the seconds they took."""
    return [dataclasses.replace(stop, counts=dataclasses.replace(stop.counts, seconds=0.0)) for stop in stops]


class Until(Silent):
    """Interrupts training at its n-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, units: int = 1) -> None:
        self.left -= units
        if self.left == 0:
            raise Interrupted
