"""The top of the page: question, answer, and one table with a row for each method."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.analysis.findings.verdicts import counted, unadjusted, verdicts_of
from harness.report import answer, words
from harness.report.content import VERDICT_KINDS, CellView, ColumnView, Content, RowGroup, Section, TableView
from harness.report.curves import named
from harness.report.evidence import Evidence
from harness.report.sections import controls
from harness.report.sections.missing import main_warnings, not_tuned
from harness.report.summary import ABSOLUTE, NOT_COMPARED, RATIOS, AtEqualGain, MethodRow, Summary, summary
from harness.report.tables import DisplayUnit, Panel, possible_ends

MAX_ROWS = 60
"""Methods of the first table; all findings are in findings.csv."""


def opening(evidence: Evidence, sections: Sequence[Section]) -> Content:
    """Return the page: question, answer, the methods, then its sections."""
    found = summary(evidence)
    too_high = controls.too_high(evidence)
    suites = [evidence.headline] if evidence.headline else []
    answers = [*answer.at_equal_gain(evidence, found), *(_range(evidence, suite) for suite in suites), answer.kept(evidence, found)]
    if evidence.findings.empty:
        answers.append("No change is measured yet.")
    exploratory = "No suite was declared as the headline before the results were seen: the answer is exploratory."
    notes = [*([exploratory] if suites and not evidence.declares_headline else []), *main_warnings(evidence)]
    table = _methods_table(evidence, found)
    return Content(
        title=evidence.declared.question or f"{evidence.experiment.name}: what was learned, what was lost",
        subtitle=f"Experiment {evidence.experiment.name}" if evidence.declared.question else "",
        headline=[text for text in (too_high, not_tuned(evidence), *answers) if text],
        notes=notes,
        facts=_facts(evidence),
        sections=[*([_methods(evidence, table, suites)] if table else []), *sections],
    )


def _methods(evidence: Evidence, table: TableView, suites: Sequence[str]) -> Section:
    notes = [text for suite in suites if (text := controls.sentence(evidence, suite))]
    return Section(id="methods", title="Method by method", tables=[table], notes=notes)


def _methods_table(evidence: Evidence, found: Summary) -> TableView | None:
    """Return a row for each method, in groups by model where there are several."""
    if not found.rows or not (found.gain or found.losses):
        return None
    shown = found.rows[:MAX_ROWS]
    models = list(dict.fromkeys(row.one.model for row in shown))
    groups = [RowGroup(next(at for at, row in enumerate(shown) if row.one.model == model), named(model)) for model in models]
    equal = any(row.equal is not None for row in shown)
    columns = [ColumnView(title="method", is_prose=True)]
    columns += [_suite_column("learned", found.gain)] if found.gain else []
    columns += [_suite_column("lost", panel) for panel in found.losses]
    columns += [_equal_column(found)] if equal else []
    columns.append(ColumnView(title=found.cost, meaning=_COSTS[found.cost]))
    return TableView(
        name="methods",
        columns=columns,
        rows=[_cells(evidence, found, row, equal=equal) for row in shown],
        caption=_caption(evidence, found),
        data=_data(found),
        shown=words.excerpt(MAX_ROWS, len(found.rows), "methods", "findings.csv"),
        groups=groups if len(models) > 1 else (),
    )


_COSTS = {
    RATIOS: "ratios to no mitigation with the same model, tuning, objective, data and volume, and the fewest passes; times vary",
    ABSOLUTE: "up to the largest volume, without evaluation",
}


def _data(found: Summary) -> pd.DataFrame:
    """Return the numbers of the table: changes in the metric's own unit and sign."""
    rows = []
    for row in found.rows:
        values: dict[str, Any] = {"cell": row.one.cell, "model": row.one.model, "method": row.one.style_name}
        for name, change in (("gain", row.gain), *((f"loss_{place}", loss) for place, loss in enumerate(row.losses, 1))):
            for column in ("suite", "delta", "delta_low", "delta_high", "verdict"):
                values[f"{name}_{column}"] = None if change is None else change[column]
        equal = row.equal
        values |= {"reference": equal.reference if equal else None, "at_equal_gain": equal.difference if equal else None}
        values |= {"at_equal_gain_low": equal.low if equal else None, "at_equal_gain_high": equal.high if equal else None}
        rows.append({**values, "at_equal_gain_verdict": equal.verdict if equal else None, "cost": row.cost})
    return pd.DataFrame(rows)


def _suite_column(kind: str, panel: Panel) -> ColumnView:
    meaning = {"learned": "gain since before training", "lost": "loss since before training; positive is worse"}[kind]
    return ColumnView(title=f"{kind}: {panel.suite} ({panel.unit.name})", is_number=True, meaning=meaning)


