"""The top of the page: the findings in sentences, each with its interval, its verdict and the floors it stands above."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.report import figures, words
from harness.report.content import Content, FindingView, Section
from harness.report.curves import Series
from harness.report.evidence import Evidence
from harness.report.sections import controls
from harness.report.sections.missing import troubles
from harness.report.tables import Panel

MAX_FINDINGS = 32


def opening(evidence: Evidence, sections: Sequence[Section]) -> Content:
    """Return the page with its headline, facts and findings before its sections."""
    suites = [evidence.headline] if evidence.headline else list(dict.fromkeys(panel.suite for panel in evidence.probes))
    pairs = _pairs(evidence, suites)
    shown = [view for one, suite in pairs[:MAX_FINDINGS] if (view := finding(evidence, one, suite)) is not None]
    axis = ""
    if suites and len({evidence.panel_of[suite, "*"].unit for suite in suites if (suite, "*") in evidence.panel_of}) == 1:
        axis = f"Change in {words.unit_name(evidence.panel_of[suites[0], '*'])}"
    else:  # intervals in different units do not stand on one axis
        shown = [FindingView(sentence=view.sentence, verdict=view.verdict, floors=view.floors) for view in shown]
    left = [f"{len(shown)} of {len(pairs)} findings stand here; all of them are in findings.csv."] if len(shown) < len(pairs) else []
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
    """Return the cells that have a change of each suite, controls left out."""
    measured = {suite: set(evidence.suite_rows(suite)["cell"]) for suite in suites}
    return [(one, suite) for suite in suites for one in evidence.every if one.cell in measured[suite] and not one.is_control]


def _subtitle(evidence: Evidence) -> str:
    table = evidence.table
    versions = ", ".join(map(str, table["protocol_version"].dropna().unique()))
    return (
        "Every change is the value after training minus the one before, on the same items, joined item by item. A way of training is a"
        " model with how it was trained; its seeds are taken together. Points are hundredths of a share of items. Intervals are at 95%"
        " unless they say otherwise; a change whose interval lies within the margin is none that matters."
        f" Protocol version {versions or '-'}."
    )


def _facts(evidence: Evidence) -> dict[str, str]:
    table = evidence.table
    volumes = sorted({int(v) for v in table["volume"].dropna()} - {0})
    counts = {name: table[name].nunique() for name in ["run_id", "model", "tuning", "seed"]}
    facts = {
        "runs": f"{counts['run_id']:,}",
        "models": f"{counts['model']:,}",
        "ways of training": _ways(evidence),
        "seeds": f"{counts['seed']:,}",
        "volumes (rows)": ", ".join(f"{v:,}" for v in volumes)
        if len(volumes) <= 6
        else f"{len(volumes)}, {volumes[0]:,} to {volumes[-1]:,}",
        "headline suite": evidence.headline or "none declared",
    }
    return facts | ({"margin": _margin(evidence)} if evidence.headline else {})


def _ways(evidence: Evidence) -> str:
    controls = len(evidence.every) - len(evidence.proper)
    return f"{len(evidence.proper):,}" + (f" and {controls:,} control{'' if controls == 1 else 's'}" if controls else "")


def _margin(evidence: Evidence) -> str:
    suite = str(evidence.headline)
    unit = evidence.panel_of[suite, "*"].unit
    return f"±{words.amount(evidence.declared.margins.get(suite, evidence.declared.margin), unit)} {unit.name}"


def _lead(evidence: Evidence, suites: Sequence[str]) -> list[str]:
    """Return the first sentences: how many ways of training lost, between what and what, and what must be known with it."""
    said = [text for suite in suites for text in [_range(evidence, suite), controls.sentence(evidence, suite)] if text]
    if evidence.findings.empty:
        said.append("No change is measured yet.")
    elif not evidence.headline and suites:
        said.append("No suite was declared as the headline before the results were seen: none of these is the claim of the experiment.")
    return said + troubles(evidence)


_DID = {"lost": "lost on", "gained": "gained on", "kept": "kept", "undecided": "are undecided on"}


def _range(evidence: Evidence, suite: str) -> str:
    rows = evidence.suite_rows(suite)
    ranked = ~rows["is_control"].fillna(False).astype(bool) & ~rows["cell"].isin(list(evidence.idle))
    rows = rows[ranked].dropna(subset=["delta"])
    if rows.empty:
        return ""
    panel, count = evidence.panel_of[suite, "*"], len(rows)
    verdicts = rows["verdict"].value_counts()
    said = [f"{int(verdicts.get(name, 0))} {name}" for name in ["lost", "gained", "kept"] if verdicts.get(name, 0)]
    unclear = count - sum(int(verdicts.get(name, 0)) for name in ["lost", "gained", "kept"])
    said += [f"{unclear} undecided"] if unclear else []
    ordered = rows.assign(_worse=rows["delta"].astype(float) * (1 if panel.higher_is_better else -1)).sort_values("_worse", kind="stable")
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    volumes = sorted({int(v) for v in rows["volume"]})
    after = f"{volumes[-1]:,} rows" if len(volumes) == 1 else f"{volumes[0]:,} to {volumes[-1]:,} rows"
    ways = f"{count} ways of training" if count > 1 else "one way of training"
    declared = " (the headline, declared beforehand)" if suite == evidence.headline else ""
    ends = _ends(evidence, worst, best, panel)
    if count == 1:
        return f"After {after}, {evidence.by_cell[worst['cell']].name} changed by {ends} on {suite}{declared}: {verdict_of(worst)}."
    if len(said) == 1:
        every = "both ways of training" if count == 2 else f"all {ways}"
        return f"After {after}, {every} {_DID[said[0].split(' ', 1)[1]]} {suite}{declared}: {ends}."
    return f"After {after}, {', '.join(said)} of {ways} on {suite}{declared}: {ends}."


def verdict_of(row: pd.Series) -> str:
    """Return a finding's verdict in words."""
    return "no verdict" if pd.isna(row["verdict"]) else str(row["verdict"])


