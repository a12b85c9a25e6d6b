"""The top of the page: findings as sentences, each with interval, verdict and floors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from harness.analysis.findings.findings import OWN, POOLED
from harness.analysis.findings.verdicts import counted, unadjusted, verdicts_of
from harness.report import figures, words
from harness.report.content import Content, FindingView, Section
from harness.report.curves import Series
from harness.report.evidence import Evidence
from harness.report.sections import controls
from harness.report.sections.missing import main_warnings
from harness.report.tables import DisplayUnit, Panel, possible_ends

MAX_FINDINGS = 32


def opening(evidence: Evidence, sections: Sequence[Section]) -> Content:
    """Return the page: headline, facts, findings, then its sections."""
    suites = [evidence.headline] if evidence.headline else list(dict.fromkeys(panel.suite for panel in evidence.probes))
    pairs = _pairs(evidence, suites)
    shown = [view for one, suite in pairs[:MAX_FINDINGS] if (view := finding(evidence, one, suite)) is not None]
    axis = ""
    if suites and len({evidence.panel_of[suite, "*"].unit for suite in suites if (suite, "*") in evidence.panel_of}) == 1:
        axis = f"Change in {words.unit_name(evidence.panel_of[suites[0], '*'])}"
    else:  # intervals in different units do not share an axis
        shown = [FindingView(sentence=view.sentence, verdict=view.verdict, floors=view.floors) for view in shown]
    left = [f"{len(shown)} of {len(pairs)} findings are shown here; all are in findings.csv."] if len(shown) < len(pairs) else []
    return Content(
        title=f"{evidence.experiment.name}: what was learned, what was lost",
        subtitle=_subtitle(evidence),
        headline=[*_lead(evidence, suites), *left],
        findings=shown,
        axis=axis,
        facts=_facts(evidence),
        sections=sections,
    )


def _pairs(evidence: Evidence, suites: Sequence[str]) -> list[tuple[Series, str]]:
    """Return (cell, suite) of all changes of these suites, controls left out."""
    measured = {suite: set(evidence.suite_rows(suite)["cell"]) for suite in suites}
    return [(one, suite) for suite in suites for one in evidence.every if one.cell in measured[suite] and not one.is_control]


def _subtitle(evidence: Evidence) -> str:
    table = evidence.table
    versions = ", ".join(map(str, table["protocol_version"].dropna().unique()))
    return (
        "Every change is the value after training minus the value before, paired item by item. A method is a model and how it was trained;"
        " its numbers are means over its seeds. Points are percentage points. Intervals are at 95% unless stated otherwise; a change whose"
        ' interval is inside the margin is negligible ("kept").'
        f" Protocol version {versions or '-'}."
    )


def _facts(evidence: Evidence) -> dict[str, str]:
    table = evidence.table
    volumes = sorted({int(v) for v in table["volume"].dropna()} - {0})
    counts = {name: table[name].nunique() for name in ["run_id", "model", "tuning", "seed"]}
    facts = {
        "runs": f"{counts['run_id']:,}",
        "models": f"{counts['model']:,}",
        "methods": _methods(evidence),
        "seeds": f"{counts['seed']:,}",
        f"volumes ({evidence.unit})": ", ".join(f"{v:,}" for v in volumes)
        if len(volumes) <= 6
        else f"{len(volumes)}, {volumes[0]:,} to {volumes[-1]:,}",
        "headline suite": _headline(evidence),
    }
    return facts | ({"margin": _margin(evidence)} if evidence.headline else {})


def _methods(evidence: Evidence) -> str:
    controls = len(evidence.every) - len(evidence.proper)
    return f"{len(evidence.proper):,}" + (f" and {controls:,} control{'' if controls == 1 else 's'}" if controls else "")


def _headline(evidence: Evidence) -> str:
    if evidence.headline is None:
        return "none declared"
    return evidence.headline if evidence.declares_headline else f"{evidence.headline} ({_why_headline(evidence)})"


def _why_headline(evidence: Evidence) -> str:
    return "declared beforehand" if evidence.declares_headline else "not declared: the only probe suite"


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


def _lead(evidence: Evidence, suites: Sequence[str]) -> list[str]:
    """Return the first sentences: rates that are too high, verdicts by suite, main warnings."""
    sentences = [controls.too_high(evidence)]
    sentences += [text for suite in suites for text in [_range(evidence, suite), controls.sentence(evidence, suite)]]
    sentences = [text for text in sentences if text]
    if evidence.findings.empty:
        sentences.append("No change is measured yet.")
    elif not evidence.headline and suites:
        sentences.append("No suite was declared as the headline before the results were seen: none of these is the experiment's claim.")
    return sentences + main_warnings(evidence)


_PREDICATES = {"lost": "lost on", "gained": "gained on", "kept": "kept", "undecided": "are undecided on"}
_VERDICTS = {"undecided": "not enough evidence"}


def _range(evidence: Evidence, suite: str) -> str:
    """Return a sentence on the verdicts of a suite and its worst and best change."""
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
        return f"After {after}, {evidence.by_cell[worst['cell']].name} changed by {ends} on {suite}{declared}: {verdict_of(worst)}."
    where = words.in_these_runs(rows["varies"])
    if len(counts) == 1:
        every = "both methods" if count == 2 else f"all {count} methods"
        adjusted = words.adjusted(count) if found != verdicts_of(rows["verdict"]) else ""
        return f"After {after}, {every} {_PREDICATES[next(iter(counts))]} {suite}{declared}{where}{adjusted}: {ends}."
    return f"After {after}, on {suite}{declared}, of {count} methods {words.counts(counts, count)}{where}: {ends}."


def verdict_of(row: pd.Series) -> str:
    """Return a finding's verdict in words, with the runs that it holds for if these are few."""
    return words.verdict(row) or "no verdict"


