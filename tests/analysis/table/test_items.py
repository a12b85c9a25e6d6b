from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from harness.analysis.table.items import COLUMNS, changed_items
from harness.core.errors import RecordError


def item(name: str, value: float, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"suite": "s", "task": "t", "filter": "none", "doc_hash": name, "prompt_hash": f"p{name}", "target_hash": "h"}
    row |= {"prompt": f"ask {name}", "target": "1", "choices": [" no", " yes"], "log_likelihoods": [0.0, 0.0], "text": None}
    return row | {"metric.acc": value} | more


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def test_lost_and_gained_items_with_answers_and_confidence() -> None:
    """Scores ln 3 apart are shares of 3/4 and 1/4, so confidence changes by 0.5."""
    high, low = [0.0, math.log(3)], [math.log(3), 0.0]
    before = frame(item("a", 1, log_likelihoods=high), item("b", 0, log_likelihoods=low), item("c", 1, log_likelihoods=high))
    after = frame(item("c", 1, log_likelihoods=high), item("b", 1, log_likelihoods=high), item("a", 0, log_likelihoods=low))
    found = changed_items(before, after, {"s": "acc"})
    assert {name: str(kind) for name, kind in found.dtypes.items()} == COLUMNS
    assert found["prompt"].tolist() == ["ask a", "ask b"]
    assert found["outcome"].tolist() == ["lost", "gained"]
    assert found[["answer_before", "answer_after", "target"]].to_numpy().tolist() == [["yes", "no", "yes"], ["no", "yes", "yes"]]
    assert found["confidence_lost"].tolist() == pytest.approx([0.5, -0.5])
    assert found["confidence_before"].tolist() == pytest.approx([0.75, 0.25])


def test_generated_answers_have_no_confidence_and_come_last() -> None:
    """A generated answer is shown as generated."""
    written = {"choices": None, "log_likelihoods": None, "target": "42"}
    before = frame(item("a", 1, text=" 42", **written), item("b", 1, log_likelihoods=[0.0, 1.0]))
    after = frame(item("a", 0, text=" 41", **written), item("b", 0, log_likelihoods=[1.0, 0.0]))
    found = changed_items(before, after, {"t": "acc"})
    assert found["prompt"].tolist() == ["ask b", "ask a"]
    assert found[["answer_before", "answer_after", "target"]].to_numpy().tolist()[1] == ["42", "41", "42"]
    assert found["confidence_lost"].isna().tolist() == [False, True]


def test_a_metric_by_length_answers_by_length() -> None:
    """For acc_norm, the answer with the best log-likelihood per character counts."""
    choices = {"choices": [" a", " bb"], "log_likelihoods": [-1.5, -2.0], "metric.acc_norm": 1.0}
    before = frame(item("a", 0, **choices))
    after = frame(item("a", 0, **(choices | {"log_likelihoods": [-0.5, -2.0], "metric.acc_norm": 0.0})))
    found = changed_items(before, after, {"s": "acc_norm"})
    assert found[["answer_before", "answer_after"]].to_numpy().tolist() == [["bb", "a"]]


def test_only_one_filter_of_a_task_is_used() -> None:
    """It is the one named, else the first by name."""
    before = frame(item("a", 1, filter="strict"), item("a", 1, filter="flexible"))
    after = frame(item("a", 0, filter="strict"), item("a", 1, filter="flexible"))
    assert len(changed_items(before, after, {"s": "acc"})) == 0
    assert len(changed_items(before, after, {"s": "acc"}, {"t": "strict"})) == 1


def test_items_that_are_not_0_or_1_are_left_out() -> None:
    """So are other suites."""
    before, after = frame(item("a", 0.5), item("b", 1, suite="x")), frame(item("a", 1), item("b", 0, suite="x"))
    assert changed_items(before, after, {"s": "acc"}).empty
    assert changed_items(before, after, {}).empty


def test_another_prompt_is_rejected() -> None:
    """An item with another prompt is not the same item."""
    with pytest.raises(RecordError, match="another prompt for 1 items"):
        changed_items(frame(item("a", 1)), frame(item("a", 0, prompt_hash="q")), {"s": "acc"})
