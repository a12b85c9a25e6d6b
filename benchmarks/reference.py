"""`make reference`: a fresh default sweep, compared with results/reference/.

    make reference                              # a fresh sweep in a temporary folder, compared
    make reference ARGS="--sweep results/tiny"  # an existing sweep, compared
    make reference ARGS="--write"               # a fresh sweep, written as the new reference

The rule. A finding is the change of one suite or task in one cell (the runs that differ in their
seed alone) at one volume. On the same kind of processor a sweep computes the same numbers: each
change and both ends of its interval agree to 1e-5, without exception. The kind is what decides how
numbers are rounded: the processor's maker, family and model, its vector instructions and those that
torch uses, torch's version, and the threads of a run, in machine.json and in every record. The
processor's name (clouds change it) and the number of cores are stated, not compared. Where either
side is of an earlier version, which recorded less, name, torch's instructions and version decide.

On another kind, rounding differs and training amplifies it. Two sweeps agree on a finding if 0 is
in the interval of the difference of their two changes, computed from the distances of each change
to the ends of its own interval (Zou and Donner 2008, doi:10.1002/sim.3095):

    D = fresh − reference
    low = D − √((fresh − fresh_low)² + (reference_high − reference)²)
    high likewise, with the other ends

Two equally valid sweeps disagree on one in twenty 95% intervals, so 5% of the compared findings,
rounded down, may disagree.

Either way, a finding that only one side has is not due to chance: it fails the comparison. Findings
without an interval on either side are counted, not compared. The first line says which was checked.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
MACHINE = "machine.json"
REFERENCE = ROOT / "results" / "reference"
EXPERIMENT = "tiny"
COMMAND = "experiment=tiny"

LEVEL = 0.95
EQUAL = 1e-5
"""Largest difference of changes that count as the same number, in the metric's unit: findings keep
eight digits."""

KIND = ["processor_model", "vector_flags", "instructions", "torch", "threads"]
"""Facts that are equal on the same kind of processor."""

EARLIER_KIND = ["processor", "instructions", "torch"]
"""The same, where one of KIND was not recorded."""

FACTS = list(dict.fromkeys(["processor", "cores", *KIND]))

KEYS = ["model", "tuning", "objective", "mitigation", "data", "anchor", "trajectory", "epochs", "variant"]
KEYS += ["volume", "role", "suite", "task", "metric", "filter"]
"""Columns that identify a finding in two sweeps; not the rate, the machine's dtype or run ids."""

ENDS = ["delta", "delta_low", "delta_high"]
KEPT = [*KEYS, "params_total", "params_trainable", "learning_rate", "lr_tuned", "is_control", "is_headline", "n", "seeds"]
KEPT += ["before", "after", *ENDS, "stderr", "df", "level", "p_holm", "margin", "verdict", "seed_spread"]
KEPT += ["control_delta", "contrast", "contrast_low", "contrast_high", "contrast_verdict", "control_check"]

MAX_FIGURES_BYTES = 500_000
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Comparison:
    """The findings of two sweeps, joined.

    Attributes:
        compared: findings with an interval on both sides: KEYS, the two changes, ``agree``, and the
            verdicts.
        reference_alone, fresh_alone: KEYS of findings that are missing on the other side, or have
            no interval there.
        without_interval: number of findings without an interval on either side.
        is_same_kind: whether both were made on the same kind of processor.
    """

    compared: pd.DataFrame
    reference_alone: pd.DataFrame
    fresh_alone: pd.DataFrame
    without_interval: int
    is_same_kind: bool

    @property
    def disagree(self) -> pd.DataFrame:
        """The findings that do not agree."""
        return self.compared[~self.compared["agree"]]

    @property
    def allowed(self) -> int:
        """Number of findings that may disagree: 5% of the compared ones, rounded down.

        None on the same kind of processor.
        """
        return 0 if self.is_same_kind else int((1 - LEVEL) * len(self.compared) + 1e-9)

    @property
    def holds(self) -> bool:
        """Whether the fresh sweep confirms the reference."""
        alone = len(self.reference_alone) + len(self.fresh_alone)
        return len(self.compared) > 0 and alone == 0 and len(self.disagree) <= self.allowed


