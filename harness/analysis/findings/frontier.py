"""The learning–forgetting frontier: gain, forgetting and cost of each method.

Gain is the change of the first target suite; forgetting is the change of the declared headline
suite. For metrics of either direction, positive gain is better and positive forgetting is worse.
Controls learn nothing new and are left out.
"""

from __future__ import annotations

import pandas as pd

from harness.analysis.table.columns import SUITE_TASK, specified

LABELS = ["tuning", "objective", "mitigation", "data", "anchor", "trajectory", "epochs", "learning_rate", "lr_tuned", "variant"]
COSTS = ["steps", "train_tokens", "supervised_tokens", "anchor_tokens", "generated_tokens", "extra_tokens", "flops", "wall_seconds"]
COSTS += ["peak_memory_bytes"]

_SPECIFICATION = """
gain              Float64  change of the first target suite, in its metric's unit; positive is better
gain_low          Float64  lower end of the 95% interval of gain
gain_high         Float64  upper end of the 95% interval of gain
forgetting        Float64  change of the headline suite, in its metric's unit; positive is worse
forgetting_low    Float64  lower end of the 95% interval of forgetting
forgetting_high   Float64  upper end of the 95% interval of forgetting
is_frontier       boolean  whether no point of its model and data, nor the untuned model, dominates it; false if the method did not act
target_suite      string   suite whose change is the gain
headline_suite    string   suite whose change is the forgetting
"""
_OWN, DESCRIPTIONS = specified(_SPECIFICATION)
"""For the columns that only this table has: column → dtype, and column → description."""

COLUMNS = ["model", "params_total", "cell", *LABELS, "volume", "seeds", "acted", *_OWN, *COSTS]
"""Columns of the frontier, in order."""


def first_target(findings: pd.DataFrame) -> str | None:
    """Return the suite whose change is the gain: the first target suite; None without one."""
    rows = findings[(findings["role"] == "target") & (findings["task"] == SUITE_TASK)]
    return None if rows.empty else str(rows["suite"].iloc[0])


def headline(findings: pd.DataFrame) -> str | None:
    """Return the declared headline suite; None without one."""
    rows = findings[findings["is_headline"].fillna(False)]
    return None if rows.empty else str(rows["suite"].iloc[0])


def oriented(rows: pd.DataFrame, name: str, *, better: bool) -> pd.DataFrame:
    """Return a change and its interval with the chosen sign.

    Args:
        rows: rows with ``delta``, ``delta_low``, ``delta_high``, ``higher_is_better``.
        name: prefix of the new columns ``name``, ``name_low``, ``name_high``.
        better: whether positive means better; else it means worse.
    """
    sign = rows["higher_is_better"].map({True: 1.0, False: -1.0}).astype("Float64") * (1.0 if better else -1.0)
    ends = [sign * rows["delta_low"], sign * rows["delta_high"]]
    low, high = ends[0].where(sign > 0, ends[1]), ends[1].where(sign > 0, ends[0])
    return pd.DataFrame({name: sign * rows["delta"], f"{name}_low": low, f"{name}_high": high})


def frontier(findings: pd.DataFrame) -> pd.DataFrame:
    """Return gain, forgetting and costs of each cell and volume, and the frontier.

    Args:
        findings: as returned by ``harness.analysis.findings.findings.findings``.

    Returns:
        One row per cell and volume that has gain and forgetting, columns as in COLUMNS; empty where
        no headline is declared, or there is no target suite.

    Source: Biderman et al. 2024, arXiv 2405.09673, section 4.3 (the scatter); Shenfeld et al. 2025,
    arXiv 2509.04259 (matched gain).
    """
    target, probe = first_target(findings), headline(findings)
    if target is None or probe is None:
        return _typed(pd.DataFrame({name: pd.Series(dtype="object") for name in COLUMNS}), findings)
    wholes = findings[(findings["task"] == SUITE_TASK) & ~findings["is_control"].fillna(False) & findings["delta"].notna()]
    gains, losses = wholes[wholes["suite"] == target], wholes[(wholes["suite"] == probe) & (wholes["role"] == "probe")]
    left = pd.concat([gains, oriented(gains, "gain", better=True)], axis=1)
    right = pd.concat([losses[["cell", "volume"]], oriented(losses, "forgetting", better=False)], axis=1)
    points = left.merge(right, on=["cell", "volume"], how="inner", validate="one_to_one")
    points = points.assign(target_suite=target, headline_suite=probe, is_frontier=False)
    ranked = points[points["acted"].fillna(value=True).astype(bool)]  # others did not act, so they do not represent their method
    for _, group in ranked.groupby(["model", "data"], dropna=False, sort=False):
        points.loc[group.index, "is_frontier"] = ~_dominated(group)
    ordered = points.sort_values(["params_total", "model", "cell", "volume"], kind="stable", ignore_index=True)
    return _typed(ordered[COLUMNS], findings)


def _dominated(group: pd.DataFrame) -> pd.Series:
    """Return whether each point is dominated by another or by the untuned model.

    The untuned model is at (0, 0). A point dominates if it is at least as good in gain and
    forgetting, and better in one.
    """
    gain, lost = group["gain"].astype(float).to_numpy(), group["forgetting"].astype(float).to_numpy()
    others_gain, others_lost = [*gain, 0.0], [*lost, 0.0]
    found = [
        any(a >= g and b <= f and (a > g or b < f) for a, b in zip(others_gain, others_lost, strict=True))
        for g, f in zip(gain, lost, strict=True)
    ]
    return pd.Series(found, index=group.index, dtype=bool)


def _typed(frame: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    types = {name: _OWN.get(name) or findings[name].dtype for name in COLUMNS}
    return frame.astype(types)
