"""Shares of old data in the loss: gain and losses of each, and the smallest that is enough.

Each share is judged by its own intervals, at its largest volume: it is enough where the interval of
every judged probe ends below the margin (a gain is no loss), too little where one begins above it,
else not settled. The answer tests shares from the largest down and stops at the first that is not
enough, so that its chance of a wrong "enough" is that of one interval, however many shares are run.

Source: a-priori ordered hypotheses, Maurer, Hothorn and Lehmacher 1995.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from harness.analysis.findings.frontier import first_target, headline, oriented
from harness.analysis.table.columns import SUITE_TASK
from harness.records.schema import OWN_METRICS

State = Literal["enough", "too little", "not settled", "not measured"]
Answer = Literal["found", "none", "not settled"]

ALIKE = ["model", "tuning", "objective", "data", "trajectory", "epochs", "learning_rate", "variant", "dtype"]
"""Labels that are equal where only the share differs."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The gain or the loss on a suite, in its metric's unit.

    Attributes:
        value: a positive gain is better, a positive loss is worse; None if not measured.
        low, high: its interval, at the level of the findings; None without one.
        before: the metric's value before training.
        margin: a loss up to it is negligible.
    """

    suite: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    before: float | None
    margin: float | None

    @property
    def state(self) -> State:
        """State of the loss, by its interval and margin."""
        if self.low is None or self.high is None or self.margin is None:
            return "not measured" if self.value is None else "not settled"
        return "enough" if self.high <= self.margin else "too little" if self.low > self.margin else "not settled"


@dataclass(frozen=True, kw_only=True)
class Share:
    """One share of old data, and what it brought.

    Attributes:
        cell: its cell in the findings.
        asked: the share asked for, in 0..1; None where rows were asked for (``fraction``).
        reached: weight of anchor rows in the training loss, mean over steps and seeds.
        volume: target rows.
        seeds: number of seeds.
        gain: on the first target suite; None without one.
        losses: on the judged probe suites.
        others: losses on the other probe suites.
        tokens: of training, anchor rows included, mean over seeds.
        seconds: of training, without evaluation, mean over seeds.
    """

    cell: str
    asked: float | None
    reached: float
    volume: int
    seeds: int
    gain: Change | None
    losses: tuple[Change, ...]
    others: tuple[Change, ...]
    tokens: float | None
    seconds: float | None

    @property
    def state(self) -> State:
        """The worst of its losses: too little, not measured, not settled, enough."""
        found = {loss.state for loss in self.losses} or {"not measured"}
        order: tuple[State, ...] = ("too little", "not measured", "not settled", "enough")
        return next(state for state in order if state in found)


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Shares of one model and training that differ in nothing else, ascending."""

    shares: tuple[Share, ...]

    @property
    def enough(self) -> Share | None:
        """The smallest share that is enough, as all larger ones are; None if the largest is not."""
        series = list(itertools.takewhile(lambda share: share.state == "enough", reversed(self.shares)))
        return series[-1] if series else None

    @property
    def answer(self) -> Answer:
        """Whether a share is enough, or none is, or that is not settled."""
        if self.enough:
            return "found"
        return "none" if all(share.state == "too little" for share in self.shares) else "not settled"

    @property
    def plain(self) -> Share | None:
        """The share 0; None without one."""
        return self.shares[0] if self.shares and self.shares[0].reached == 0 else None


def mixings(findings: pd.DataFrame, targets: Sequence[str] = ()) -> list[Mixing]:
    """Return the cells that differ only in the share of replayed rows, controls left out.

    Args:
        findings: as returned by ``harness.analysis.findings.findings.findings``.
        targets: target suites in the order of the experiment (``first_target``).

    Returns:
        One for each model and training with no mitigation and at least one share of replay.
    """
    if findings.empty:
        return []
    whole = findings[(findings["task"] == SUITE_TASK) & ~findings["is_control"].fillna(value=False)]
    kind = whole["mitigation"].fillna("none").str.partition("[")[0]
    whole = whole[kind.isin(["none", "replay"]) & whole["anchor_loss_share"].notna()]
    whole = whole[whole["volume"] == whole.groupby("cell")["volume"].transform("max")]
    target, declared = first_target(findings, targets), headline(findings)
    found = []
    for _, group in whole.groupby(ALIKE, dropna=False, sort=False):
        shares = [_share(str(cell), rows, target, declared) for cell, rows in group.groupby("cell", sort=False)]
        shares.sort(key=lambda share: (share.reached, share.asked or 0.0))
        if len(shares) > 1 and shares[0].reached == 0:
            found.append(Mixing(shares=tuple(shares)))
    return found


def _share(cell: str, rows: pd.DataFrame, target: str | None, declared: str | None) -> Share:
    first = rows.iloc[0]
    asked = re.search(r"loss_share=([0-9.e-]+)", str(first["mitigation"]))
    probes = rows[(rows["role"] == "probe") & ~rows["metric"].isin(list(OWN_METRICS["divergence"]))]
    is_judged = probes["suite"].eq(declared) if declared else pd.Series(data=True, index=probes.index)
    gains = _changes(rows[(rows["role"] == "target") & (rows["suite"] == target)], better=True)
    is_plain = str(first["mitigation"]).partition("[")[0] != "replay"
    return Share(
        cell=cell,
        asked=0.0 if is_plain else float(asked[1]) if asked else None,
        reached=float(first["anchor_loss_share"]),
        volume=int(first["volume"]),
        seeds=int(rows["seeds"].max()),
        gain=gains[0] if gains else None,
        losses=_changes(probes[is_judged], better=False),
        others=_changes(probes[~is_judged], better=False),
        tokens=_number(first["train_tokens"]),
        seconds=_number(first["wall_seconds"]),
    )


def _changes(rows: pd.DataFrame, *, better: bool) -> tuple[Change, ...]:
    """Return the change of each suite, positive where it is better, or where it is worse."""
    turned: Sequence[tuple[object, ...]] = list(oriented(rows, "x", better=better).itertuples(index=False, name=None))
    return tuple(
        Change(
            suite=str(row["suite"]),
            metric=str(row["metric"]),
            value=_number(value),
            low=_number(low),
            high=_number(high),
            before=_number(row["before"]),
            margin=_number(row["margin"]),
        )
        for (_, row), (value, low, high) in zip(rows.iterrows(), turned, strict=True)
    )


def _number(value: object) -> float | None:
    return None if value is None or pd.isna(value) else float(value)  # type: ignore[call-overload, arg-type]
