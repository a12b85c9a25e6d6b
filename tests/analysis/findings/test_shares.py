"""The smallest share of old data that is enough."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.analysis.findings.finding_columns import COLUMNS
from harness.analysis.findings.shares import Change, Mixing, Share, State, mixings


def loss(low: float | None, high: float | None, margin: float = 0.02) -> Change:
    value = None if low is None or high is None else (low + high) / 2
    return Change(suite="old", metric="nats_per_token", value=value, low=low, high=high, before=2.0, margin=margin)


def share(reached: float, *losses: Change) -> Share:
    return Share(
        cell=str(reached), asked=reached, reached=reached, volume=64, seeds=3, gain=None, losses=losses, others=(), tokens=1.0, seconds=1.0
    )


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (-0.01, 0.019, "enough"),
        (-0.5, -0.3, "enough"),  # a gain is no loss
        (-0.01, 0.03, "not settled"),
        (0.021, 0.03, "too little"),
        (None, None, "not measured"),
    ],
)
def test_a_loss_against_its_margin(low: float | None, high: float | None, state: State) -> None:
    """By its interval alone."""
    assert loss(low, high).state == state


def test_every_probe_counts() -> None:
    """The worst of them decides."""
    good, open_, bad, absent = loss(0.0, 0.01), loss(0.0, 0.1), loss(0.1, 0.2), loss(None, None)
    assert share(0.1, good, good).state == "enough"
    assert share(0.1, good, open_).state == "not settled"
    assert share(0.1, good, absent, open_).state == "not measured"
    assert share(0.1, absent, bad).state == "too little"
    assert share(0.1).state == "not measured"


def test_the_answer_is_the_smallest_that_is_enough() -> None:
    """None only where every share is known to lose more than the margin."""
    good, open_, bad = loss(0.0, 0.01), loss(0.0, 0.1), loss(0.1, 0.2)
    found = Mixing(shares=(share(0.0, bad), share(0.05, open_), share(0.1, good), share(0.25, good)))
    assert found.enough is not None
    assert (found.answer, found.enough.reached) == ("found", 0.1)
    assert Mixing(shares=(share(0.0, bad), share(0.1, bad))).answer == "none"
    assert Mixing(shares=(share(0.0, bad), share(0.1, open_))).answer == "not settled"


def test_shares_are_tested_from_the_largest_down() -> None:
    """The first that is not enough ends the series, whatever smaller ones are."""
    good, open_, bad = loss(0.0, 0.01), loss(0.0, 0.1), loss(0.1, 0.2)
    found = Mixing(shares=(share(0.0, good), share(0.1, open_), share(0.25, good), share(0.5, good)))
    assert found.enough is not None
    assert found.enough.reached == 0.25
    for last in (open_, bad):
        ended = Mixing(shares=(share(0.0, good), share(0.25, good), share(0.5, last)))
        assert (ended.enough, ended.answer) == (None, "not settled")


def findings(model: str, shares: dict[str, float]) -> pd.DataFrame:
    """Return a cell for each mitigation: on a target it gains 0.5, on a probe it loses 0.1 nats."""
    alike = {"model": model, "tuning": "full", "task": "*", "volume": 64, "seeds": 3, "is_control": False, "before": 2.0}
    suites: list[dict[str, Any]] = [
        {"suite": "new", "role": "target", "metric": "acc", "delta": 0.5, "higher_is_better": True},
        {"suite": "old", "role": "probe", "metric": "nats_per_token", "delta": 0.1, "higher_is_better": False, "margin": 0.02},
    ]
    rows = [
        {**alike, **suite, "cell": f"{model} {name}", "mitigation": name, "anchor_loss_share": reached, "train_tokens": 100 * (1 + reached)}
        | {"delta_low": suite["delta"] - 0.01, "delta_high": suite["delta"] + 0.02}
        for name, reached in shares.items()
        for suite in suites
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def test_cells_that_differ_in_the_share_alone_are_together() -> None:
    """Other mitigations have no share; a model with no replayed rows has nothing to compare."""
    one = findings("m0", {"none": 0.0, "replay[fraction=0.1]": 0.4, "replay[loss_share=0.25]": 0.26, "l2": 0.0})
    (found,) = mixings(pd.concat([one, findings("m1", {"none": 0.0})], ignore_index=True))
    assert [(share.asked, share.reached) for share in found.shares] == [(0.0, 0.0), (0.25, 0.26), (None, 0.4)]
    first = found.shares[1]
    assert first.gain is not None
    assert (first.gain.value, first.gain.low, first.gain.high) == (0.5, 0.49, 0.52)
    (loss_on_old,) = first.losses
    assert (loss_on_old.suite, loss_on_old.value) == ("old", 0.1)
    assert (loss_on_old.low, loss_on_old.high) == pytest.approx((0.09, 0.12))
    assert (first.tokens, found.answer) == (126.0, "none")


def test_the_gain_is_that_of_the_target_named_first() -> None:
    """As on the frontier, and not that of the first row."""
    one = findings("m0", {"none": 0.0, "replay[loss_share=0.25]": 0.26})
    other = one[one["role"] == "target"].assign(suite="newer", delta=0.25)
    (found,) = mixings(pd.concat([one, other], ignore_index=True), targets=("newer", "new"))
    assert [share.gain and (share.gain.suite, share.gain.value) for share in found.shares] == [("newer", 0.25)] * 2
