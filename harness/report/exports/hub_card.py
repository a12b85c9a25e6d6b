"""A section for a model card of the hub, with its results as ``model-index`` metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from harness import __version__
from harness.analysis.table.columns import SUITE_TASK
from harness.report.exports.points import Exported, Told, metric_name, missing, records, title

TASK_TYPE = "text-generation"
"""Task of the hub that causal language models have."""


def files(one: Exported, told: Told) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the card of a point.

    Metadata have the scores of tasks in the metric of their suite, and their changes. A failed
    measurement has no metadata, which need a value: the section states its reason.
    """
    results = [_entry(row) for row in records(one.after) if _is_result(row) and row["value"] is not None]
    metadata = {"model-index": [{"name": one.name, "results": results}]} if results else {}
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000) if metadata else ""
    front = f"---\n{head}---\n\n" if head else ""
    yield f"{one.key}/README.md", front + "\n".join(_section(one, told))


def _is_result(row: Mapping[str, Any]) -> bool:
    return bool(row["primary"]) and row["task"] != SUITE_TASK


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result; ``config`` keeps results of equal data sets apart."""
    name, metric = f"{row['suite']}: {title(row)}", metric_name(row)
    metrics = [{"type": row["metric"], "value": row["value"], "name": metric}]
    if row["delta"] is not None:
        metrics.append({"type": f"{row['metric']}_change", "value": row["delta"], "name": f"{metric}, change from before training"})
    return {
        "task": {"type": TASK_TYPE, "name": "Text generation"},
        "dataset": {"type": title(row), "name": name, "config": f"{row['suite']}.{title(row)}"},
        "metrics": metrics,
    }


def _section(one: Exported, told: Told) -> Iterator[str]:
    """Yield the lines of the section."""
    yield "## What training changed"
    yield ""
    yield f"`{one.name}` is {one.description}. Each suite was measured on the same items before training (`{one.base}`) and after."
    yield ""
    yield "| suite | role | metric | before | after | change | 95% interval | items |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in records(one.after):
        if row["task"] == SUITE_TASK and row["primary"]:
            yield _line(one, row, told)
        elif row["primary"] and row["value"] is None:
            told.lacks(one.key, row)
    yield ""
    yield "A *target* is what was trained, a *probe* what could be forgotten. Lower is worse, except for metrics with ↓."
    yield "Intervals are over the items of this one run; other seeds vary more."
    yield f"Measured by forgetting-harness {__version__}, protocol {one.record.protocol_version}, run `{one.record.run_id}`."


def _line(one: Exported, row: Mapping[str, Any], told: Told) -> str:
    metric = metric_name(row) + ("" if row["higher_is_better"] else " ↓")
    if row["value"] is None:
        told.lacks(one.key, row)
        cells = [row["suite"], row["role"], metric, _text(_before(one, row)), f"missing: {missing(row)}", "", "", ""]
    else:
        change = _text(row["delta"], sign="+") or f"missing: {missing(row)}"
        interval = "" if row["delta_low"] is None else f"{_text(row['delta_low'], sign='+')} to {_text(row['delta_high'], sign='+')}"
        cells = [row["suite"], row["role"], metric, _text(_before(one, row)), _text(row["value"]), change, interval, str(row["n"])]
    return "| " + " | ".join(str(cell or "").replace("|", "\\|") for cell in cells) + " |"


def _before(one: Exported, row: Mapping[str, Any]) -> float | None:
    """Return the value at volume 0, which a failed row does not have."""
    own = (first for first in records(one.before) if first["primary"])
    return next((first["value"] for first in own if (first["suite"], first["task"]) == (row["suite"], row["task"])), None)


def _text(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4g}"
