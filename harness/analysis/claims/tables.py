"""Small tables of a finished sweep, from which a claim is judged and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.findings import equal_gain, finding_columns
from harness.analysis.table.columns import SUITE_TASK
from harness.core import files
from harness.core.errors import RecordError, explain

FINDINGS = [
    *["cell", "arm", "model", "params_total", "params_trainable", "tuning", "objective", "mitigation", "data", "anchor", "trajectory"],
    *["epochs", "learning_rate", "lr_tuned", "variant", "is_control", "control_check", "role", "suite", "task", "metric", "filter"],
    *["higher_is_better", "chance", "volume", "n", "seeds", "missing", "before", "after", "delta", "stderr", "df", "delta_low"],
    *["delta_high", "level", "varies", "lost", "p_value", "margin", "verdict", "fg_over_volumes", "steps", "anchor_loss_share"],
    *["coefficient", "acceptance", "acted", "target_nats"],
]
"""Columns of the findings that are kept."""

PAIRS = [
    *["model", "first", "second", "first_cell", "second_cell", "target_suite", "headline_suite", "first_reach", "second_reach"],
    *["extrapolated", "range_low", "range_high", "first_forgetting", "second_forgetting", "difference", "stderr", "df", "low", "high"],
    *["level", "varies", "seeds", "p_value", "margin", "note"],
]
"""Columns of the comparison at equal gain that are kept."""

FILES = {"findings.csv": (FINDINGS, finding_columns.COLUMNS), "equal_gain.csv": (PAIRS, equal_gain.COLUMNS)}
ABOUT = "about.json"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The small tables of one sweep.

    Attributes:
        findings: rows of the findings: of suites at every volume, of tasks at the largest one;
            columns FINDINGS.
        equal_gain: all pairs at equal gain; columns PAIRS.
        about: facts of the sweep: ``declared`` (hash of the claim at its first start, or empty),
            ``runs``, ``failed``, ``seconds`` (of training), ``protocol_version``.
    """

    findings: pd.DataFrame
    equal_gain: pd.DataFrame
    about: Mapping[str, Any]


def small(findings: pd.DataFrame, pairs: pd.DataFrame, about: Mapping[str, Any]) -> Tables:
    """Return the small tables of a sweep's findings and comparisons."""
    largest = findings["volume"] == findings.groupby("cell")["volume"].transform("max")
    kept = findings[(findings["task"] == SUITE_TASK) | largest]
    return Tables(findings=kept[FINDINGS].reset_index(drop=True), equal_gain=pairs[PAIRS].reset_index(drop=True), about=about)


def write(found: Tables, folder: Path) -> None:
    """Write the tables as CSV, numbers with six digits, and the facts as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(FILES, (found.findings, found.equal_gain), strict=True):
        files.write_text(folder / name, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").rstrip("\n"))
    files.write_text(folder / ABOUT, json.dumps(found.about, indent=1, sort_keys=True))


def read(folder: Path) -> Tables | None:
    """Return the tables in a folder, or None without any.

    Raises:
        RecordError: for a file that is missing, damaged or of another version.
    """
    if not folder.is_dir():
        return None
    try:
        frames = [_frame(folder / name, columns, dtypes) for name, (columns, dtypes) in FILES.items()]
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        got = f"a table that cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        fix = "harness claims --collect RESULTS writes it again"
        raise RecordError(explain(str(folder), got=got, allowed=f"{', '.join([*FILES, ABOUT])} as written", fix=fix)) from error
    return Tables(findings=frames[0], equal_gain=frames[1], about=about)


def _frame(path: Path, columns: list[str], dtypes: Mapping[str, str]) -> pd.DataFrame:
    kinds = {name: "string" if dtypes[name] == "string" else dtypes[name] for name in columns}
    return pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values={name: [""] for name in columns})[columns]