def compare(reference: pd.DataFrame, fresh: pd.DataFrame, *, is_same_kind: bool = False) -> Comparison:
    """Join the findings of two sweeps by KEYS, and compare them.

    Args:
        reference: findings of the reference.
        fresh: findings of the fresh sweep.
        is_same_kind: whether both were made on the same kind of processor.

    Raises:
        ValueError: if a side lacks a column, or has two findings with the same keys.
    """
    both = _known(reference, "reference").merge(_known(fresh, "fresh"), on=KEYS, how="outer", suffixes=("_reference", "_fresh"))
    has = {side: both[[f"{end}_{side}" for end in ENDS]].notna().all(axis=1) for side in ("reference", "fresh")}
    there = {side: both[f"there_{side}"].fillna(value=False).astype(bool) for side in ("reference", "fresh")}
    compared = both[has["reference"] & has["fresh"]].copy()
    compared["agree"] = _equal(compared) if is_same_kind else _agree(compared)
    return Comparison(
        compared=compared,
        reference_alone=both.loc[(there["reference"] & ~there["fresh"]) | (has["reference"] & ~has["fresh"]), KEYS],
        fresh_alone=both.loc[(there["fresh"] & ~there["reference"]) | (has["fresh"] & ~has["reference"]), KEYS],
        without_interval=int((there["reference"] & there["fresh"] & ~has["reference"] & ~has["fresh"]).sum()),
        is_same_kind=is_same_kind,
    )


def read(file: Path) -> pd.DataFrame:
    """Return the findings of a reference."""
    return pd.read_csv(file, dtype=dict.fromkeys(KEYS, "string"))


def _known(findings: pd.DataFrame, side: str) -> pd.DataFrame:
    """Return findings with keys as text and changes as numbers.

    As text, empty keys are equal, and 64 equals 64 from any file.
    """
    if absent := [name for name in [*KEYS, *ENDS] if name not in findings.columns]:
        raise ValueError(f"{side}: no column {', '.join(absent)}")
    keys = findings[KEYS].astype("string").fillna("")
    if (twice := keys.duplicated()).any():
        raise ValueError(f"{side}: two findings of {' '.join(keys[twice].iloc[0])}")
    numbers = findings[ENDS].astype("Float64")
    verdict = findings["verdict"].astype("string") if "verdict" in findings else pd.Series(pd.NA, findings.index, dtype="string")
    known: pd.DataFrame = pd.concat([keys, numbers, verdict.rename("verdict")], axis=1).assign(there=True)
    return known


def _agree(compared: pd.DataFrame) -> Any:
    """Return for each finding whether 0 is in the interval of fresh minus reference.

    A boolean array of shape (n,).
    """
    reference, reference_low, reference_high, fresh, fresh_low, fresh_high = (
        compared[f"{end}_{side}"].to_numpy(float) for side in ("reference", "fresh") for end in ENDS
    )
    difference = fresh - reference
    below = np.hypot(fresh - fresh_low, reference_high - reference)
    above = np.hypot(fresh_high - fresh, reference - reference_low)
    return (difference - below <= EQUAL) & (difference + above >= -EQUAL)


def _equal(compared: pd.DataFrame) -> Any:
    """Return for each finding whether change and interval are equal; a boolean array (n,)."""
    apart = [(compared[f"{end}_fresh"] - compared[f"{end}_reference"]).abs().to_numpy(float) for end in ENDS]
    return np.max(apart, axis=0) <= EQUAL