def _equal_column(found: Summary) -> ColumnView:
    against = "against no mitigation, " if found.is_about_mitigations else ""
    panel = found.losses[0]
    meaning = f"loss on {panel.suite} minus that of the other method, where both have gained equally much; negative is better"
    return ColumnView(title=f"{against}at equal gain ({panel.unit.name})", is_number=True, meaning=meaning)


def _caption(evidence: Evidence, found: Summary) -> str:
    """Return the meaning of the numbers, once: intervals, margin, controls."""
    panels = [panel for panel in (found.gain, *found.losses) if panel]
    wholes = evidence.last[(evidence.last["task"] == "*") & evidence.last["suite"].isin([panel.suite for panel in panels])]
    over = " or ".join(sorted(wholes["varies"].dropna().unique()))
    counts = sorted({int(count) for count in wholes["seeds"].dropna()} - {0})
    seeds = words.seeds(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds" if counts else "no seeds"
    text = f"Change from before training to the largest volume, with {words.levels_of(wholes) or 'no'} intervals"
    text += f" over {over}, {seeds}." if over else "."
    if any(panel.unit.name == "points" for panel in panels):
        text += " Points are percentage points."
    return f"{text} kept: the interval is inside the margin ({_margin(evidence)})." if evidence.headline else text


def _cells(evidence: Evidence, found: Summary, row: MethodRow, *, equal: bool) -> list[CellView | str]:
    cells: list[CellView | str] = [CellView(row.one.style_name, note=evidence.mark(row.one.cell))]
    withheld = evidence.withheld(row.one.cell)
    if found.gain:
        cells.append(_change_cell(row.gain, found.gain, found.gain.sign, withheld))
    cells += [_change_cell(loss, panel, -panel.sign, withheld) for panel, loss in zip(found.losses, row.losses, strict=True)]
    if equal:
        cells.append(_equal_cell(row.equal, found))
    return [*cells, row.cost]


def _change_cell(row: pd.Series | None, panel: Panel, sign: float, withheld: str) -> CellView:
    """Return a change, turned by ``sign``, with its verdict as mark; kept ones say so."""
    if row is None:
        return CellView("not measured")
    unit, value = panel.unit, sign * float(row["delta"])
    text = brief(value, unit, sign=True)
    if not pd.isna(row["delta_low"]):
        ends = sorted(sign * float(end) for end in possible_ends(row["delta_low"], row["delta_high"], row["before"], unit))
        text = f"{text} [{brief(ends[0], unit)},\u00a0{brief(ends[1], unit)}]"
    verdict = "" if withheld else words.text(row["verdict"])
    notes = [words.held_by(row) if verdict in {"lost", "gained"} else "", "" if row["suite"] == panel.suite else f"on {row['suite']}"]
    text = f"kept {text}" if verdict == "kept" else text
    return CellView(text, value, VERDICT_KINDS.get(verdict, ""), note=", ".join(filter(None, notes)))


_EQUAL = {"better": "gained", "worse": "lost", "alike": "kept", "not enough evidence": "unclear"}
"""Verdict at equal gain → kind of its cell."""


def _equal_cell(one: AtEqualGain | None, found: Summary) -> CellView:
    if one is None:
        return CellView(words.UNKNOWN)
    if one.verdict in NOT_COMPARED:
        return CellView(one.verdict or "gains do not overlap")
    unit = found.losses[0].unit
    text = f"{brief(one.difference, unit, sign=True)} [{brief(one.low, unit)},\u00a0{brief(one.high, unit)}]"
    word = {"better": "better", "worse": "worse", "alike": "alike"}.get(one.verdict, "undecided")
    note = "" if one.is_plain else f"than {one.reference}" if one.verdict in {"better", "worse"} else f"next to {one.reference}"
    return CellView(f"{word} {text}", one.difference, _EQUAL.get(one.verdict, ""), note=note)


def brief(value: float, unit: DisplayUnit, *, sign: bool = False) -> str:
    """Return a number for a first reading: large ones have fewer decimals."""
    scaled = value * unit.scale
    decimals = max(0, unit.decimals - 1) if abs(scaled) >= LARGE.get(unit.name, 0.1) else unit.decimals
    return words.amount(value, dataclasses.replace(unit, decimals=decimals), sign=sign)


LARGE = {"points": 2.0}
"""Unit → size from which a number has a decimal less; of others, 0.1."""


def _facts(evidence: Evidence) -> dict[str, str]:
    table = evidence.table
    volumes = sorted({int(v) for v in table["volume"].dropna()} - {0})
    counts = {name: table[name].nunique() for name in ["run_id", "model", "tuning", "seed"]}
    facts = {
        "runs": f"{counts['run_id']:,}",
        "models": f"{counts['model']:,}",
        "methods": _count_methods(evidence),
        "seeds": f"{counts['seed']:,}",
        f"volumes ({evidence.unit})": ", ".join(f"{v:,}" for v in volumes)
        if len(volumes) <= 6
        else f"{len(volumes)}, {volumes[0]:,} to {volumes[-1]:,}",
        "headline suite": _headline(evidence),
    }
    return facts | ({"margin": _margin(evidence)} if evidence.headline else {})


def _count_methods(evidence: Evidence) -> str:
    controls = len(evidence.every) - len(evidence.proper)
    return f"{len(evidence.proper):,}" + (f" and {controls:,} control{'' if controls == 1 else 's'}" if controls else "")


def _headline(evidence: Evidence) -> str:
    if evidence.headline is None:
        return "none declared"
    return evidence.headline if evidence.declares_headline else f"{evidence.headline} ({_why_headline(evidence)})"


def _why_headline(evidence: Evidence) -> str:
    return "declared beforehand" if evidence.declares_headline else "not declared: the first probe suite"


def _margin(evidence: Evidence) -> str:
    """Return the margin of the headline suite, then those in other units."""
    found: dict[str, str] = {}
    for suite in dict.fromkeys([str(evidence.headline), *(panel.suite for panel in evidence.probes)]):
        panel = evidence.panel_of[suite, "*"]
        margin = evidence.declared.margins.get(suite, evidence.declared.margin)
        in_words = f" ({100 * math.expm1(margin):.0f}% of perplexity)" if panel.metric == _NATS else ""
        found.setdefault(panel.unit.name, f"±{words.amount(margin, panel.unit)} {panel.unit.name}{in_words}")
    return ", ".join(found.values())


_NATS = "nats_per_token"


_PREDICATES = {"lost": "lost on", "gained": "gained on", "kept": "kept", "undecided": "are undecided on"}
_VERDICTS = {"undecided": "not enough evidence"}


def _range(evidence: Evidence, suite: str) -> str:
    """Return a sentence on the verdicts of a suite, its largest and its smallest loss."""
    rows = evidence.suite_rows(suite)
    ranked = ~rows["is_control"].fillna(False).astype(bool) & ~rows["cell"].isin(list(evidence.unranked))
    rows = rows[ranked].dropna(subset=["delta"])
    if rows.empty:
        return ""
    panel, count = evidence.panel_of[suite, "*"], len(rows)
    found = counted(rows["verdict"], unadjusted(rows))
    counts = {name: number for name in _PREDICATES if (number := found.count(_VERDICTS.get(name, name)))}
    ordered = rows.assign(_worse=rows["delta"].astype(float) * panel.sign).sort_values("_worse", kind="stable")
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    volumes = sorted({int(v) for v in rows["volume"]})
    after = f"{volumes[-1]:,} {evidence.unit}" if len(volumes) == 1 else f"{volumes[0]:,} to {volumes[-1]:,} {evidence.unit}"
    declared = f" (the headline, {_why_headline(evidence)})" if suite == evidence.headline else ""
    ends = _ends(evidence, worst, best, panel)
    if count == 1:
        return f"After {after}, {evidence.by_cell[worst['cell']].name}: loss of {ends} on {suite}{declared}, {verdict_of(worst)}."
    where = words.in_these_runs(rows["varies"])
    if len(counts) == 1:
        every = "both methods" if count == 2 else f"all {count} methods"
        adjusted = words.adjusted(count) if found != verdicts_of(rows["verdict"]) else ""
        return f"After {after}, {every} {_PREDICATES[next(iter(counts))]} {suite}{declared}{where}{adjusted}: losses {ends}."
    return f"After {after}, on {suite}{declared}, of {count} methods {words.counts(counts, count)}{where}: losses {ends}."


def verdict_of(row: pd.Series) -> str:
    """Return a finding's verdict in words, with the runs that it holds for if these are few."""
    return words.verdict(row) or "no verdict"


def _ends(evidence: Evidence, worst: pd.Series, best: pd.Series, panel: Panel) -> str:
    """Return the largest and the smallest loss; positive is worse, as in the table."""
    texts = [words.amount(-panel.sign * row["delta"], panel.unit) for row in (worst, best)]
    if worst["cell"] == best["cell"]:
        return f"{texts[0]} {panel.unit.name}"
    names = [evidence.by_cell[row["cell"]].name for row in (worst, best)]
    return f"from {texts[0]} {panel.unit.name} ({names[0]}) to {texts[1]} ({names[1]})"
