"""The report of an experiment: figures, the table, and a page of findings with their intervals, costs and warnings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness import paths
from harness.analysis.columns import SUITE_TASK
from harness.analysis.frame import table as tidy_table
from harness.records import Experiment
from harness.report import figures, tables
from harness.report.curves import MIN_SEEDS, Series, curve_of, series
from harness.report.tables import Panel, change_text, escape, markdown, number, panels, varying
from harness.schema import Record

FIGURES: dict[str, tuple[Callable[[pd.DataFrame], Figure | None], str]] = {
    "forgetting": (figures.forgetting, "Change on what the model knew before, against the volume of target data."),
    "learning": (figures.learning, "What is being learned, against the volume of target data."),
    "tradeoff": (
        figures.tradeoff,
        "Change on what the model knew, against what it learned; paths run from before to the largest volume.",
    ),
}


def write(experiment: Experiment) -> Path:
    """Write ``results/NAME/report/`` anew: report.md, figures as PNG and SVG, table.csv. The same records give the same bytes.

    Args:
        experiment: its results folder; runs that the last command did not ask for are left out and counted.

    Returns:
        The path of ``report.md``.

    Raises:
        RecordError: if a record is damaged or of another version.
    """
    table = tidy_table(experiment)
    folder = experiment.folder / "report"
    experiment.write_folder(folder, lambda place: _fill(place, experiment, table))
    return folder / "report.md"


def _fill(folder: Path, experiment: Experiment, table: pd.DataFrame) -> None:
    drawn = []
    for name, (draw, caption) in FIGURES.items():
        if figure := draw(table):
            figures.save(figure, folder / name)
            drawn.append((name, caption))
    tables.write(table, folder / "table.csv")
    (folder / "report.md").write_text(text(experiment, table, drawn), encoding="utf-8")


def text(experiment: Experiment, table: pd.DataFrame, drawn: Sequence[tuple[str, str]]) -> str:
    """Return the page as Markdown.

    Args:
        experiment: for its records and manifest.
        table: its tidy table.
        drawn: (file stem, caption) of the figures beside the page.
    """
    records = [record for run_id in sorted(table["run_id"].unique()) if (record := experiment.record(run_id))]
    sections = {
        "Findings": _findings(table),
        "Warnings": _bullets(_warnings(experiment, table, records)),
        "Figures": "\n\n".join(f"![{caption}]({name}.png)\n\n{caption} [SVG]({name}.svg)" for name, caption in drawn),
        "Changes at the largest volume": _changes(table),
        "Costs": _costs(table),
        "Overlap of training rows with evaluation items": _overlap(records),
        "How to reproduce": _reproduce(experiment, records),
    }
    body = "".join(f"\n## {title}\n\n{content}\n" for title, content in sections.items() if content)
    return f"# {escape(experiment.name)}: what was learned, what was lost\n\n{_opening(table)}\n{body}"


def _opening(table: pd.DataFrame) -> str:
    counts = {name: table[name].nunique() for name in ["run_id", "model", "tuning", "seed"]}
    volumes = ", ".join(f"{int(volume):,}" for volume in sorted(table["volume"].dropna().unique()) if volume)
    versions = ", ".join(map(str, table["protocol_version"].dropna().unique()))
    return (
        f"Runs: {counts['run_id']} (models: {counts['model']}, tunings: {counts['tuning']}, seeds: {counts['seed']});"
        f" volumes: {volumes or 'none yet'}. Protocol version {versions or '-'}."
        " Every interval is at 95%; changes are after minus before, paired over the same items."
        " Points are hundredths of a share of items. All rows are in [table.csv](table.csv)."
    )


def _findings(table: pd.DataFrame) -> str:
    """Return a sentence for each way of training: at its largest volume, what it gained and what it lost."""
    targets, probes = panels(table, "target"), panels(table, "probe")
    return _bullets([_sentence(one, targets, probes) for one in series(table)])


def _sentence(one: Series, targets: Sequence[Panel], probes: Sequence[Panel]) -> str:
    volume, seeds = int(one.rows["volume"].max()), one.rows["seed"].nunique()
    over = (
        "" if seeds == 1 else f" (mean of {seeds} seeds, " + ("intervals over seeds and items)" if seeds >= MIN_SEEDS else "no intervals)")
    )
    said: dict[str, list[str]] = {}
    for panel in [*targets, *probes]:
        verb, words = _verdict(one, panel, volume)
        said.setdefault(verb, []).append(words)
    parts = [f"{verb} {', '.join(words)}" for verb, words in said.items()]
    return f"**{escape(one.model)}, {escape(one.style_name)}**, after {volume:,} rows{over}: {'; '.join(parts)}."


def _verdict(one: Series, panel: Panel, volume: int) -> tuple[str, str]:
    curve = curve_of(panel, one.rows, "delta")
    if volume not in curve.volumes:
        return "not measured:", escape(panel.label)
    delta, low, high = (ends[curve.volumes.index(volume)] for ends in [curve.centre, curve.low, curve.high])
    unit = tables.Unit(panel.unit.name, 1.0, panel.unit.decimals)
    known = not math.isnan(low)
    ends = f" [{number(low, unit, sign=True)}, {number(high, unit, sign=True)}]" if known else ""
    words = f"{escape(panel.label)} ({number(delta, unit, sign=True)}{ends} {panel.unit.name})"
    if not known:
        return "changed without an interval:", words
    if low <= 0.0 <= high:
        return "no clear change on", words
    better = (delta > 0) == panel.higher_is_better
    return ("learned" if panel.role == "target" else "gained on") if better else "lost on", words


def _warnings(experiment: Experiment, table: pd.DataFrame, records: Sequence[Record]) -> list[str]:
    found = []
    if untuned := [record.run_id for record in records if not record.lr_tuned]:
        found.append(f"learning rate not tuned: not a method comparison ({len(untuned)} of {len(records)} runs)")
    seeds = table["seed"].nunique()
    if seeds < MIN_SEEDS:
        found.append(f"{seeds} seed(s): intervals over items only; they do not cover how much another training run would differ")
    if any(record.config.get("evaluation", {}).get("items") == "select" for record in records):
        found.append("measured on select items, on which things are chosen: not to be reported")
    if taught := sorted({name for record in records for name, shares in record.overlap.items() if _is_taught(shares)}):
        found.append(f"evaluation items stand in the training rows (see Overlap): {', '.join(map(escape, taught))}")
    if low := _at_chance(table):
        found.append(f"base not clearly above guessing, so that a loss can hardly show: {', '.join(low)}")
    found.append("p-values are for one test each, not adjusted for the number of tasks")
    return found + _missing(experiment, table)


def _at_chance(table: pd.DataFrame) -> list[str]:
    found = {}
    for panel in panels(table, "probe"):
        rows = panel.rows(table)
        low = rows[((rows["volume"] == 0) & (rows["value_low"] <= rows["chance"])).fillna(False)]
        if len(low):
            found[panel.label] = f"{escape(panel.label)} ({', '.join(escape(model) for model in sorted(low['model'].unique()))})"
    return list(found.values())


def _missing(experiment: Experiment, table: pd.DataFrame) -> list[str]:
    """Count what is not there: failed, unfinished, not started and stale runs, failed measurements."""
    found = []
    whole = table[table["suite"].isna()]
    for status, rows in whole.groupby("status", sort=True):
        reasons = [
            f"{row['run_id']} ({escape(row['model'])}, {escape(row['tuning'])}): {escape(row['reason'])}" for _, row in rows.iterrows()
        ]
        found.append(f"{len(rows)} run(s) {status}: {'; '.join(reasons)}")
    existing = set(experiment.run_ids())
    if absent := experiment.current() - existing:
        found.append(f"{len(absent)} run(s) not started")
    if stale := existing - experiment.current():
        found.append(f"{len(stale)} stale run(s), which the last command did not ask for, left out")
    failed = table[table["suite"].notna() & (table["status"] == "failed") & (table["task"] != SUITE_TASK)]
    for (suite, task), rows in failed.groupby(["suite", "task"], sort=False):
        found.append(f"{len(rows)} failed measurement(s) of {escape(suite)}, {escape(task)}: {escape(rows['reason'].iloc[0])}")
    return found


def _last_points(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each run's largest volume, smaller models first."""
    rows = table[(table["volume"] > 0).fillna(False)]
    last = rows[rows["volume"] == rows.groupby("run_id")["volume"].transform("max")]
    return last.sort_values(["params_total", *tables.CHOICES], kind="stable")


