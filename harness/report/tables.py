"""The tidy table as text: whole (csv, json, markdown, parquet) or as a short summary."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.analysis.findings.arms import named_by_arm
from harness.analysis.table.columns import SUITE_TASK
from harness.core import streams
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.core.files import hidden_name
from harness.records.schema import OWN_METRICS
from harness.report import spreadsheets
from harness.report.axis import axis_unit
from harness.report.untuned import untuned

Format = Literal["csv", "json", "markdown", "parquet"]

SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".md": "markdown", ".parquet": "parquet"}

MAX_TASKS = 4
"""A suite of more tasks is shown by its own row, a smaller one task by task."""

MAX_SUMMARY_ROWS = 24
WIDTH = 120

CHOICES = [
    *["model", "reference", "tuning", "mitigation", "objective", "data", "anchor", "trajectory", "epochs", "learning_rate", "variant"],
    "seed",
]
"""Columns that can distinguish runs, in the order in which they are shown."""


@dataclass(frozen=True)
class DisplayUnit:
    """The unit in which a metric is shown: ``scale`` times the number, rounded to ``decimals``.

    ``least`` and ``most`` are the limits of the metric, in its own unit.
    """

    name: str
    scale: float
    decimals: int
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class Panel:
    """A suite, or one task of a small suite, and how it is shown."""

    suite: str
    task: str
    label: str
    role: str
    metric: str
    filter: str
    higher_is_better: bool
    unit: DisplayUnit

    @property
    def sign(self) -> float:
        """1 if higher is better, else −1."""
        return 1.0 if self.higher_is_better else -1.0

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return its rows of the suite's primary metric, measured or failed."""
        return table[((table["suite"] == self.suite) & (table["task"] == self.task) & _primary(table)).fillna(False)]


def _primary(table: pd.DataFrame) -> pd.Series:
    """Return a mask of the rows of primary metrics; without the column, all rows."""
    return table["primary"] if "primary" in table else pd.Series(True, index=table.index)


def panels(table: pd.DataFrame, role: str, *, whole: bool = False) -> list[Panel]:
    """Return the panels of a role: each suite, or its tasks if it is small.

    A suite is small up to MAX_TASKS tasks.

    Args:
        table: the tidy table, or findings.
        role: target or probe.
        whole: put the suite's own panel before those of its tasks.
    """
    rows = table[((table["role"] == role) & _primary(table)).fillna(False)]
    suites_of = table[_primary(table).fillna(False)].groupby("task")["suite"].nunique()
    found = []
    for suite, group in rows.groupby("suite", sort=False):
        tasks = [task for task in group["task"].unique() if task != SUITE_TASK]
        shown = tasks if len(tasks) <= MAX_TASKS else [SUITE_TASK]
        shown = [SUITE_TASK, *shown] if whole and len(tasks) > 1 and shown is tasks else shown
        for task in shown:
            panel = _panel(str(suite), str(task), len(tasks), group[group["task"] == task])
            is_shared = task != SUITE_TASK and suites_of[task] > 1  # in two suites: each needs its own label
            found.append(dataclasses.replace(panel, label=f"{suite}: {task}") if is_shared else panel)
    return found


def panel_of(table: pd.DataFrame) -> dict[tuple[str, str], Panel]:
    """Return (suite, task) → panel, for a tidy table or findings."""
    rows = table[_primary(table).fillna(False) & table["suite"].notna()]
    tasks = rows[rows["task"] != SUITE_TASK].groupby("suite")["task"].nunique()
    groups = rows.groupby(["suite", "task"], sort=False)
    return {(str(suite), str(task)): _panel(str(suite), str(task), int(tasks.get(suite, 1)), group) for (suite, task), group in groups}


