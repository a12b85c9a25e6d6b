"""Claims of the literature with their verdicts: ``docs/CLAIMS.md``, a page, and small tables."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.analysis.claims import contrasts, tables, verdicts
from harness.analysis.claims.declaration import FOLDER, Claim
from harness.analysis.claims.tables import Tables
from harness.analysis.claims.verdicts import Line
from harness.analysis.findings import equal_gain
from harness.analysis.table.changes import Changes
from harness.analysis.table.columns import SUITE_TASK
from harness.analysis.table.runs import RunReader
from harness.config import paths
from harness.config.yaml_files import first_sentence
from harness.core.errors import ConfigError, explain
from harness.records.store import Experiment
from harness.report import evidence, words
from harness.report.content import CellView, ColumnView, Content, Section, TableView
from harness.report.tables import DisplayUnit, markdown, possible_ends, unit_of

NOT_RUN = "not run yet"

TITLE = "Claims about forgetting, each put to a test"

INTRO = (
    "Each claim of the literature below is one experiment on small models that ship with this project (the last one on a real"
    " model). Its test and its margin were declared in the experiment's file before the runs, unless its verdict says"
    " otherwise. The verdict and every number of a result are computed from the tables in `results/reference/claims/`. What"
    " was measured on models of 0.04 to 1.2 million parameters need not hold for larger ones: a verdict is the outcome of a"
    " test in kind, not a replication.",
    "**Shown**: every comparison came out as claimed. **Contrary**: at least one came out against the claim, and none for it."
    " **Not shown**: neither, or some for it and some against. **Not testable here**: no comparison has a number. The verdict"
    " is that of the first test alone; what only the further tests concern has no part in it.",
    "**Loss** and **forgetting** are the same: how much worse a score is than before training, positive is worse; on the"
    " target it is minus the gain. Points are percentage points. **Rows** are training rows, and a **volume** is a number of"
    " them. An **arm** is a method of the experiment. **FG** is the percent of the score before that was lost, averaged over"
    " the stages. Every arm has three seeds, and arms of equal settings in two claims are the same runs: they are not"
    " independent evidence, and their intervals differ a little, since the variance between seeds is pooled over a claim's"
    " arms.",
    "**At equal gain**: forgetting as a function of the gain, averaged over gains from 10 to 100% of the largest that both"
    " methods reach (from no training to the smallest volume, the path is a straight line). All arms without a mitigation, at"
    " every rate and number of passes, count as one method, which is the best of them at each gain. So a mitigation that does"
    " nothing at its one rate comes out worse. A pair is not compared where one of them is not known to gain, or where most of"
    " the gains are below the smallest volume.",
    "**The verdict of a comparison** is by its 95% interval over seeds and items, and by the p-value of no difference,"
    " adjusted by Holm over the comparisons of one declared test (a table can hold several tests). A difference whose interval"
    ' is inside the margin is negligible: it counts for a claim of no difference, and against a claim of one. "At most" and'
    ' "at least" are decided by the end of the interval alone. Intervals of'
    " suites in nats are less reliable than those of shares: too narrow at the smallest volumes of adapters, and sometimes far"
    " too wide at the largest (benchmarks/METHOD.md, section 4). That of a rank correlation is its range over"
    " seeds and items with the arms as they are; it can be mostly on one side of the estimate.",
)

OVERVIEW = ("#", "claim", "verdict", "first comparison")
COMPARISONS = ("comparison", "on", "claimed", "estimate [95% interval]", "p (Holm)", "verdict", "remarks")
ARMS = ("arm", "trained with", "rate", "rows", "gain on the target", "loss", "nats of the targets")

VARIED = ("model", "objective", "mitigation", "data", "anchor", "variant")
"""Labels that are shown for an arm where they differ between arms; the tuning always is."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A claim with the outcome of its tests.

    Attributes:
        name: of its file, and of the folder of its tables.
        claim: as declared now.
        tables: of its sweep; None before it was run.
        headline: the lines that decide the verdict.
        also: lines of further tests.
    """

    name: str
    claim: Claim
    tables: Tables | None
    headline: Sequence[Line] = ()
    also: Sequence[Sequence[Line]] = ()

    @property
    def verdict(self) -> str:
        """The verdict, or that it was not run."""
        return NOT_RUN if self.tables is None else verdicts.overall(self.headline)

    @property
    def declared(self) -> str:
        """When the claim was declared, in words."""
        first = self.tables.about.get("declared") if self.tables else self.claim.digest
        return "declared before the runs" if first == self.claim.digest else "declared afterwards"

    @property
    def sentence(self) -> str:
        """The verdict with the number of comparisons and the first estimate."""
        if self.tables is None:
            return NOT_RUN
        counts = verdicts.counted(self.headline)
        told = ", ".join(f"{number} {name}" for name, number in counts.items())
        of = f"of {len(self.headline)} comparisons {told}; " if len(self.headline) > 1 else ""
        return f"{self.verdict} ({of}{self.declared})"


def results(claims: Mapping[str, Claim], folder: Path) -> list[Result]:
    """Return the claims with the outcome of their tests.

    Args:
        claims: name → claim.
        folder: of the small tables, one folder for each claim.
    """
    return [_result(name, claim, tables.read(folder / name)) for name, claim in claims.items()]


def _result(name: str, claim: Claim, found: Tables | None) -> Result:
    if found is None:
        return Result(name=name, claim=claim, tables=None)
    also = [claim.judged(test, found) for test in claim.also]
    return Result(name=name, claim=claim, tables=found, headline=claim.judged(claim.headline, found), also=also)


def collect(experiment: Experiment, claims: Mapping[str, Claim], folder: Path) -> str:
    """Write the small tables of a finished sweep.

    Args:
        experiment: its results, in a folder named ``claims-NAME``.
        claims: name → claim.
        folder: for the tables of all claims.

    Returns:
        The name of the claim.

    Raises:
        ConfigError: if the experiment declares no claim of these.
    """
    name = experiment.name.removeprefix("claims-")
    if name not in claims:
        allowed = ", ".join(f"claims-{name}" for name in claims) or f"nothing: {FOLDER} is empty"
        raise ConfigError(explain("--collect", got=f"the results {experiment.name}", allowed=allowed))
    known = evidence.measured(experiment)
    pairs = equal_gain.equal_gain(
        known.table,
        Changes(experiment, RunReader(experiment)),
        known.declared,
        findings=known.findings,
        targets=experiment.targets(),
    )
    manifest, runs = experiment.manifest(), known.table.drop_duplicates("run_id")
    trained = known.table.groupby("run_id")["wall_seconds"].max().fillna(0.0)
    about = {
        "declared": manifest.claim if manifest else "",
        "runs": len(runs),
        "failed": int((runs["status"] == "failed").sum()),
        "training_seconds": round(float(trained.sum())),
        "protocol_version": int(known.table["protocol_version"].dropna().max()) if len(known.table) else 0,
    }
    tables.write(tables.small(known.findings, pairs, about), folder / name)
    return name


def text(found: Sequence[Result]) -> str:
    """Return ``docs/CLAIMS.md``."""
    parts = [f"# {TITLE}\n", *(f"{line}\n" for line in INTRO), "Written by `harness claims`; edits are lost.\n"]
    parts.append(markdown(OVERVIEW, _overview(found)))
    return "\n".join([*parts, *map(_section_text, found)])


def _overview(found: Sequence[Result]) -> list[list[str]]:
    return [[str(one.claim.number), one.claim.title, one.verdict, _first(one)] for one in found]


def _first(one: Result) -> str:
    """Return the first comparison in words, with its interval."""
    known = [line for line in one.headline if not math.isnan(line.estimate)]
    return f"{known[0].what} ({known[0].where}): {_estimate(known[0])}" if known else ""


def _section_text(one: Result) -> str:
    claim = one.claim
    parts = [
        f"## {claim.number}. {claim.title}\n",
        f"**Verdict: {one.sentence}.**\n",
        *(f"**{name}.** {value}\n" for name, value in _facts(one)),
    ]
    for title, columns, rows in _tables(one):
        parts.append(f"{title}:\n\n{markdown(columns, rows)}")
    where = f"{FOLDER}/{one.name}.yaml"
    parts.append(f"Its arms: [{where}](../{where}). To run it: `make claims CLAIM={one.name}`.\n")
    return "\n".join(parts)


def _facts(one: Result) -> list[tuple[str, str]]:
    claim = one.claim
    facts = [
        ("Claim", f"{_flat(claim.statement)} ({', '.join(claim.papers)})"),
        ("Refuted by", _flat(claim.refuted)),
        ("In the literature", _flat(claim.literature)),
        ("Limits", _flat(claim.limits)),
    ]
    facts.append(("Margin", f"{claim.margin:g} in the unit of the suite: for shares {100 * claim.margin:g} points."))
    if (told := _suites(one)) != ".":
        facts.append(("Suites", told))
    if one.tables is not None:
        about = one.tables.about
        failed = f", {about['failed']} failed" if about.get("failed") else ""
        minutes = float(about.get("training_seconds", 0)) / 60
        facts.append(("Before training", _before(one.tables)))
        facts.append(("Runs", f"{about.get('runs')}{failed}; {minutes:.1f} minutes of training on one core each, without evaluation."))
    return facts


def _suites(one: Result) -> str:
    """Return the suites that its tests read, each with a sentence about it."""
    names = [_headline(one.tables)] if one.tables else []
    names += [name for test in (one.claim.headline, *one.claim.also) for name in test.suites]
    known = {path.stem: path for kind in ("tasks", "suites") for path in paths.members(f"benchmarks/{kind}").values()}
    told = [
        f"{name}: {first_sentence(known[name]).split(' (benchmarks/')[0].rstrip('.')}" for name in dict.fromkeys(names) if name in known
    ]
    return f"{'; '.join(told)}."


def _before(found: Tables) -> str:
    """Return the scores before training on the targets and on the suite of the arms' losses."""
    rows = found.findings[found.findings["task"] == SUITE_TASK]
    rows = rows[(rows["role"] == "target") | (rows["suite"] == _headline(found))].dropna(subset=["before"])
    told = []
    for suite, of in rows.groupby("suite", sort=False):
        unit = unit_of(str(of["metric"].iloc[0]), share=contrasts.is_share(of.iloc[0]))
        each = of.drop_duplicates("model")
        scores = [f"{words.amount(before, unit)} ({model})" for before, model in zip(each["before"], each["model"], strict=True)]
        told.append(f"{suite}, {unit.name}: {', '.join(scores)}")
    return f"{'; '.join(told)}."