def _ends(evidence: Evidence, worst: pd.Series, best: pd.Series, panel: Panel) -> str:
    texts = [words.amount(row["delta"], panel.unit, sign=True) for row in (worst, best)]
    if worst["cell"] == best["cell"]:
        return f"{texts[0]} {panel.unit.name}"
    names = [evidence.by_cell[row["cell"]].name for row in (worst, best)]
    return f"from {texts[0]} {panel.unit.name} ({names[0]}) to {texts[1]} ({names[1]})"


def finding(evidence: Evidence, one: Series, suite: str) -> FindingView | None:
    """Return a cell's finding on a suite at its largest volume; None without a change."""
    rows = one.rows[(one.rows["suite"] == suite) & (one.rows["task"] == "*")].dropna(subset=["delta"])
    largest = int(one.rows["volume"].max())
    if rows.empty:
        return None
    row, panel = rows.iloc[-1], evidence.panel_of[suite, "*"]
    withheld = evidence.withheld(one.cell)
    verdict = "" if withheld else words.text(row["verdict"])
    change = change_words(row, panel, verdict)
    sentence = f"After {int(row['volume']):,} {evidence.unit}, {one.name} {change} on {suite} ({words.basis(row)})."
    sentence += f" At {largest:,} {evidence.unit} it was not measured." if row["volume"] < largest else ""
    sentence += " The method did not act." if one.cell in evidence.idle else ""
    sentence += " Its learning rate is too high." if one.cell in evidence.too_high else ""
    scale = panel.unit.scale
    known = not pd.isna(row["delta_low"])
    low, high = figures.possible([row["delta_low"]], [row["delta_high"]], [row["before"]], panel)
    return FindingView(
        sentence=sentence,
        verdict=withheld or words.verdict(row),
        floors=floors(evidence, row, panel, one),
        value=float(row["delta"]) * scale,
        low=float(low[0]) * scale if known else None,
        high=float(high[0]) * scale if known else None,
        margin=None if pd.isna(row["margin"]) else float(row["margin"]) * scale,
    )


def change_words(row: pd.Series, panel: Panel, verdict: str) -> str:
    """Return a change in words, such as ``lost 41.2 points [38.0, 44.1]``.

    With the verdict lost or gained, the verb replaces the sign.
    """
    unit = panel.unit
    if verdict not in {"lost", "gained"}:
        return f"changed by {words.change(row, unit)} {unit.name}"
    turn = panel.sign * (1.0 if verdict == "gained" else -1.0)
    low, high = sorted(float(end) * turn for end in possible_ends(row["delta_low"], row["delta_high"], row["before"], unit))
    return f"{verdict} {words.amount(float(row['delta']) * turn, unit)} {unit.name} {words.interval(low, high, unit, sign=False)}"


_SOURCES = {POOLED: "pooled over methods", OWN: "over all volumes"}
"""Source of the spread that an interval takes, where it is not that of the finding's own seeds."""


def floors(evidence: Evidence, row: pd.Series, panel: Panel, one: Series) -> str:
    """Return sentences on the gain on targets and on changes without new training.

    The latter are the floors of the finding: seed spread, same-data control, rounding.
    """
    unit, sentences = panel.unit, []
    for target in dict.fromkeys(shown.suite for shown in evidence.targets):
        gains = one.on(target)
        if len(gains):
            other = evidence.panel_of[target, "*"].unit
            sentences.append(f"On the target, {target}: {words.change(gains.iloc[-1], other)} {other.name}.")
    spread, used = (words.amount(row[name], unit) for name in ("seed_spread", "seed_spread_used"))
    taken = "" if used in {words.UNKNOWN, spread} else f" (the interval takes {used}, {_SOURCES[str(row['spread_used'])]})"
    sentences.append("Floors: seed spread " + ("not measured" if spread == words.UNKNOWN else f"{spread} {unit.name}{taken}") + ",")
    sentences.append(_control(row, unit, judged=not evidence.withheld(one.cell)))
    rounding = words.amount(row["numeric_spread"], unit)
    sentences.append("rounding " + ("not measured." if rounding == words.UNKNOWN else f"{rounding} {unit.name}."))
    return " ".join(sentences)


def _control(row: pd.Series, unit: DisplayUnit, *, judged: bool) -> str:
    """Return the change of a control, and the contrast with it, with a verdict if judged."""
    if "control_delta" not in row or pd.isna(row["control_delta"]):
        return "same-data control not measured,"
    own = f"same-data control {words.amount(row['control_delta'], unit, sign=True)} {unit.name}"
    return f"{own}," if pd.isna(row["contrast_low"]) else f"{own} (difference {words.contrast(row, unit, judged=judged)}),"
