"""Missing runs and measurements, and warnings that limit the conclusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.analysis.findings.cells import is_control as is_control_of
from harness.analysis.statistics.two_level import MIN_SEEDS
from harness.analysis.table.columns import ACTED, SUITE_TASK
from harness.report import words
from harness.report.content import Section
from harness.report.curves import Series
from harness.report.evidence import Evidence
from harness.report.sections import collapses, controls
from harness.report.untuned import untuned

MAX_REASONS = 20


def missing(evidence: Evidence) -> Section:
    """Return counts and reasons of missing and stale runs and of failed measurements."""
    table, experiment = evidence.table, evidence.experiment
    whole = table[table["suite"].isna()]
    existing, requested = set(experiment.run_ids()), experiment.asked()
    measured = table[table["suite"].notna() & (table["volume"] > 0).fillna(False)]
    failed = table[table["suite"].notna() & (table["status"] == "failed") & (table["task"] != SUITE_TASK)]
    absent, stale = len(requested - existing), len(experiment.stale())
    points = len(measured.drop_duplicates(["run_id", "volume"]))
    counts = {
        "failed": int((whole["status"] == "failed").sum()),
        "unfinished": int((whole["status"] == "unfinished").sum()),
        "not started": absent,
    }
    if short := whole.loc[whole["status"] == "not reached", "run_id"].nunique():
        counts["with volumes not reached"] = short
    intro = (
        f"Of {len(requested):,} requested runs, {', '.join(f'{count} {name}' for name, count in counts.items())};"
        f" {points:,} points measured, {len(failed)} measurements failed. Missing values never count as 0."
    )
    notes = []
    for status, rows in whole.groupby("status", sort=True):
        for _, row in rows.head(MAX_REASONS).iterrows():
            where = "" if pd.isna(row["volume"]) else f" at {int(row['volume']):,}"
            notes.append(f"Run {row['run_id']} ({row['model']}, {row['tuning']}) {status}{where}: {row['reason']}")
        if len(rows) > MAX_REASONS:
            notes.append(f"{len(rows) - MAX_REASONS} more {status} runs are in {evidence.table_file}.")
    for (suite, task), rows in list(failed.groupby(["suite", "task"], sort=False))[:MAX_REASONS]:
        notes.append(f"{len(rows)} failed measurement(s) of {suite}, {task}: {rows['reason'].iloc[0]}")
    if stale:
        notes.append(f"{stale} stale run(s), which the last command did not request, are left out.")
    return Section(id="missing", title="What is missing", intro=intro, notes=notes)


ROWS = {
    "left_out_rows": "teach nothing and are left out",
    "split_rows": "are long texts, split into several",
    "truncated_rows": "are cut at training.max_length (every epoch)",
    "rows_without_supervision": "are trained on and teach nothing",
    "repeated_rows": "repeat an earlier one",
    "anchor_left_out_rows": "of the anchor teach nothing and are left out",
    "anchor_split_rows": "of the anchor are long texts, split into several",
}
"""Field of ``Record.data_facts`` → what is said of its rows."""


def main_warnings(evidence: Evidence) -> list[str]:
    """Return the warnings for the top of the page, which limit its main conclusions."""
    found = []
    _, borrowed, runs = untuned(evidence.table, evidence.declared.control)
    if borrowed:
        found.append(f"{borrowed} of {runs} runs train with a mitigation at the rate that was searched without it.")
    if evidence.declared.control and not any(one.is_control for one in evidence.every):
        declared = ", ".join(f"{name}: {value}" for name, value in evidence.declared.control.items())
        found.append(f"The declared control ({declared}) is no run of this experiment: its data must be a value of an axis.")
    if len(evidence.findings) and not evidence.targets:
        found.append("No target suite: gain is not measured (target_suites=[target_nll] with data.held_out=N for rows of your own).")
    others = evidence.table.drop_duplicates("run_id").groupby("reference")["run_id"].nunique()
    for reference, runs in others.items():
        found.append(
            f"For {runs} run(s), the value before training is that of {reference}, not of the start model; changes are relative to it."
        )
    found += [*_same_texts(evidence), *_idle(evidence), *controls.not_settled(evidence)]
    found += collapses.named(evidence)
    mixed = _mixed(evidence)
    if mixed:
        found.append(mixed)
    return found


def not_tuned(evidence: Evidence) -> str:
    """Return a sentence on runs at rates that nobody searched; empty without any."""
    guessed, _, runs = untuned(evidence.table, evidence.declared.control)
    return f"Learning rate not tuned for {guessed} of {runs} runs: not a method comparison." if guessed else ""


def _idle(evidence: Evidence) -> list[str]:
    """Return a warning that names the methods that did not act."""
    named = [f"{one.short} ({100 * evidence.idle[one.cell]:.0f}% accepted)" for one in evidence.every if one.cell in evidence.idle]
    if not named:
        return []
    names = words.listed(named, MAX_REASONS)
    return [f"Did not act, so not ranked: {names}. Too little generated text was accepted (under {100 * ACTED:.0f}% of the rows)."]


def _same_texts(evidence: Evidence) -> list[str]:
    """Return a sentence for methods whose generated rows are equal in every seed and volume.

    Methods of one model and tuning, whose runs have recorded hashes of their rows.
    """
    groups: dict[tuple[str, str, frozenset[tuple[int, str, str]]], dict[str, str]] = {}
    for one in evidence.proper:
        if rows := _rows_written(evidence, one):
            method = f"{one.labels['objective']} {one.labels['mitigation']}"  # rates of one method read the same rows
            groups.setdefault((one.model, str(one.labels["tuning"]), rows), {}).setdefault(method, one.short)
    return [
        f"Trained on identical texts, so their differences are not those of methods: {words.listed(list(names.values()), MAX_REASONS)}."
        for names in groups.values()
        if len(names) > 1
    ]


def _rows_written(evidence: Evidence, one: Series) -> frozenset[tuple[int, str, str]]:
    """Return seed, volume and hash of a method's generated rows; empty if a run has none."""
    found = {run: evidence.experiment.written(run) for run in one.runs if run in evidence.records}
    if not all(found.values()):
        return frozenset()
    return frozenset((int(evidence.records[run]["seed"]), volume, text) for run, of in found.items() for volume, text in of.items())