def _tables(one: Result) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Return titles, headings and rows of a claim's tables."""
    if one.tables is None:
        return []
    found: list[tuple[str, Sequence[str], list[list[str]]]] = [("The test", COMPARISONS, [_comparison(line) for line in one.headline])]
    if also := [_comparison(line) for lines in one.also for line in lines]:
        found.append(("Also tested, without a part in the verdict", COMPARISONS, also))
    if rows := _arms(one.tables):
        suite = _headline(one.tables)
        found.append(
            (
                f"All arms at their largest volume; loss is on {suite}, nats of the targets are those a token under the start model",
                ARMS,
                rows,
            )
        )
    return found


def _comparison(line: Line) -> list[str]:
    p_value = "" if math.isnan(line.p_holm) else f"{line.p_holm:.3f}" if line.p_holm >= 0.001 else "below 0.001"
    return [line.what, line.where, _claimed(line), _estimate(line), p_value, line.verdict, line.note]


def _claimed(line: Line) -> str:
    """Return what the claim expects of an estimate."""
    margin = words.amount(line.margin, _unit(line)) if line.margin else "0"
    unit = f" {_unit(line).name}" if line.margin and line.metric else ""
    said = {"more": "above 0", "less": "below 0", "alike": f"within ±{margin}{unit}"}
    return said.get(line.expect) or (f"at most +{margin}{unit}" if line.expect == "no more" else f"at least −{margin}{unit}")