def _panel(suite: str, task: str, tasks: int, rows: pd.DataFrame) -> Panel:
    first = rows.iloc[0]
    label = f"{suite} ({tasks} tasks)" if task == SUITE_TASK else task if tasks > 1 else suite
    return Panel(
        suite=suite,
        task=task,
        label=label,
        role=str(first["role"]),
        metric=str(first["metric"]),
        filter=str(first["filter"]),
        higher_is_better=bool(first["higher_is_better"]),
        unit=unit_of(str(first["metric"]), share=bool(rows["lost"].notna().any() or rows["chance"].notna().any())),
    )


def unit_of(metric: str, *, share: bool) -> DisplayUnit:
    """Return the unit in which a metric is shown.

    Args:
        metric: its name.
        share: whether it is a share of items (it counts them, or has a level of guessing). Shares
            are shown in points, 100 × the share; so is the share of tokens on which a model agrees
            with its base.
    """
    if (share and metric not in OWN_METRICS["likelihood"]) or metric == "agreement":  # nats have a level of guessing too
        return DisplayUnit("points", 100.0, 1, 0.0, 1.0)
    is_positive = metric in OWN_METRICS["likelihood"] or metric.startswith("kl_")
    name = "nats per token" if metric.startswith("forgetting_ce") else metric.replace("_", " ")
    return DisplayUnit(name, 1.0, 3, 0.0 if is_positive else -math.inf)


def number(value: Any, unit: DisplayUnit, *, sign: bool = False) -> str:
    """Return a number in its unit's decimals; ``-`` if it is missing."""
    if pd.isna(value):
        return "-"
    text = f"{float(value) * unit.scale:{'+' if sign else ''}.{unit.decimals}f}"
    return text.replace("-", "+" if sign else "") if float(text) == 0.0 else text


def possible_ends(low: Any, high: Any, before: Any, unit: DisplayUnit, *, sign: float = 1.0) -> tuple[Any, Any]:
    """Return ends of intervals, cut to possible values; missing values stay missing.

    Args:
        low: lower ends in the metric's own unit, a number or an array.
        high: upper ends.
        before: the values from which the changes start (0 for values); None for differences.
        unit: of the metric.
        sign: −1 for changes with the opposite sign, such as the loss of a share.
    """
    if before is None:
        least, most = unit.least - unit.most, unit.most - unit.least
    else:
        least, most = unit.least - before, unit.most - before
        least, most = (least, most) if sign > 0 else (-1.0 * most, -1.0 * least)
    return np.maximum(low, least), np.minimum(high, most)


def change_text(row: pd.Series, unit: DisplayUnit) -> str:
    """Return a change with its interval, such as ``-12.5 [-16.1, -8.9]``.

    Without a change: ``failed`` or ``-``.
    """
    if row["status"] != "ok" or pd.isna(row["delta"]):
        return "-" if row["status"] == "ok" else str(row["status"])
    delta = number(row["delta"], unit, sign=True)
    if pd.isna(row["delta_low"]):
        return f"{delta} [no interval]"
    low, high = possible_ends(row["delta_low"], row["delta_high"], row["before"], unit)
    return f"{delta} [{number(low, unit, sign=True)}, {number(high, unit, sign=True)}]"


def varying(table: pd.DataFrame) -> list[str]:
    """Return the columns of CHOICES that distinguish runs, always with model and tuning.

    The learning rate is one of them only if it varies while all others are equal.
    """
    names = [name for name in CHOICES if name in {"model", "tuning"} or (name in table and table[name].nunique(dropna=False) > 1)]
    others = [name for name in names if name != "learning_rate"]
    rates = table.groupby(others, dropna=False)["learning_rate"].nunique() if len(table) else pd.Series(dtype="int64")
    return names if (rates > 1).any() else others