def described(comparison: Comparison, most: int = 20) -> str:
    """Return a comparison as text.

    It has what was checked, the number of agreeing findings, the largest difference, changed
    verdicts, and findings of one side only.
    """
    compared, disagree = comparison.compared, comparison.disagree
    apart = (compared["delta_fresh"] - compared["delta_reference"]).abs()
    verdicts = compared[(compared["verdict_fresh"] != compared["verdict_reference"]).fillna(value=False)]
    within, checked = "within their intervals", "intervals, since the reference was made on another kind of processor"
    if comparison.is_same_kind:
        within, checked = f"to {EQUAL:g}", f"numbers to {EQUAL:g}, since the reference was made on the same kind of processor"
    lines = [
        f"checked: {checked}",
        f"{len(compared) - len(disagree)} of {len(compared)} findings agree {within}; {comparison.allowed} may disagree",
        f"{int((apart <= EQUAL).sum())} are equal; the largest difference is {float(apart.max()) if len(apart) else 0.0:.4g}",
        f"{len(verdicts)} have another verdict, {comparison.without_interval} have no interval and are not compared",
    ]
    lines += [f"disagrees: {_line(row)}" for _, row in disagree.head(most).iterrows()]
    lines += [
        f"other verdict: {_line(row)}: {row['verdict_reference']} → {row['verdict_fresh']}" for _, row in verdicts.head(most).iterrows()
    ]
    for side, alone in {"reference": comparison.reference_alone, "fresh sweep": comparison.fresh_alone}.items():
        lines += [f"only in the {side}: {_name(row)}" for _, row in alone.head(most).iterrows()]
        lines += [f"only in the {side}: {len(alone)} findings in all"] if len(alone) > most else []
    return "\n".join([*lines, "the reference holds" if comparison.holds else "FAILED: the reference does not hold"])


def _name(row: pd.Series) -> str:
    return " ".join(str(row[key]) for key in KEYS if row[key])


def _line(row: pd.Series) -> str:
    before, after = ([float(row[f"{end}_{side}"]) for end in ENDS] for side in ("reference", "fresh"))
    return f"{_name(row)}: {before[0]:.4g} [{before[1]:.4g}, {before[2]:.4g}] → {after[0]:.4g} [{after[1]:.4g}, {after[2]:.4g}]"


def sweep(results: Path) -> float:
    """Run the default sweep in a fresh folder; return its wall time in seconds.

    Raises CalledProcessError if it fails.
    """
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness", "sweep", COMMAND, f"results={results}"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def kind(folder: Path) -> dict[str, str]:
    """Return the FACTS that an experiment's records state, where they agree.

    Empty if the kind of processor is unknown or mixed.
    """
    from harness.records.store import Experiment

    experiment = Experiment(folder)
    kinds = []
    for record in (experiment.glance("runs", run_id, "record.json") for run_id in experiment.run_ids()):
        known = record.get("provenance") or {}
        kinds.append({**known, "torch": dict(known.get("versions") or {}).get("torch"), "threads": record.get("threads")})
    of_each = {name: {known.get(name) for known in kinds} for name in FACTS}
    agreed = {name: str(values.pop()) for name, values in of_each.items() if len(values) == 1 and None not in values}
    is_mixed = any(len(values) > 1 for name, values in of_each.items() if name in {*KIND, *EARLIER_KIND})
    return agreed if set(EARLIER_KIND) <= set(agreed) and not is_mixed else {}