def _ends(evidence: Evidence, worst: pd.Series, best: pd.Series, panel: Panel) -> str:
    texts = [words.amount(row["delta"], panel.unit, sign=True) for row in (worst, best)]
    if worst["cell"] == best["cell"]:
        return f"{texts[0]} {panel.unit.name}"
    names = [evidence.by_cell[row["cell"]].name for row in (worst, best)]
    return f"from {texts[0]} {panel.unit.name} ({names[0]}) to {texts[1]} ({names[1]})"


def finding(evidence: Evidence, one: Series, suite: str) -> FindingView | None:
    """Return the sentence about a cell and suite at the cell's largest volume.

    None where there is no change.
    """
    rows = one.rows[(one.rows["suite"] == suite) & (one.rows["task"] == "*")].dropna(subset=["delta"])
    largest = int(one.rows["volume"].max())
    if rows.empty:
        return None
    row, panel = rows.iloc[-1], evidence.panel_of[suite, "*"]
    sign = 1.0 if panel.higher_is_better else -1.0
    verdict = "" if pd.isna(row["verdict"]) else str(row["verdict"])
    said = f"After {int(row['volume']):,} rows, {one.name} {moved(row, panel, verdict)} on {suite} ({words.basis(row)})."
    said += f" At {largest:,} rows it was not measured." if row["volume"] < largest else ""
    said += " The method did not act." if one.cell in evidence.idle else ""
    scale = panel.unit.scale
    known = not pd.isna(row["delta_low"])
    low, high = figures.possible([row["delta_low"]], [row["delta_high"]], [row["before"]], panel)
    return FindingView(
        sentence=said,
        verdict=verdict,
        floors=floors(evidence, row, panel, one),
        value=float(row["delta"]) * scale,
        low=float(low[0]) * scale if known else None,
        high=float(high[0]) * scale if known else None,
        margin=None if pd.isna(row["margin"]) or sign == 0 else float(row["margin"]) * scale,
    )


def moved(row: pd.Series, panel: Panel, verdict: str) -> str:
    """Say by how much something changed: ``lost 41.2 points [38.0, 44.1]``, the sign in the word where there is a verdict."""
    unit, sign = panel.unit, 1.0 if panel.higher_is_better else -1.0
    if verdict not in {"lost", "gained"}:
        return f"changed by {words.change(row, unit)} {unit.name}"
    turn = sign * (1.0 if verdict == "gained" else -1.0)
    low, high = sorted(float(row[name]) * turn for name in ["delta_low", "delta_high"])
    return f"{verdict} {words.amount(float(row['delta']) * turn, unit)} {unit.name} {words.interval(low, high, unit, sign=False)}"


def floors(evidence: Evidence, row: pd.Series, panel: Panel, one: Series) -> str:
    """Say what a change stands above: the spread of seeds, the same-data control, rounding.

    And what was gained on the target.
    """
    unit, said = panel.unit, []
    for target in dict.fromkeys(shown.suite for shown in evidence.targets):
        gains = one.on(target)
        if len(gains):
            other = evidence.panel_of[target, "*"].unit
            said.append(f"On the target, {target}: {words.change(gains.iloc[-1], other)} {other.name}.")
    spread = words.amount(row["seed_spread"], unit)
    said.append("Floors: seed spread " + ("not measured" if spread == words.UNKNOWN else f"{spread} {unit.name}") + ",")
    control = words.change(row, unit, "control") if "control_low" in row and not pd.isna(row["control_delta"]) else ""
    said.append(f"same-data control {control} {unit.name}," if control else "same-data control not measured,")
    rounding = words.amount(row["numeric_spread"], unit)
    said.append("rounding " + ("not measured." if rounding == words.UNKNOWN else f"{rounding} {unit.name}."))
    return " ".join(said)
