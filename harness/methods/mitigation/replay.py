"""Experience replay: rows that represent the past, mixed into the target rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Literal

from harness.config.strict import LATER, check
from harness.core.errors import DataError, explain
from harness.core.methods import Mitigation, Objective
from harness.core.rows import Example, anchor_share
from harness.core.sources import Source
from harness.core.tuning import Tuning

FRACTION = 0.1
"""Default of ``Replay.fraction``."""

ALLOWED = {"additive": "0 or greater", "compute_equivalent": "from 0 to below 1 (1 leaves no target rows)"}
LARGEST = {"additive": math.inf, "compute_equivalent": math.nextafter(1.0, 0.0)}

ROUNDING = 1e-9
"""Of a sum of shares, by step."""


@dataclass(frozen=True, kw_only=True)
class Replay(Mitigation):
    """Mix anchor rows into the target rows.

    Each anchor row is drawn once, in permutation order; none is repeated.

    With f = ``fraction``:

    - ``additive``: added to the plain run. After its first k target rows, floor(f·k) anchor rows
      have been added, each in the step where it is due. Costs f more rows; f may exceed 1.
    - ``compute_equivalent``: the same tokens as the plain run. Target and anchor rows are two
      queues in permutation order. A step takes rows until the tokens so far reach those of the
      plain run at the same step, so the two differ by less than one row. The next row is the
      anchor's if anchor tokens, it included, remain within f of all tokens, it included; else the
      target's. So anchor tokens are at most f of all, short of it by less than a row, and the
      target rows are the plain run's first ones: its last rows, about f of the tokens, are left
      out. ``volume`` still counts the plain run's rows.

    With ``loss_share`` in place of ``fraction``, anchor rows are added to the plain run by their
    weight in the loss: a step's loss is a mean over supervised tokens, so long anchor answers weigh
    more than short target answers (a fraction of 0.1 can be a third of the loss). After the target
    rows of a step, the next anchor row is taken as long as the weight of the anchor (its share of
    the step's supervised tokens, mean over all steps so far) is below ``loss_share``. So after each
    step the weight is at least ``loss_share``, and above it by at most what one row adds.

    A step's rows never depend on later steps, so smaller volumes are prefixes of larger ones.

    Reference: Ibrahim et al. 2024, arXiv 2403.08763, whose compute-equivalent replay takes a share
    of each batch from the old data and as much less of the new. Differs from the paper: exchanges
    rows instead of tokens, and evenly over the steps rather than in every batch. Checked against:
    counts by hand.

    Attributes:
        fraction: additive: anchor rows per target row. compute_equivalent: anchor tokens per token,
            0 to below 1. null is 0.1, or nothing where ``loss_share`` is set.
        mode: see above.
        loss_share: weight of the anchor in the loss, 0.001 to below 1; null uses ``fraction``.
    """

    strength: ClassVar[str] = "fraction"

    fraction: float | None = None
    mode: Literal["additive", "compute_equivalent"] = "additive"
    loss_share: float | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.loss_share is None:
            if self.fraction is None:
                object.__setattr__(self, "fraction", FRACTION)
            check("mitigation.fraction", self.fraction, ALLOWED[self.mode], lambda value: 0 <= value <= LARGEST[self.mode])
            return
        fix = "mitigation.fraction=0 for no replay"
        check("mitigation.loss_share", self.loss_share, "from 0.001 to below 1", lambda value: 0.001 <= value < 1, fix)
        allowed, fix = "null with mitigation.loss_share: one of them sets the number of anchor rows", "remove one of the two"
        check("mitigation.fraction", self.fraction, allowed, lambda value: value is None, fix)
        allowed = "additive with mitigation.loss_share"
        check("mitigation.mode", self.mode, allowed, lambda value: value == "additive")

    @property
    def needs_anchor(self) -> bool:
        """Whether any anchor row is drawn."""
        return self.loss_share is not None or self._fraction > 0

    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Reject objectives that learn no tokens, and exchanged rows in a sequence of stages.

        There, later stages would learn rows of earlier ones.
        """
        if objective.learns != "tokens":  # anchor rows are neither pairs nor prompts to be rewarded
            return f"an objective that learns {objective.learns}, which anchor rows are not"
        is_exchanged = self.needs_anchor and self.mode == "compute_equivalent"
        if is_exchanged and data.stage_ends:
            return "mode=compute_equivalent, which leaves out the last rows, with a sequence of stages; mode=additive is compatible"
        return ""

    def anchor_rows(self, target_rows: int) -> int:
        """Return the number of anchor rows that a number of target rows draws.

        Exact for a ``fraction`` in mode ``additive``. Elsewhere it assumes rows of equal length:
        the number depends on their tokens, which only ``mix`` knows.
        """
        if self.loss_share is not None:
            return math.floor(self.loss_share / (1 - self.loss_share) * target_rows)
        return math.floor(self._fraction * target_rows)

    def least_anchor_rows(self, target_rows: int) -> int:
        """Return ``anchor_rows`` where it is exact, else 1 if any is drawn."""
        is_exact = self.mode == "additive" and self.loss_share is None
        return self.anchor_rows(target_rows) if is_exact else int(self.needs_anchor)

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        """Return the rows of every step; see the class for the rule.

        Raises:
            DataError: if the anchor has too few rows, or a row is so long that a later step would
                be empty.
        """
        if self.loss_share is not None:
            return _weigh(steps, anchor, self.loss_share)
        return self._add(steps, anchor) if self.mode == "additive" else self._exchange(steps, anchor)

    @property
    def _fraction(self) -> Fraction:
        """The fraction as a decimal: 0.57 is 57/100, so that floor(0.57 · 100) is 57."""
        return Fraction(str(self.fraction))

    def _add(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        mixed, seen, drawn = [], 0, 0
        for step in steps:
            seen += len(step)
            due = self.anchor_rows(seen)
            if due > len(anchor):
                raise _too_few(len(anchor), at_least=self.anchor_rows(sum(map(len, steps))))
            mixed.append([*step, *anchor[drawn:due]])
            drawn = due
        return mixed

    def _exchange(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        targets = (example for step in steps for example in step)
        shortest = min(map(_length, anchor), default=1)
        mixed: list[list[Example]] = []
        plain_tokens = tokens = anchor_tokens = drawn = 0
        for step in steps:
            plain_tokens += sum(map(_length, step))
            rows: list[Example] = []
            while tokens < plain_tokens:
                size = _length(anchor[drawn]) if drawn < len(anchor) else shortest
                if anchor_tokens + size <= self._fraction * (tokens + size):
                    if drawn == len(anchor):
                        raise _too_few(len(anchor), at_least=drawn + 1)
                    rows.append(anchor[drawn])
                    drawn, anchor_tokens = drawn + 1, anchor_tokens + size
                else:
                    rows.append(next(targets))
                tokens += _length(rows[-1])
            if not rows:
                raise _left_empty(len(mixed) + 1, mixed[-1][-1])
            mixed.append(rows)
        return mixed


def _weigh(steps: Sequence[Sequence[Example]], anchor: Sequence[Example], loss_share: float) -> list[list[Example]]:
    """Return the rows of every step, the anchor's by their weight in the loss; see ``Replay``."""
    mixed: list[list[Example]] = []
    drawn, before = 0, 0.0  # sum of the weights of earlier steps
    for step in steps:
        rows = list(step)
        while before + (anchor_share(rows) or 0.0) < loss_share * (len(mixed) + 1) - ROUNDING:
            if drawn == len(anchor):
                raise _too_few(len(anchor), at_least=drawn + 1)
            rows.append(anchor[drawn])
            drawn += 1
        before += anchor_share(rows) or 0.0
        mixed.append(rows)
    return mixed


def _length(example: Example) -> int:
    return len(example.input_ids)


def _too_few(rows: int, *, at_least: int) -> DataError:
    fix = "a larger anchor, or a smaller volume, mitigation.fraction or mitigation.loss_share; rows are not repeated"
    return DataError(explain("anchor", got=f"{rows} rows", allowed=f"at least {at_least}", fix=fix))


def _left_empty(step: int, row: Example) -> DataError:
    got = f"a row of {_length(row)} tokens ({row.origin}), more than a whole step of the plain run: step {step} would be empty"
    fix = "a larger training.batch_rows, a smaller training.max_length, or mitigation.mode=additive"
    return DataError(explain("mitigation.mode=compute_equivalent", got=got, allowed="rows shorter than a step", fix=fix))
