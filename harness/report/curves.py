"""What the figures and the page show: runs that differ only in seed as one series, and its mean with an interval on a panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy import stats as distributions

from harness.report.tables import Panel, varying

STYLES: list[tuple[Any, str]] = [("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1, 1, 1, 1, 1)), "v"), ((0, (1, 3)), "P")]
ONE_COLOUR = "#21618c"
MIN_SEEDS = 3
"""Fewer seeds give no interval over seeds."""

Column = Literal["delta", "value"]


@dataclass(frozen=True)
class Series:
    """Runs that differ only in seed (and, for independent trajectories, in volume)."""

    model: str
    style_name: str
    colour: str
    line: Any
    marker: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class Curve:
    """A series on one panel: per volume the centre and, where there is one, its interval; each seed's own values beside it."""

    volumes: list[int]
    centre: list[float]
    low: list[float]
    high: list[float]
    seeds: list[pd.Series]


def series(table: pd.DataFrame) -> list[Series]:
    """Return the series of a table, by model size, then by what else was varied."""
    rows = table[((table["status"] == "ok") & table["volume"].notna()).fillna(False)]
    if not (rows["volume"] > 0).any():
        return []
    others = [name for name in varying(rows) if name not in {"model", "seed"}]
    known = rows[others].drop_duplicates()
    words = {tuple(row): " · ".join(filter(None, map(_words, others, row))) for row in known.astype(object).fillna("").to_numpy()}
    named = rows.assign(_style=[words[tuple(row)] for row in rows[others].astype(object).fillna("").to_numpy()])
    sizes = named.groupby("model")["params_total"].max().sort_values(na_position="last")
    styles = list(dict.fromkeys(named.sort_values(others, kind="stable")["_style"]))
    colours = _colours(len(sizes))
    found = []
    for (model, colour), style in [(pair, style) for pair in zip(sizes.index, colours, strict=True) for style in styles]:
        line, marker = STYLES[styles.index(style) % len(STYLES)]
        part = named[(named["model"] == model) & (named["_style"] == style)]
        if (part["volume"] > 0).any():  # a run of which nothing was measured is counted by the page, not drawn
            found.append(Series(str(model), style, colour, line, marker, part[_DRAWN]))
    return found


_DRAWN = ["suite", "task", "primary", "status", "seed", "volume", "chance"]
_DRAWN += [f"{column}{end}" for column in ["value", "delta"] for end in ["", "_low", "_high"]]


def _words(name: str, value: Any) -> str:
    if name == "variant":
        return str(value)
    if name in {"tuning", "objective", "data", "mitigation"} and value not in {"", "none"}:
        return str(value)
    return f"no {name}" if value in {"", "none"} else f"{name.replace('_', ' ')} {value}"


def _colours(count: int) -> list[str]:
    return [ONE_COLOUR] if count == 1 else [mpl.colors.to_hex(mpl.colormaps["viridis"](x)) for x in np.linspace(0.0, 0.82, count)]


def curve_of(panel: Panel, rows: pd.DataFrame, column: Column) -> Curve:
    """Return the mean over the seeds of a series on a panel, in the panel's unit, with its 95% interval.

    One seed: the interval over items. From MIN_SEEDS on: centre ± √((t·s/√k)² + (mean half-width over items)²), s over the k seeds.
    It is conservative: seeds share their items, so s holds some of the items' noise already. Two seeds: none (NaN).
    """
    found = panel.rows(rows)
    found = found[found["status"] == "ok"].dropna(subset=[column]).drop_duplicates(["seed", "volume"])
    wide, low, high = (_by_seed(found, f"{column}{end}") * panel.unit.scale for end in ["", "_low", "_high"])
    centre, count = wide.mean(axis=1), wide.count(axis=1)
    over_seeds = wide.std(axis=1) / np.sqrt(count) * distributions.t.ppf(0.975, np.maximum(count - 1, 1))
    over_seeds = over_seeds.where(count >= MIN_SEEDS) if wide.shape[1] > 1 else 0.0
    ends = [centre - np.hypot(over_seeds, (wide - low).mean(axis=1)), centre + np.hypot(over_seeds, (high - wide).mean(axis=1))]
    return Curve([int(v) for v in wide.index], centre.tolist(), ends[0].tolist(), ends[1].tolist(), [wide[s] for s in wide.columns])


def _by_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    return rows.pivot(index="volume", columns="seed", values=column).astype(float).sort_index()