def _mixed(evidence: Evidence) -> str:
    """Return a warning if methods were measured on different suites; empty otherwise."""
    rows = evidence.last[~evidence.last["is_control"].fillna(False).astype(bool)]
    sets = rows.groupby("cell")["suite"].agg(lambda suites: "+".join(sorted(set(suites))))
    if sets.nunique() <= 1:
        return ""
    return f"Mixed suites: methods were measured on {sets.nunique()} different sets of suites; compare two methods only on suites of both."


def warnings(evidence: Evidence) -> Section:
    """Return the warnings that limit the conclusions."""
    table, high = evidence.table, controls.too_high(evidence)
    notes = [text for text in (high, not_tuned(evidence), *main_warnings(evidence)) if text]
    seeds = evidence.findings["seeds"].dropna()
    if len(seeds) and int(seeds.min()) < MIN_SEEDS:
        notes.append(
            f"Fewer than {MIN_SEEDS} seeds for some findings: their intervals are over items only and do not cover the variation between"
            " training runs."
        )
    notes += collapses.unseen(evidence)
    if any(_evaluation(record).get("items") == "select" for record in evidence.records.values()):
        notes.append("Measured on select items, which serve to choose rates, coefficients and volumes: do not report these results.")
    notes += _overlaps(evidence)
    notes += [*_rows(evidence), *_repeated_items(evidence)]
    near = at_chance(evidence)
    if near:
        notes.append(f"Not clearly above guessing before training, so a loss can hardly be detected: {', '.join(near)}.")
    if evidence.findings["control_delta"].isna().all():
        notes.append("No same-data control was run: the change from more training on known data is not measured.")
    if not evidence.declares_headline:
        notes.append("No headline suite was declared beforehand.")
    if len(table) and "numeric_spread" in table and table["numeric_spread"].isna().all():
        notes.append("Volume 0 was not measured twice: the effect of rounding alone is not known.")
    return Section(id="warnings", title="Warnings", notes=notes)


def _rows(evidence: Evidence) -> list[str]:
    """Return a note for each data set with rows that are left out, split, cut or repeated."""
    found: dict[str, dict[str, int]] = {}
    for record in evidence.records.values():
        worst = found.setdefault(str(record["labels"].get("data")), dict.fromkeys(ROWS, 0))
        for name in ROWS:
            worst[name] = max(worst[name], record.get("data_facts", {}).get(name, 0))
    return [
        f"Rows of data {data}, most in a run: {', '.join(f'{rows} {ROWS[name]}' for name, rows in counts.items() if rows)}."
        for data, counts in found.items()
        if any(counts.values())
    ]


def _repeated_items(evidence: Evidence) -> list[str]:
    """Return a note on the suites with documents that repeat another one."""
    of_suites = evidence.table[evidence.table["task"] == SUITE_TASK].groupby("suite", sort=False)["repeated_items"].max()
    told = [f"{suite} {int(number)}" for suite, number in of_suites.dropna().items() if number]
    return [f"Documents that repeat another one are not asked: {', '.join(told)}."] if told else []


def _overlaps(evidence: Evidence) -> list[str]:
    """Return warnings that name the suites whose items occur in training rows.

    Rows of controls are named separately, since a control trains on known data by definition.
    """
    labels = pd.DataFrame({run_id: record["labels"] for run_id, record in evidence.records.items()}).T
    is_control = is_control_of(labels, evidence.declared.control)
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for run_id, record in evidence.records.items():
        found[bool(is_control[run_id])] |= {name for name, shares in record.get("overlap", {}).items() if has_overlap(shares)}
    where = {False: "the training rows", True: "the rows of same-data controls only"}
    named = {False: found[False], True: found[True] - found[False]}
    return [f"Evaluation items occur in {where[one]} (see Overlap): {', '.join(sorted(named[one]))}." for one in where if named[one]]


def _evaluation(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record.get("config", {}).get("evaluation") or {}
    return found


def at_chance(evidence: Evidence) -> list[str]:
    """Return the suites and tasks whose value before training is near guessing, with models."""
    rows = evidence.findings
    low = rows[rows["near_chance"].fillna(False).astype(bool) & (rows["role"] == "probe")]
    found = []
    for (suite, task), group in low.groupby(["suite", "task"], sort=False):
        label = evidence.panel_of[str(suite), str(task)].label
        found.append(f"{label} ({', '.join(sorted(set(group['model'].astype(str))))})")
    return found[:MAX_REASONS]


def has_overlap(shares: Any) -> bool:
    """Return whether a record's overlap with a suite is not empty."""
    return isinstance(shares, Mapping) and bool(shares.get("exact", 0) or shares.get("ngram", 0))