def summary(table: pd.DataFrame, control: Mapping[str, str] | None = None) -> str:
    """Return the summary: changes on targets and probes with intervals, one row per point.

    Up to MAX_SUMMARY_ROWS points all volumes are shown, beyond that each run's largest.

    Args:
        table: the tidy table.
        control: label → value that same-data controls have, as declared.
    """
    problems = _problems(table, control or {})
    measured = table[(table["volume"] > 0).fillna(False)]
    if measured.empty:
        return "\n".join(["No point is measured yet.", *problems])
    points = measured.drop_duplicates(["run_id", "volume"])
    largest_only = len(points) > MAX_SUMMARY_ROWS
    points = points.sort_values(["params_total", *CHOICES, "volume"], kind="stable")
    if largest_only:
        points = points.drop_duplicates("run_id", keep="last")
    labels = named_by_arm(points)[[*varying(points), "volume"]].astype("string").fillna("-")
    unit = axis_unit(points)
    columns = {f"volume ({unit})" if name == "volume" and unit != "rows" else name: labels[name].tolist() for name in labels.columns}
    shown = [*panels(table, "target"), *panels(table, "probe")]
    cells = {_heading(panel): _cells(panel, measured, points) for panel in shown}
    title = "Change since before training, with 95% intervals paired over items"
    title += "" if all(panel.higher_is_better for panel in shown) else "; ↓ lower is better"
    title += f" (largest volume of each of {points['run_id'].nunique()} runs)" if largest_only else ""
    if others := sorted(points["reference"].dropna().unique()):
        title += f"; for runs with a reference, before is {', '.join(others)}"
    return "\n".join([title, *_blocks(columns, cells), *problems])


def _heading(panel: Panel) -> tuple[str, ...]:
    return panel.role, panel.label, panel.unit.name + ("" if panel.higher_is_better else " ↓")


