"""Answers that are equal to the last digit on two sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.analysis.table.identical import equal_answers


def items(*answers: tuple[Any, Any]) -> pd.DataFrame:
    rows = [{"task": "t", "filter": "none", "doc_hash": str(i), "log_likelihoods": a, "text": b} for i, (a, b) in enumerate(answers)]
    return pd.DataFrame(rows, columns=["task", "filter", "doc_hash", "log_likelihoods", "text"])


ONE, NEXT = [-1.0, -2.0], [-1.0, float(np.nextafter(-2.0, 0))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([(ONE, None), (None, "a")], [(np.array(ONE), float("nan")), (None, "a")], "log-likelihoods"),
        ([(None, "a"), (None, "b")], [(None, "a"), (None, "b")], "texts"),
        ([(ONE, None), (None, "a")], [(NEXT, None), (None, "a")], None),
        ([(ONE, None), (None, "a")], [(ONE, None), (None, "b")], None),
        ([(ONE, None)], [(ONE, None), (ONE, None)], None),
        ([], [], None),
        ([(None, None)], [(None, None)], None),
    ],
    ids=["log-likelihoods", "texts", "last digit", "text", "other items", "no items", "no answers"],
)
def test_answers_are_equal_if_every_digit_is(before: Any, after: Any, expected: str | None) -> None:
    """Lists as written and arrays as read from parquet; no answer is not an equal answer."""
    assert equal_answers(items(*before), items(*after)) == expected


def test_the_order_of_items_does_not_matter() -> None:
    made = items((ONE, None), (NEXT, None))
    assert equal_answers(made, made.iloc[::-1]) == "log-likelihoods"
