"""Answers that are equal to the last digit before and after, which two models hardly give."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Literal

import pandas as pd

Equal = Literal["log-likelihoods", "texts"]


def equal_answers(before: pd.DataFrame, after: pd.DataFrame) -> Equal | None:
    """Return how all answers of a suite are equal; None if any differs, or there are none.

    Equal texts alone say little: models that differ slightly may well write the same. Equal
    log-likelihoods say that nothing of the difference reached the scores.

    Args:
        before: items of the suite, columns as in ``schema.SAMPLE_COLUMNS``.
        after: likewise.
    """
    one, other = _answers(before), _answers(after)
    if not one or one != other:
        return None
    return "log-likelihoods" if any(scores for scores, _ in one.values()) else "texts"


def _answers(samples: pd.DataFrame) -> dict[tuple[str, str, str], tuple[tuple[float, ...], str]]:
    """Return (task, filter, document) → log-likelihoods and text of the items with an answer."""
    columns = [samples[name] for name in ("task", "filter", "doc_hash", "log_likelihoods", "text")]
    found = {
        (task, filter_name, document): (tuple(scores) if _is_list(scores) else (), text if isinstance(text, str) else "")
        for task, filter_name, document, scores, text in zip(*columns, strict=True)
    }
    return {key: answer for key, answer in found.items() if answer != ((), "")}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sized) and not isinstance(value, str)