def _labels(row: pd.Series, names: Sequence[str]) -> list[str]:
    return [*("" if pd.isna(row[name]) else str(row[name]) for name in names), f"{int(row['volume']):,}"]


def _changes(table: pd.DataFrame) -> str:
    last = _last_points(table)
    names, lines = varying(last), []
    for panel in [*panels(last, "target"), *panels(last, "probe")]:
        for _, row in panel.rows(last).iterrows():
            p_value = "" if pd.isna(row["p_value"]) else f"{float(row['p_value']):.2g}"
            counts = ["" if pd.isna(row[name]) else str(row[name]) for name in ["lost", "gained", "n"]]
            levels = [number(row[name], panel.unit) for name in ["before", "value"]]
            what = [panel.role, panel.label, panel.unit.name]
            lines.append([*what, *_labels(row, names), *levels, change_text(row, panel.unit), *counts, p_value])
    columns = ["role", "suite or task", "unit", *names, "volume", "before", "after", "change [95% interval]", "lost", "gained", "n", "p"]
    return markdown(columns, lines) if lines else ""


def _costs(table: pd.DataFrame) -> str:
    last = _last_points(table).drop_duplicates("run_id")
    names, lines = varying(last), []
    counts = ["params_trainable", "steps", "train_tokens", "supervised_tokens", "anchor_tokens"]
    for _, row in last.iterrows():
        whole = ["" if pd.isna(row[name]) else f"{int(row[name]):,}" for name in counts]
        memory = f"{float(row['peak_memory_bytes']) / 1e9:.2f}"
        lines.append([*_labels(row, names), *whole, f"{float(row['wall_seconds']):.1f}", f"{float(row['flops']):.3g}", memory])
    columns = [*names, "volume", *counts, "training seconds", "flops", "peak memory (GB)"]
    return markdown(columns, lines) if lines else ""


