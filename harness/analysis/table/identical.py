"""Answers that are equal to the last digit before and after, which two models hardly give."""

from __future__ import annotations

from collections.abc import Sequence, Sized
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
    metrics = sorted({name for name in map(str, before) if name.startswith("metric.")} & {*map(str, after)})
    one, other = _answers(before, metrics), _answers(after, metrics)
    if not one or one != other:
        return None
    return "log-likelihoods" if any(scores for scores, *_ in one.values()) else "texts"


def _answers(samples: pd.DataFrame, metrics: Sequence[str]) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """Return (task, filter, document) → log-likelihoods, text and scores, of answered items.

    Scores too: logs may hold what a filter made of a text, but not the filtered text.
    """
    columns = [samples[name] for name in ("task", "filter", "doc_hash", "log_likelihoods", "text")]
    values = samples[list(metrics)].astype(str).itertuples(index=False, name=None)  # as text, nan equals nan
    found = {
        (task, filter_name, document): (tuple(scores) if _is_list(scores) else (), text if isinstance(text, str) else "", scored)
        for task, filter_name, document, scores, text, scored in zip(*columns, values, strict=True)
    }
    return {key: answer for key, answer in found.items() if answer[:2] != ((), "")}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sized) and not isinstance(value, str)
