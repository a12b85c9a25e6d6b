"""Notes on points that differ in more than a law includes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.fits.laws import Law


def mixed(points: pd.DataFrame, law: Law) -> list[str]:
    """Return a note on labels that differ but are not in the law."""
    covered = set(law.columns)
    names = [name for name in ["tuning", "objective", "mitigation", "data", "trajectory", "epochs", "variant"] if name in points.columns]
    if not {"params_total", "params_trainable"} & covered:
        names = ["model", *names] if "model" in points.columns else names
    if "inject_fraction" in covered:
        names = [name for name in names if name != "mitigation"]
    found = {name: sorted(points[name].dropna().astype("string").unique()) for name in names}
    found = {name: values for name, values in found.items() if len(values) > 1}
    found |= _tuned_apart(points, [] if "inject_fraction" in covered else ["anchor"])
    several = [f"{name} ({', '.join(values[:4])}{', …' if len(values) > 4 else ''})" for name, values in found.items()]
    return [f"the points differ in {' and '.join(several)}, which the law does not include: select points with --where"] if several else []


def joined(points: pd.DataFrame) -> list[str]:
    """Return a note on independent runs, which ``points.from_table`` joins by seed."""
    apart = "trajectory" in points and "seed" in points and (points["trajectory"] == "independent").fillna(value=False).any()
    return ["the independent runs of one seed count as one run: they train on the same rows in the same order"] if apart else []


def _tuned_apart(points: pd.DataFrame, more: Sequence[str]) -> dict[str, list[str]]:
    """Return choices that differ within one model and tuning, with their values.

    Differences between models or tunings are expected, since each has its own.
    """
    found = {}
    texts = pd.DataFrame({name: points[name].astype("string").fillna("") for name in ("model", "tuning") if name in points.columns})
    within = texts.agg("\0".join, axis=1) if len(texts.columns) else pd.Series("", index=points.index)
    for name in ["learning_rate", "lr_tuned", *more]:
        if name in points.columns and (points[name].groupby(within.to_numpy()).nunique() > 1).any():
            found[name] = sorted(points[name].dropna().astype("string").unique())
    return found
