"""``harness fit`` and ``harness predict``: from their arguments to text or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.fits import fitting, judging, laws, points
from harness.analysis.fits.fitting import Fit, Prediction, words
from harness.core.errors import AnalysisError, did_you_mean, explain
from harness.records.locate import locate
from harness.records.schema import Declared
from harness.records.store import Experiment

SUFFIXES = (".csv", ".parquet")
_DERIVED = {"train_tokens": "volume", "steps": "volume"}


def fit_command(arguments: argparse.Namespace) -> str:
    """Fit a law to a file or an experiment.

    Args:
        arguments: points, law, where, column, suite, results, json.

    Returns:
        The text to print.

    Raises:
        AnalysisError: if the law cannot be fitted to these points, with the reason.
        RecordError: if neither the file nor the experiment exists.
    """
    found, law = _points(arguments)
    fit = fitting.fit(found, law.name, aic=True)
    if arguments.json:
        return json.dumps(fitting.as_dict(fit), indent=2, allow_nan=False, ensure_ascii=False)
    return "\n".join(_fit_text(fit))


def predict_command(arguments: argparse.Namespace) -> str:
    """Fit a law to a file or an experiment, and predict a point with it.

    Args:
        arguments: as of ``fit_command``, and at.

    Returns:
        The text to print.

    Raises:
        AnalysisError: as ``fit_command``, and if a column of the law is not given and does not
            follow from the given ones.
        RecordError: as ``fit_command``.
    """
    found, law = _points(arguments)
    given = {name: _number(f"--at {name}", text) for name, text in _pairs("--at", arguments.at).items()}
    if unknown := [name for name in given if name not in points.PREDICTORS and name not in law.columns]:
        fix = did_you_mean(unknown[0], points.PREDICTORS)
        raise AnalysisError(explain("--at", got=repr(unknown[0]), allowed=", ".join(points.PREDICTORS), fix=fix))
    fit = fitting.fit(found, law.name)
    at, notes = _completed(law, given, found)
    prediction = _possible(fitting.predict(fit, {name: at[name] for name in law.columns if name in at}), fit.law, found)
    notes += [_unused(name, law, found) for name in given if name not in law.columns and name not in _used(law, given)]
    if arguments.json:
        return json.dumps(_prediction(fit, prediction, at, notes), indent=2, allow_nan=False, ensure_ascii=False)
    return "\n".join(_prediction_text(fit, prediction, at, notes))


def _points(arguments: argparse.Namespace) -> tuple[pd.DataFrame, laws.Law]:
    """Return the points, and the law asked for: by default the one that the experiment declared."""
    asked = laws.named(arguments.law) if arguments.law else None
    found = _read(arguments)
    declared = found.attrs.get("declared")
    if asked is None and declared is None:
        of = f" for {arguments.suite}" if arguments.suite else ""
        raise AnalysisError(explain("--law", got=f"nothing, and no law declared{of}", allowed=", ".join(laws.names()), fix="--law NAME"))
    return found, asked or laws.named(str(declared))


def _read(arguments: argparse.Namespace) -> pd.DataFrame:
    where, columns = _pairs("--where", arguments.where), _pairs("--column", arguments.column)
    path = Path(arguments.points)
    if path.suffix in SUFFIXES or path.is_file():
        if arguments.suite:
            raise AnalysisError(explain("--suite", got=f"{arguments.suite!r} with a file", allowed="an experiment", fix="remove --suite"))
        return points.from_file(path, columns, where)
    experiment = locate(arguments.points, arguments.results)
    if columns:
        raise AnalysisError(explain("--column", got="an experiment", allowed="a file", fix="remove --column: the columns are known"))
    from harness.analysis.table.frame import table

    rows, declared = table(experiment), experiment.declared()
    return points.from_table(rows, declared, arguments.suite, where, left_out=_too_high(experiment, rows, declared))


def _too_high(experiment: Experiment, rows: pd.DataFrame, declared: Declared) -> set[str]:
    """Return the runs whose learning rate is too high; without a control none is known to be."""
    if not declared.control or declared.any_rate:
        return set()
    from harness.analysis.findings import findings, validity
    from harness.analysis.table.changes import Changes

    return validity.runs_too_high(findings.findings(rows, Changes(experiment), declared))


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise AnalysisError(explain(option, got=repr(text), allowed="name=value, such as " + _EXAMPLES[option]))
        if name in found:
            raise AnalysisError(explain(option, got=f"{name} twice", allowed="each name once"))
        found[name] = value
    return found


_EXAMPLES = {"--at": "params_total=1e9", "--where": "tuning=lora", "--column": "volume=rows"}


def _number(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnalysisError(explain(option, got=repr(text), allowed="a number such as 1024, 1_000_000 or 1.4e9"))
    return value


def _completed(law: laws.Law, given: Mapping[str, float], found: pd.DataFrame) -> tuple[dict[str, float], list[str]]:
    """Return the columns of a prediction, and a note for each that was not given.

    Such a column is derived from a given one by a ratio that is equal at all points.
    """
    at, notes = dict(given), []
    for name in law.columns:
        if name in at:
            continue
        source = _DERIVED.get(name)
        if source is not None and source in given and (ratio := _ratio(found, name, source)) is not None:
            at[name] = ratio * given[source]
            notes.append(f"{name} {words(at[name])} follows from {source}: {words(ratio)} each, as in these points")
        elif name == "params_trainable" and "params_total" in given and (ratio := _ratio(found, name, "params_total")) is not None:
            at[name] = ratio * given["params_total"]
            notes.append(f"params_trainable {words(at[name])} follows from params_total: {words(ratio)} of it, as in these points")
        elif name == "inject_fraction" and (only := _only(found, name)) is not None:
            at[name] = only
            notes.append(f"inject_fraction {words(only)}, as at every point")
    return at, notes


def _ratio(found: pd.DataFrame, name: str, source: str) -> float | None:
    """Return the ratio of column ``name`` to ``source``.

    None if it is not equal (within 10%) at all points.
    """
    if name not in found or source not in found:
        return None
    above, below = (pd.Series(points.numbers(found[column], column)) for column in (name, source))
    ratios = (above / below).replace([math.inf, -math.inf], math.nan).dropna()
    if ratios.empty or ratios.max() > 1.1 * ratios.min():
        return None
    return float(ratios.median())


def _only(found: pd.DataFrame, name: str) -> float | None:
    values = pd.Series(points.numbers(found[name], name)).dropna().unique()
    return float(values[0]) if len(values) == 1 else None


def _used(law: laws.Law, given: Mapping[str, float]) -> set[str]:
    used = {source for name, source in _DERIVED.items() if name in law.columns and name not in given}
    return used | ({"params_total"} if "params_trainable" in law.columns and "params_trainable" not in given else set())


def _unused(name: str, law: laws.Law, found: pd.DataFrame) -> str:
    seen = pd.Series(points.numbers(found[name], name)).dropna() if name in found else pd.Series(dtype=float)
    fitted = f"; the points have {words(seen.min())} to {words(seen.max())}" if len(seen) else ""
    return f"{law.name} does not depend on {name}: the prediction is the same for any value{fitted}"


def _prediction(fit: Fit, prediction: Prediction, at: Mapping[str, float], notes: Sequence[str]) -> dict[str, Any]:
    found = dataclasses.asdict(prediction)
    judged = {"verdict": fit.verdict, "compared": fit.compared, "notes": [*notes, *fit.notes]}
    return {"law": fit.law, "response": fit.response, "at": dict(at), **found, **judged}


def _prediction_text(fit: Fit, prediction: Prediction, at: Mapping[str, float], notes: Sequence[str]) -> list[str]:
    where = ", ".join(f"{name} {words(value)}" for name, value in at.items())
    interval = "no interval" if prediction.low is None else f"[{_rounded(prediction.low)}, {_rounded(prediction.high)}]"
    lines = [
        f"{fit.response} {_rounded(prediction.value)} {interval} at {where}",
        f"{100 * prediction.level:.0f}% interval for a new run; law {fit.law}, {fit.n} points of {fit.runs} runs: {fit.verdict}",
        *_all_held_out(fit),
    ]
    lines += [f"extrapolates: {text}" for text in prediction.extrapolates]
    return lines + [f"note: {text}" for text in (*notes, *fit.notes)]


def _fit_text(fit: Fit) -> list[str]:
    law = laws.named(fit.law)
    rows = [("parameter", "value", f"{100 * fit.level:.0f}% interval", "unit")]
    for name, one in fit.parameters.items():
        interval = "none" if one.low is None or one.high is None else f"[{_rounded(one.low)}, {_rounded(one.high)}]"
        rows.append((name, "not identified" if one.value is None else _rounded(one.value), interval, one.unit))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
    alternatives = [f"{name}: {_rounded(aic)}" for name, aic in fit.alternatives.items()]
    standing = f"; {fit.standing}" if fit.standing else ""
    lines = [
        f"{fit.response} = {law.formula}{standing}",
        f"{fit.n} points of {fit.runs} runs; {fit.verdict}",
        "",
        *table,
        "",
        "   ".join([f"R2 {_rounded(fit.r2)}", f"AIC {_rounded(fit.aic)}", *alternatives]),
        *_all_held_out(fit),
    ]
    return lines + [f"note: {text}" for text in fit.notes]


def _possible(prediction: Prediction, law: str, found: pd.DataFrame) -> Prediction:
    """Return a prediction whose upper end is possible; raise AnalysisError if its value is not."""
    most = found[points.CAN_LOSE].astype(float).max(skipna=False) if points.CAN_LOSE in found else math.nan
    if prediction.value > most:
        allowed = f"at most {_rounded(most)}, which is all that can be lost"
        raise AnalysisError(
            explain(
                f"predict: {law} at this point", got=_rounded(prediction.value), allowed=allowed, fix="a law with a plateau: --law hill"
            )
        )
    return prediction if prediction.high is None else dataclasses.replace(prediction, high=min(prediction.high, most, key=_nan_last))


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _all_held_out(fit: Fit) -> list[str]:
    return [_held_out(fit, label) for label in judging.shown(fit.compared, {**fit.held_out, **fit.naive})]


def _held_out(fit: Fit, label: str) -> str:
    """Return the errors at held-out points, of the law and of the naive baseline."""
    share = fit.held_out.get(f"{label}, share of the response")
    parts = [f"error {_rounded(fit.held_out[label])}"] if label in fit.held_out else []
    parts += [f"({100 * share:.0f}% of the response)"] if share is not None else []
    naive = f"{judging.NAIVE[label]}: error {_rounded(fit.naive[label])}" if label in fit.naive else ""
    return f"held-out {label}: " + "; ".join(filter(None, [" ".join(parts), naive, fit.compared[label]]))


def _rounded(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.4g}"