def _estimate(line: Line) -> str:
    if math.isnan(line.estimate):
        return words.UNKNOWN
    unit = _unit(line)
    name = f" {unit.name}" if line.metric else ""
    return f"{words.amount(line.estimate, unit, sign=True)} {words.interval(line.low, line.high, unit)}{name}"


def _unit(line: Line) -> DisplayUnit:
    return unit_of(line.metric, share=line.is_share) if line.metric else DisplayUnit("", 1.0, 2)


def _headline(found: Tables) -> str:
    """Return the suite whose loss is shown for all arms: of equal gain, else the first probe."""
    declared = found.equal_gain["headline_suite"].dropna()
    probes = found.findings.loc[found.findings["role"] == "probe", "suite"]
    return str(declared.iloc[0]) if len(declared) else str(probes.iloc[0]) if len(probes) else ""


def _arms(found: Tables) -> list[list[str]]:
    """Return a row for each cell: its gain, its loss and the familiarity of its targets."""
    rows = contrasts.at_last(found.findings[found.findings["task"] == SUITE_TASK])
    lost = rows[rows["suite"] == _headline(found)]
    targets = rows[rows["role"] == "target"].drop_duplicates("cell").set_index("cell")
    varied = [name for name in VARIED if lost[name].nunique(dropna=False) > 1]
    shown = []
    for _, row in lost.iterrows():
        target = targets.loc[row["cell"]] if row["cell"] in targets.index else None
        gain = words.UNKNOWN if target is None else _with_interval(target, gains=True)
        nats = words.UNKNOWN if pd.isna(row["target_nats"]) else f"{float(row['target_nats']):.2f}"
        name = contrasts.text(row["arm"]) or f"{row['model']}, {row['data']}"
        rate = "" if pd.isna(row["learning_rate"]) else f"{float(row['learning_rate']):g}"
        shown.append([name, _trained_with(row, varied), rate, f"{int(row['volume']):,}", gain, _with_interval(row), nats])
    return shown