def _cells(panel: Panel, measured: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    rows = {(row["run_id"], row["volume"]): row for _, row in panel.rows(measured).iterrows()}
    texts = []
    for key in zip(points["run_id"], points["volume"], strict=True):
        texts.append(change_text(rows[key], panel.unit) if key in rows else "-")
    return texts


def _blocks(columns: dict[str, list[str]], cells: dict[tuple[str, ...], list[str]]) -> list[str]:
    """Return the lines of a table; columns beyond WIDTH continue in further blocks."""
    left = [column(("", "", name), texts, right=name.startswith("volume")) for name, texts in columns.items()]
    blocks: list[list[list[str]]] = [[*left]]
    for heading, texts in cells.items():
        added = column(heading, texts, right=True)
        used = sum(len(part[0]) + 2 for part in blocks[-1])
        if used + len(added[0]) > WIDTH and len(blocks[-1]) > len(left):
            blocks.append([*left])
        blocks[-1].append(added)
    lines: list[str] = []
    for block in blocks:
        lines += ["", *("  ".join(parts).rstrip() for parts in zip(*block, strict=True))]
    return lines


def column(heading: Sequence[str], texts: Sequence[str], *, right: bool) -> list[str]:
    """Return a column of a text table, padded to one width.

    Args:
        heading: its first lines.
        texts: its cells.
        right: whether it is aligned right.
    """
    width = max(map(len, [*heading, *texts]))
    return [text.rjust(width) if right else text.ljust(width) for text in [*heading, *texts]]


def _problems(table: pd.DataFrame, control: Mapping[str, str]) -> list[str]:
    """Return lines on failed and unfinished runs, failed measurements and untuned rates."""
    whole = table[table["suite"].isna() & (table["status"] != "ok")]
    lines = [
        f"{row['status']}{_at(row['volume'])}: run {row['run_id']} ({row['model']}, {row['tuning']}): {row['reason']}"
        for _, row in whole.iterrows()
    ]
    scores = table[table["suite"].notna() & (table["status"] == "failed")]
    for (suite, task), rows in scores[scores["task"] != SUITE_TASK].groupby(["suite", "task"], sort=False):
        lines.append(f"failed: {suite}, {task} at {len(rows)} points: {rows['reason'].iloc[0]}")
    if untuned(table, control)[0]:
        lines.append("learning rate not tuned: not a method comparison")
    return ["", *lines] if lines else []


def _at(volume: Any) -> str:
    return "" if pd.isna(volume) else f" at {int(volume):,}"


SHORT = [
    *["run_id", "model", "tuning", "objective", "mitigation", "data", "arm", "seed", "volume", "role", "suite", "task", "metric", "n"],
    *["before", "value", "delta", "delta_low", "delta_high", "status"],
]
"""Columns that people read."""


def chosen(table: pd.DataFrame, columns: str | None, *, short: bool) -> pd.DataFrame:
    """Return the tidy table with some of its columns.

    Args:
        table: the tidy table.
        columns: their names with commas; None is every column.
        short: only SHORT, and the rows of primary metrics and of failures.

    Raises:
        ConfigError: if a column does not exist, or both are given.
    """
    if columns is None:
        return table[(_primary(table) | table["suite"].isna()).fillna(value=False)][SHORT] if short else table
    if short:
        raise ConfigError(explain("table", got="--columns with --short", allowed="one of them"))
    names = [name.strip() for name in columns.split(",") if name.strip()]
    for name in names or [columns]:
        if name not in table:
            fix = did_you_mean(name, table.columns) or "`harness table NAME --short` has the columns that people read"
            raise ConfigError(
                explain("--columns", got=repr(name), allowed=f"{len(table.columns)} columns, such as {', '.join(SHORT[:6])}", fix=fix)
            )
    return table[names]


def aligned(table: pd.DataFrame) -> str:
    """Return a table with aligned columns and rounded numbers, for a terminal."""
    filled = table.astype(object).where(table.notna(), "")
    return str(filled.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def require_whole(options: Mapping[str, object]) -> None:
    """Reject options of tables for the text format, which has none. Raises ConfigError."""
    if given := [f"--{name}" for name, value in options.items() if value]:
        got = f"text with {' '.join(given)}"
        raise ConfigError(explain("--format", got=got, allowed="text alone, or csv, json or markdown with these options"))


def render(table: pd.DataFrame, form: str | None, *, raw: bool = False) -> str:
    """Return the whole table as text.

    Args:
        table: the tidy table.
        form: ``csv`` (missing values empty), ``json`` (a list of row objects, missing values null)
            or ``markdown``.
        raw: keep the text cells of a csv as they are.
    """
    if form == "csv":
        return (table if raw else spreadsheets.safe(table)).to_csv(index=False, lineterminator="\n")
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]
    if form == "json":
        return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows) + "\n]\n"
    if form == "markdown":
        return markdown(list(table.columns), [["" if value is None else str(value) for value in row.values()] for row in rows])
    raise ConfigError(explain("format", got=repr(form), allowed="csv, json, markdown (and parquet with --output)"))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: Python numbers, None if it is missing."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with escaped cells."""
    lines = [list(map(escape, columns)), ["---"] * len(columns), *([escape(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape(text: object) -> str:
    """Return a text escaped for Markdown: never markup, HTML, a link or a new cell."""
    flat = html.escape(" ".join(str(text).split()), quote=False)
    flat = re.sub(r"[\\`*\[\]|#~$!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", flat)  # an underscore inside a word is not markup
    return streams.visible(flat.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;"))


def write(table: pd.DataFrame, path: Path, form: str | None = None, *, raw: bool = False) -> None:
    """Write the whole table to a file, complete or not at all.

    Args:
        table: the tidy table.
        path: of the file.
        form: its format; None takes that of the file's suffix.
        raw: see ``render``.

    Raises:
        ConfigError: if the format is unknown or the file cannot be written.
    """
    form = form or SUFFIXES.get(path.suffix)
    if form not in SUFFIXES.values():
        raise ConfigError(explain("--output", got=f"'{path.name}'", allowed=f"a name ending in {', '.join(SUFFIXES)}, or --format"))
    temporary = hidden_name(path)
    try:
        if form == "parquet":
            table.to_parquet(temporary, index=False, compression="zstd")
        else:
            temporary.write_text(render(table, form, raw=raw), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(explain("--output", got=f"'{path}', not writable ({error.strerror})", fix="choose another folder")) from error
    finally:
        temporary.unlink(missing_ok=True)
