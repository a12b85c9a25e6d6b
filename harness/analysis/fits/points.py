"""Points for fits, one per row, from a user's file or a tidy table.

| column | meaning, unit |
|---|---|
| volume | number of target rows seen once |
| params_total, params_trainable | number of parameters of the model; of trained parameters |
| train_tokens, steps | target and anchor tokens; optimizer steps |
| inject_fraction | share of train_tokens from anchor rows: anchor_tokens / train_tokens |
| finetune_loss | loss on the target, nats per token |
| kl | KL(base ‖ tuned) on the target, nats per token |
| forgetting | change in the metric's unit; positive is worse |
| stderr | standard error of forgetting |
| can_lose | largest possible forgetting: of a share, its value before; empty if unknown |
| run_id | run of the point; points of one run are not independent |
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.analysis.findings import cells
from harness.analysis.fits import mixing
from harness.analysis.fits.estimate import Points
from harness.analysis.fits.laws import Law
from harness.analysis.fits.solver import Floats
from harness.analysis.table.columns import SUITE_TASK
from harness.core.errors import AnalysisError, did_you_mean, explain
from harness.records.schema import Declared

RESPONSE = "forgetting"
PREDICTORS = ["volume", "params_total", "params_trainable", "train_tokens", "inject_fraction", "steps", "finetune_loss", "kl"]
CAN_LOSE = "can_lose"
ROLES = [*PREDICTORS, RESPONSE, "stderr", CAN_LOSE, "run_id"]
LARGEST = 1e100
"""Largest number allowed, so that squares do not overflow."""
LABELS = [
    "arm",
    "model",
    "tuning",
    "objective",
    "mitigation",
    "data",
    "anchor",
    "trajectory",
    "epochs",
    "learning_rate",
    "lr_tuned",
    "variant",
]
_ALIASES = {"params": "params_total"}
_Z = 1.959963984540054


def from_file(path: Path, columns: Mapping[str, str] | None = None, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read points from a .csv or .parquet file.

    Args:
        path: the file.
        columns: role → name of its column in the file.
        where: column → value that selects rows.

    Raises:
        AnalysisError: if the file cannot be read as a table or has no rows, or a column does not
            exist.
    """
    frame = _read(path)
    known = list(map(str, frame.columns))
    for role, name in (columns or {}).items():
        if role not in ROLES:
            raise AnalysisError(explain("--column", got=repr(role), allowed=", ".join(ROLES), fix=did_you_mean(role, ROLES)))
        if name not in known:
            raise AnalysisError(explain(f"--column {role}={name}", got=f"no column {name!r} in {path}", allowed=", ".join(known)))
    renamed = {role: frame[name] for role, name in (columns or {}).items()}
    aliases = {role: frame[name] for name, role in _ALIASES.items() if name in known and role not in known and role not in renamed}
    frame = frame.assign(**renamed, **aliases)
    return narrowed(frame, where or {}, str(path))


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path).reset_index(drop=True)
        else:
            text = io.StringIO(_regular(path.read_text(encoding="utf-8-sig"), path))
            frame = pd.read_csv(text, skipinitialspace=True, index_col=False)
    except FileNotFoundError:
        raise AnalysisError(explain(f"{path}", got="no such file", allowed="a .csv or .parquet file")) from None
    except pd.errors.EmptyDataError:
        raise AnalysisError(explain(f"{path}", got="an empty file", allowed="a line of column names and one line per point")) from None
    except (ValueError, OSError, csv.Error, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AnalysisError(explain(f"{path}", got=reason, allowed="a .csv (UTF-8) or .parquet file with one row per point")) from None
    if frame.empty:
        raise AnalysisError(explain(f"{path}", got="column names without rows", allowed="one line per point"))
    return frame


def _regular(text: str, path: Path) -> str:
    """Return the text of a CSV file without the empty fields of trailing commas.

    Raises AnalysisError for other separators, repeated names and fields without a name.
    """
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True) if row]
    if not rows:
        return ""
    header = [name.strip() for name in rows[0]]
    if len(header) == 1 and (other := next((sign for sign in (";", "\t") if sign in header[0]), None)):
        got = "columns separated by " + ("semicolons" if other == ";" else "tabs")
        raise AnalysisError(explain(f"{path}", got=got, allowed="columns separated by commas"))
    width = len(header)
    while width > 1 and not header[width - 1]:
        width -= 1
    named = [name for name in header if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise AnalysisError(explain(f"{path}", got=f"two columns {twice[0]!r}", allowed="each name once"))
    for number, row in enumerate(rows[1:], start=1):
        if any(field.strip() for field in row[width:]):
            got, fix = f"{len(row)} fields in row {number}, {width} column names", "name the first column too, or remove it"
            raise AnalysisError(explain(f"{path}", got=got, allowed="a name for each column", fix=fix))
    if all(len(row) <= width for row in rows):
        return text
    plain = io.StringIO()
    csv.writer(plain, lineterminator="\n").writerows(row[:width] for row in rows)
    return plain.getvalue()


def narrowed(frame: pd.DataFrame, where: Mapping[str, str], name: str) -> pd.DataFrame:
    """Return the rows whose columns have these values, compared as text or as numbers.

    Raises AnalysisError if no row does.
    """
    for column, value in where.items():
        if column not in frame.columns:
            raise AnalysisError(explain(f"--where {column}", got=f"no such column in {name}", allowed=", ".join(map(str, frame.columns))))
        texts = frame[column].astype("string")
        same = (texts == value).fillna(False).astype(bool)
        if not same.any() and (number := _number(value)) is not None:
            same = (pd.to_numeric(frame[column], errors="coerce") == number).fillna(False).astype(bool)
        if not same.any():
            seen = sorted(texts.dropna().unique())
            allowed = ", ".join(seen[:12]) + (f" … {len(seen)} values" if len(seen) > 12 else "")
            raise AnalysisError(explain(f"--where {column}", got=repr(value), allowed=allowed or f"{column} is empty in {name}"))
        frame = frame[same]
    return frame


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def from_table(
    table: pd.DataFrame,
    declared: Declared,
    suite: str | None = None,
    where: Mapping[str, str] | None = None,
    *,
    left_out: Collection[str] = (),
) -> pd.DataFrame:
    """Return the points of an experiment, one per run and volume above 0, without controls.

    ``forgetting`` is the change of the suite's own row (its tasks with equal weight); positive is
    worse. ``stderr`` is the width of its 95% interval / (2·1.96). ``finetune_loss`` is a target
    suite's nats per token, else the training loss; ``kl`` is that of a divergence suite on the
    target. ``attrs["notes"]`` names their suites, ``attrs["suite"]`` is the suite of the
    forgetting, and ``attrs["declared"]`` the law declared for it, or None.

    Args:
        table: the tidy table.
        declared: the experiment's declarations.
        suite: suite whose forgetting is returned; by default the headline.
        where: column → value that selects points.
        left_out: runs to leave out unless ``any_rate`` is declared (``validity.runs_too_high``).

    Raises:
        AnalysisError: if the suite does not exist, or there is no point.
    """
    chosen = suite_of(table, declared, suite)
    whole = table[(table["task"] == SUITE_TASK) & (table["status"] == "ok") & (table["volume"] > 0).fillna(False)]
    rows = whole[(whole["suite"] == chosen) & whole["delta"].notna()]
    control, notes = cells.is_control(rows, declared.control), _without_change(table, rows, chosen)
    if control.any():
        rows = rows[~control]
        notes.append(f"{int(control.sum())} points of same-data controls are left out")
    if rows.empty:
        fix = "run harness table to see which runs failed"
        raise AnalysisError(explain(f"points of suite {chosen}", got="no measured change", allowed="at least one point", fix=fix))
    worse = np.where(rows["higher_is_better"].astype(bool), -1.0, 1.0)
    found = rows[["run_id", "seed", *LABELS, "volume", "params_total", "params_trainable", "train_tokens", "steps"]].reset_index(drop=True)
    tokens = rows["train_tokens"].astype(float).to_numpy()
    found["inject_fraction"] = rows["anchor_tokens"].astype(float).to_numpy() / np.where(tokens > 0, tokens, np.nan)
    found[RESPONSE] = worse * rows["delta"].astype(float).to_numpy()
    found["stderr"] = (rows["delta_high"] - rows["delta_low"]).astype("Float64").to_numpy(dtype=float, na_value=np.nan) / (2 * _Z)
    found[CAN_LOSE] = _can_lose(rows)
    found, about = _with_loss_and_kl(found, rows, whole)
    if (apart := (found["trajectory"] == "independent").fillna(value=False)).any():
        found.loc[apart, "run_id"] = found.loc[apart, [*LABELS, "seed"]].astype("string").fillna("").agg(" ".join, axis=1)
    found["_too_high"] = rows["run_id"].isin([] if declared.any_rate else list(left_out)).to_numpy()
    found, of_rates = _without_high_rates(narrowed(found, where or {}, "this experiment"), chosen)
    found.attrs = {"suite": chosen, "notes": [*notes, *of_rates, *about], "declared": declared.law if chosen == declared.headline else None}
    return found


def _without_high_rates(found: pd.DataFrame, suite: str) -> tuple[pd.DataFrame, list[str]]:
    """Leave out points whose learning rate is too high; return a note on their number."""
    high = found.pop("_too_high").to_numpy(dtype=bool)
    if high.all():
        got = f"{len(found)} points, all at a learning rate that is too high by their same-data control"
        fix = "train at lower rates, or declare any_rate: true in the experiment"
        raise AnalysisError(explain(f"points of suite {suite}", got=got, allowed="points whose control kept what it knew", fix=fix))
    note = f"{int(high.sum())} points are left out, whose learning rate is too high by their same-data control"
    return found[~high], [note] if high.any() else []


def _can_lose(rows: pd.DataFrame) -> Floats:
    """Return the largest possible forgetting of each row: all of a share of right answers."""
    before = rows["before"].to_numpy(dtype=float, na_value=np.nan)
    share = np.where(rows["higher_is_better"].astype(bool), before, 1.0 - before)
    return np.where(rows["lost"].notna(), share, np.nan)


def suite_of(table: pd.DataFrame, declared: Declared, suite: str | None) -> str:
    """Return the suite whose forgetting is fitted; raise AnalysisError if it is ambiguous."""
    probes = sorted(table.loc[(table["role"] == "probe").fillna(False), "suite"].dropna().unique())
    every = sorted(table["suite"].dropna().unique())
    chosen = suite or declared.headline or (probes[0] if len(probes) == 1 else None)
    if chosen is None:
        got = "no headline suite declared" if probes else "no probe suite"
        raise AnalysisError(explain("--suite", got=got, allowed=", ".join(probes) or "a probe suite", fix="--suite NAME"))
    if chosen not in every:
        raise AnalysisError(explain("--suite", got=repr(chosen), allowed=", ".join(every) or "no suite was measured"))
    return str(chosen)


def _without_change(table: pd.DataFrame, rows: pd.DataFrame, suite: str) -> list[str]:
    """Return a note on the number of points and runs without a measured change."""
    whole = table[(table["task"] == SUITE_TASK) & (table["suite"] == suite) & (table["volume"] > 0).fillna(False)]
    lost = whole[(whole["status"] != "ok") | whole["delta"].isna()].drop_duplicates(["run_id", "volume"])
    points = pd.MultiIndex.from_frame(rows[["run_id", "volume"]])
    lost = lost[~pd.MultiIndex.from_frame(lost[["run_id", "volume"]]).isin(points)]
    seen = {*rows["run_id"], *lost["run_id"]}
    runs = table[~table["run_id"].isin(seen) & table["run_id"].notna()]["run_id"].nunique()
    counts = {"points": len(lost), "whole runs": runs}
    missing = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
    return [f"{missing} without a measured change of {suite} are left out: failed, unfinished or not measured"] if missing else []


def _with_loss_and_kl(found: pd.DataFrame, rows: pd.DataFrame, whole: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Add finetune_loss and kl of the same run and volume, from other suites or training."""
    loss = whole[(whole["role"] == "target") & (whole["metric"] == "nats_per_token")]
    drift = whole[whole["metric"] == "kl_base_tuned"]
    on_target = drift[(drift["role"] == "target") | (drift["suite"] == "drift_target")]
    drift = on_target if len(on_target) else drift[~drift["suite"].str.contains("anchor").fillna(False).astype(bool)]
    notes = []
    for name, source in {"finetune_loss": loss, "kl": drift}.items():
        suites = sorted(source["suite"].dropna().unique())
        if suites:
            values = source[source["suite"] == suites[0]].drop_duplicates(["run_id", "volume"]).set_index(["run_id", "volume"])["value"]
            found[name] = values.reindex(pd.MultiIndex.from_frame(found[["run_id", "volume"]])).to_numpy(dtype=float, na_value=np.nan)
            notes.append(f"{name} is that of suite {suites[0]}")
        elif name == "finetune_loss":
            found[name] = rows["train_loss"].to_numpy(dtype=float, na_value=np.nan)
            notes.append("finetune_loss is the training loss since the previous volume: no target suite measures nats_per_token")
        else:
            found[name] = np.nan
    return found, notes


def gathered(points: pd.DataFrame, law: Law, others: Sequence[str]) -> tuple[Points, list[str]]:
    """Return the points that a law is fitted to, and notes on omissions and assumptions.

    Args:
        points: one row per point.
        law: law whose columns are needed.
        others: further columns to include if they contain numbers.

    Raises:
        AnalysisError: for a column that is missing or contains text, or a value that is invalid for
            the law.
    """
    needed = [*law.columns, law.response]
    if absent := [name for name in needed if name not in points.columns]:
        known = ", ".join(map(str, points.columns))
        fix = " ".join(f"--column {name}=NAME" for name in absent)
        raise AnalysisError(explain(f"{law.name}: column {', '.join(absent)}", got="no such column", allowed=known, fix=fix))
    values = {name: numbers(points[name], name) for name in needed}
    error = numbers(points["stderr"], "stderr") if "stderr" in points.columns else np.full(len(points), np.nan)
    unread = {"finetune_loss", "kl"} - set(law.columns)  # notes on their origin matter only to a law that reads them
    notes = [note for note in points.attrs.get("notes", []) if note.split(" ", 1)[0] not in unread]
    kept = np.all([np.isfinite(values[name]) for name in needed], axis=0)
    if not kept.all():
        notes.append(f"{int(np.sum(~kept))} of {len(kept)} rows are left out: {' or '.join(needed)} is empty")
    before = np.any([values[name] == 0 for name in law.positive], axis=0) if law.positive else np.zeros(len(kept), dtype=bool)
    if (before & kept).any():
        named = " or ".join(name for name in law.columns if name in law.positive)
        notes.append(f"{int(np.sum(before & kept))} rows are left out: {named} is 0 there, before training")
    kept &= ~before
    _check(values, error, kept, law, points)
    if not kept.any():
        named = ", ".join(needed)
        raise AnalysisError(explain(f"{law.name}: rows", got=f"no row with all of {named}", allowed="at least one per parameter"))
    extra = {name: found for name in others if name in points.columns and (found := _numbers_or_none(points[name])) is not None}
    notes += _limited(points, values[law.response], kept) if CAN_LOSE in others and CAN_LOSE in points.columns else []
    cluster, about = _clusters(points, kept)
    errors, weighed = _errors(error[kept])
    mixed = [*mixing.mixed(points[kept], law), *mixing.joined(points[kept])]
    columns = {name: found[kept] for name, found in (extra | values).items() if name != law.response}
    return Points(columns, values[law.response][kept], errors, cluster), [*notes, *about, *weighed, *mixed]


def numbers(column: pd.Series, name: str) -> Floats:
    """Return a column as numbers, NaN where it is empty.

    Raises AnalysisError at the first text or infinity.
    """
    if column.dtype == np.float64 and not np.isinf(values := column.to_numpy()).any():
        return values
    if column.dtype == np.int64:
        return column.to_numpy(dtype=np.float64)
    given = column.astype(object).where(column.notna(), None)
    found = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = np.array([value is not None and str(value).strip() != "" for value in given]) & ~np.isfinite(found)
    if wrong.any():
        row = int(np.argmax(wrong))
        got = f"{str(given.iloc[row])[:40]!r} in row {_row(column, row)}"
        raise AnalysisError(explain(f"column {name}", got=got, allowed="finite numbers, or nothing", fix="correct or remove that row"))
    return np.asarray(found, dtype=np.float64)


def _row(frame: pd.DataFrame | pd.Series, place: int) -> int:
    """Return the number of a row in its file, from 1, also after filtering."""
    label = frame.index[place]
    return int(label) + 1 if isinstance(label, int | np.integer) else place + 1


def _numbers_or_none(column: pd.Series) -> Floats | None:
    try:
        return numbers(column, "")
    except AnalysisError:
        return None


def allowed(law: Law, name: str) -> tuple[float, float, str]:
    """Return the smallest and largest value allowed in a column, and both as text."""
    if name == "inject_fraction":
        return 0.0, 1.0, "a share, 0 to 1"
    return (0.0, np.inf, "at least 0") if name in {*law.positive, "stderr"} else (-np.inf, np.inf, "")


def _check(values: Mapping[str, Floats], error: Floats, kept: np.ndarray, law: Law, points: pd.DataFrame) -> None:
    """Raise AnalysisError at a value that is invalid or too large to square."""
    for name, found in {**values, "stderr": error}.items():
        low, high, words = allowed(law, name)
        wrong, large = kept & ((found < low) | (found > high)), kept & (np.abs(found) > LARGEST)
        if wrong.any() or large.any():
            row = int(np.argmax(wrong if wrong.any() else large))
            got = f"{found[row]:g} in row {_row(points, row)}"
            raise AnalysisError(explain(f"column {name}", got=got, allowed=words if wrong.any() else f"numbers up to {LARGEST:g}"))


def _limited(points: pd.DataFrame, response: Floats, kept: np.ndarray) -> list[str]:
    """Return a note on rows without ``can_lose``; raise AnalysisError where more is lost."""
    limit = numbers(points[CAN_LOSE], CAN_LOSE)
    beyond = kept & (response > limit + 1e-9 * np.abs(limit))
    if beyond.any():
        row = int(np.argmax(beyond))
        got = f"{limit[row]:g} in row {_row(points, row)}, where {RESPONSE} is {response[row]:g}"
        raise AnalysisError(explain(f"column {CAN_LOSE}", got=got, allowed=f"at least {RESPONSE}, or nothing if it is unknown"))
    empty = int(np.sum(kept & np.isnan(limit)))
    some = 0 < empty < int(kept.sum())
    return [f"{CAN_LOSE} is not used: it is empty in {empty} of {int(kept.sum())} rows"] if some else []


def _clusters(points: pd.DataFrame, kept: np.ndarray) -> tuple[np.ndarray, list[str]]:
    if "run_id" not in points.columns or points.loc[kept, "run_id"].isna().all():
        return np.arange(int(kept.sum())), ["no run_id: each row counts as a separate run; if rows share runs, intervals are too narrow"]
    names = points.loc[kept, "run_id"].astype("string")
    alone = names.isna().to_numpy(dtype=bool)
    names = names.fillna("") + np.where(alone, [f"\0{i}" for i in range(len(names))], "")
    _, cluster = np.unique(names.to_numpy(dtype=str), return_inverse=True)
    return cluster, [f"{int(alone.sum())} rows have no run_id: each counts as a separate run"] if alone.any() else []


def _errors(error: Floats) -> tuple[Floats, list[str]]:
    known = np.isfinite(error)
    if not known.any() or not (error[known] > 0).any():
        return np.zeros(len(error)), ["no stderr: all points have equal weight"]
    if known.all():
        return error, []
    filled = np.where(known, error, np.median(error[known]))
    return filled, [f"{int(np.sum(~known))} points have no stderr: they get the median of the other points"]