def is_same_kind(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether two machines, as from ``kind``, round alike; False where that is unknown."""
    names = KIND if set(KIND) <= set(one) & set(other) else EARLIER_KIND
    return set(names) <= set(one) and all(one[name] == other.get(name) for name in names)


def derive(folder: Path) -> pd.DataFrame:
    """Return the findings of an experiment's folder."""
    from harness.analysis.findings.findings import findings
    from harness.analysis.table.changes import Changes
    from harness.analysis.table.frame import table
    from harness.records.store import Experiment

    experiment = Experiment(folder)
    return findings(table(experiment), Changes(experiment), experiment.declared())


def write(found: pd.DataFrame, report: Path, place: Path, facts: Mapping[str, Any], made_on: Mapping[str, str]) -> None:
    """Write a reference: findings.csv, machine.json, some figures of the report, README.md.

    Replaces an earlier one.

    Args:
        found: the findings.
        report: folder of the experiment's report, with its figures.
        place: folder of the reference.
        facts: from ``provenance.collect``, and ``seconds`` of the sweep, None for an existing one.
        made_on: the kind of processor, as from ``kind``.

    Raises:
        ValueError: if it would be larger than MAX_BYTES.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    kept = found[[name for name in KEPT if name in found.columns]]
    kept.to_csv(place / "findings.csv", index=False, float_format="%.8g", lineterminator="\n")
    (place / MACHINE).write_text(json.dumps(dict(made_on), indent=2) + "\n", encoding="utf-8")
    figures = _figures(report)
    for figure in figures:
        shutil.copyfile(figure, place / figure.name)
    (place / "README.md").write_text(_readme(kept, [figure.name for figure in figures], facts), encoding="utf-8")
    if (size := sum(path.stat().st_size for path in place.iterdir())) > MAX_BYTES:
        raise ValueError(f"the reference takes {size} bytes; allowed: {MAX_BYTES}")


def _figures(report: Path) -> list[Path]:
    """Return the smallest of the report's PNG figures, within MAX_FIGURES_BYTES, by name."""
    chosen: list[Path] = []
    for path in sorted(report.rglob("*.png"), key=lambda path: path.stat().st_size):
        if sum(one.stat().st_size for one in [*chosen, path]) <= MAX_FIGURES_BYTES and path.name not in {one.name for one in chosen}:
            chosen.append(path)
    return sorted(chosen)


def _readme(kept: pd.DataFrame, figures: Sequence[str], facts: Mapping[str, Any]) -> str:
    git, seconds = facts.get("git") or {}, facts.get("seconds")
    code = f"{git.get('commit', 'unknown')}{' with uncommitted changes' if git.get('dirty') else ''}"
    versions = ", ".join(f"{name} {version}" for name, version in dict(facts.get("versions", {})).items())
    took = f" It took {seconds:.0f} s." if seconds is not None else ""
    return "\n".join(
        [
            "# The reference sweep",
            "",
            f"{len(kept)} findings of `harness sweep {COMMAND}`, each the change of one suite or task in one cell (the runs that differ in",
            "their seed alone) at one volume. `make reference` runs the sweep again and compares its findings with these: to 1e-5 on the",
            f"kind of processor in `{MACHINE}`, within their intervals elsewhere; the rule is in `benchmarks/reference.py`.",
            "`make reference ARGS=--write` replaces them.",
            "",
            f"- Code: commit {code}.",
            f"- Machine: {facts.get('cores')} cores, {facts.get('processor')}, {facts.get('platform')}; {facts.get('time')}.{took}",
            f"- Python {facts.get('python')}, {versions}.",
            "- `findings.csv`: its columns are described in `harness/analysis/findings/finding_columns.py`; numbers have eight digits.",
            *["", *(f"![{Path(name).stem}]({name})" for name in figures)],
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare a sweep with the reference, or write a new one.

    Returns:
        Exit code 0: it holds, or is written; 1: it does not hold; 2: there is no reference.
    """
    parser = argparse.ArgumentParser(prog="make reference", description="Compare a fresh default sweep with the committed one.")
    parser.add_argument("--write", action="store_true", help="make this sweep the reference")
    parser.add_argument("--sweep", type=Path, metavar="FOLDER", help="an existing sweep, such as results/tiny")
    parser.add_argument("--reference", type=Path, default=REFERENCE, metavar="FOLDER", help="default: results/reference")
    asked = parser.parse_args(arguments)
    committed = asked.reference / "findings.csv"
    if not asked.write and not committed.exists():
        sys.stderr.write(f"{asked.reference}: got no findings.csv; fix: make reference ARGS=--write\n")
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        seconds = sweep(Path(temporary)) if asked.sweep is None else None
        folder = asked.sweep or Path(temporary) / EXPERIMENT
        found = derive(folder)
        if asked.write:
            _write_new(found, folder, asked.reference, seconds)
            return 0
        here = kind(folder)
    comparison = compare(read(committed), found, is_same_kind=is_same_kind(here, _recorded(asked.reference)))
    sys.stdout.write(described(comparison) + "\n")
    return 0 if comparison.holds else 1


def _recorded(place: Path) -> dict[str, str]:
    """Return the machine of a reference, as from ``kind``; empty where it states none."""
    file = place / MACHINE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _write_new(found: pd.DataFrame, folder: Path, place: Path, seconds: float | None) -> None:
    from harness.records import provenance
    from harness.records.store import Experiment
    from harness.report import page

    report = page.write(Experiment(folder)).parent
    write(found, report, place, provenance.collect() | {"seconds": seconds}, kind(folder))
    sys.stdout.write(f"{place}\n")


if __name__ == "__main__":
    sys.exit(main())