def _overlap(records: Sequence[Record]) -> str:
    lines = {}
    for record in records:
        for suite, shares in record.overlap.items():
            line = [str(record.labels.get("data")), suite, *_shares(shares)]
            lines[tuple(line)] = line
    columns = ["data", "suite", "items found whole", "items sharing 13 words in a row (of those long enough)"]
    return markdown(columns, list(lines.values())) if lines else ""


def _is_taught(shares: Any) -> bool:
    return isinstance(shares, Mapping) and bool(shares.get("exact", 0) or shares.get("ngram", 0))


def _shares(shares: Any) -> list[str]:
    if not isinstance(shares, Mapping) or not shares:
        return [str(shares or "not measured"), str(shares or "not measured")]
    parts = [("exact", "exact_share", "items"), ("ngram", "ngram_share", "ngram_items")]
    return [f"{shares[count]} of {shares[total]} ({100 * float(shares[share]):.1f}%)" for count, share, total in parts]


def _reproduce(experiment: Experiment, records: Sequence[Record]) -> str:
    name = experiment.name
    made = list(dict.fromkeys(str(record.provenance["command"]) for record in records if record.provenance.get("command")))
    sweep = [f"harness sweep experiment={name}"] if name in paths.members("conf/experiment") and not made else []
    commands = "\n".join([*sweep, *made, f"harness table {name}", f"harness report {name}"])
    parts = [f"```sh\n{commands}\n```", "Each run's resolved configuration is `runs/RUN_ID/config.json` beside this folder."]
    if records:
        parts.append(f"Run {records[0].run_id} of {len(records)}, made with {_made_with(records[0].provenance)}:")
        shown = json.dumps(records[0].config, indent=2, ensure_ascii=False, sort_keys=True)
        fence = "`" * (max([2, *map(len, re.findall("`+", shown))]) + 1)
        parts.append(f"{fence}json\n{shown}\n{fence}")
    return "\n\n".join(parts)


def _made_with(provenance: Mapping[str, Any]) -> str:
    git = provenance.get("git")
    code = f"commit {git['commit']}{' with local changes' if git['dirty'] else ''}" if git else "an installed harness"
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    return escape(f"{code}; {versions}; {provenance.get('platform', '')}, {provenance.get('processor', '')}".rstrip("; ,"))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