def _trained_with(row: pd.Series, varied: Sequence[str]) -> str:
    """Return the tuning of a cell, and its other labels among those that vary over the arms."""
    epochs = [f"{int(row['epochs'])} passes"] if not pd.isna(row["epochs"]) and float(row["epochs"]) > 1 else []
    labels = (contrasts.text(row[name]) for name in ("tuning", *varied))
    shown = dict.fromkeys("no mitigation" if label == "none" else _short(label) for label in labels if label)
    return ", ".join([*shown, *epochs])


NOT_SHOWN_SETTINGS = (
    "max_new_tokens|check|template|prefix|separator|samples|reward|grid",  # of generated rows and rollouts
    "device|micro_batch_rows|processes",  # of the machine
)


def _short(label: str) -> str:
    """Return a label without the settings of generation and of the machine."""
    kept = re.sub(rf"\b({'|'.join(NOT_SHOWN_SETTINGS)})=[^\[\],]*(\[[^\]]*\])?,?", "", label)
    return re.sub(r",\s*\]", "]", kept).replace("[]", "").strip(", ")


def _with_interval(row: pd.Series, *, gains: bool = False) -> str:
    """Return the loss of a finding with its interval, or the gain."""
    unit = unit_of(str(row["metric"]), share=contrasts.is_share(row))
    sign = 1 if bool(row["higher_is_better"]) == gains else -1
    before, low, high = contrasts.numbers(row, "before", "delta_low", "delta_high")
    low, high = sorted(sign * float(end) for end in possible_ends(low, high, before, unit))
    return f"{words.amount(sign * row['delta'], unit, sign=True)} {words.interval(low, high, unit)} {unit.name}"


def _flat(value: str) -> str:
    return " ".join(value.split())


KINDS = {verdicts.SHOWN: "gained", verdicts.CONTRARY: "lost"}


def page(found: Sequence[Result]) -> Content:
    """Return the same as a page."""
    counts = {name: sum(one.verdict == name for one in found) for name in (*verdicts.VERDICTS, NOT_RUN)}
    lead = f"Of {len(found)} claims: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}."
    table = TableView(
        name="claims",
        columns=[ColumnView(title=title, is_prose=title != "#") for title in OVERVIEW],
        rows=[[_cell(title, value) for title, value in zip(OVERVIEW, row, strict=True)] for row in _overview(found)],
    )
    notes = [line.replace("**", "").replace("`", "") for line in INTRO]
    sections = [Section(id="claims", title="Claim by claim", tables=[table]), *map(_section, found)]
    return Content(title=TITLE, headline=[lead], sections=[*sections, Section(id="words", title="How to read this", notes=notes)])


def _section(one: Result) -> Section:
    views = []
    for number, (title, columns, rows) in enumerate(_tables(one)):
        heads = [ColumnView(title=column, is_prose=column in {"comparison", "remarks"}) for column in columns]
        cells = [[_cell(column, value) for column, value in zip(columns, row, strict=True)] for row in rows]
        views.append(TableView(name=f"{one.name}_{number}", columns=heads, rows=cells, caption=f"{title}.", searchable=len(rows) > 12))
    notes = [f"{name}: {value}" for name, value in _facts(one)]
    return Section(
        id=f"claim-{one.claim.number}", title=f"{one.claim.number}. {one.claim.title}", intro=f"{one.sentence}.", tables=views, notes=notes
    )


def _cell(column: str, value: str) -> CellView | str:
    return CellView(value, kind=KINDS.get(value, "unclear")) if column == "verdict" else value


def lines(found: Sequence[Result]) -> str:
    """Return a line for each claim, for a terminal."""
    return "\n".join(f"{one.claim.number:2d}  {one.name}: {one.sentence}" for one in found)


def chosen(found: Sequence[Result], names: Sequence[str]) -> list[Result]:
    """Return the results of some claims, or all. Raises ConfigError for an unknown name."""
    known = {one.name: one for one in found}
    for name in names:
        if name not in known:
            raise ConfigError(explain("claims", got=repr(name), allowed=", ".join(known) or "nothing"))
    return [known[name] for name in dict.fromkeys(names)] if names else list(found)
