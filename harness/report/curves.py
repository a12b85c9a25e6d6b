"""Cells (runs that differ only in seed) as series with colour, line, marker and name.

The page calls a cell a method: a model and how it was trained. A name mentions only the labels
that vary among cells that are not controls: controls have other data by definition, which would
make every name longer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.findings.arms import named_by_arm
from harness.analysis.findings.cells import controlled
from harness.analysis.table.columns import SUITE_TASK
from harness.report import palette, words
from harness.report.content import Mark
from harness.report.tables import varying

LINES = [("solid", "o"), ("6 3", "s"), ("2 2.5", "^"), ("8 2 2 2", "D"), ("8 2 2 2 2 2", "v"), ("1.5 4", "P")]
"""Dashes and marker of each method; dashes as in SVG, in line widths of about one."""

MAX_MODELS = 8
MAX_STYLES = 6
"""More would hide each other or fill the page."""

TUNED = {"full": "tuned in full", "lora": "tuned with LoRA"}

CONTROL = "control"
INDEPENDENT = "independent"
_SPELLED_OUT = {CONTROL: "same-data control", INDEPENDENT: "independent trajectories"}
"""Word of a label → its full form, which a sentence adds after a comma."""


@dataclass(frozen=True)
class Series:
    """A cell with its name and the style in which it is drawn.

    Attributes:
        cell: its identifier in the findings.
        model: name of its model.
        style_name: how it differs from other cells of its model, such as ``lora · replay`` or
            ``lora · control``.
        colour: of its curve.
        line: dashes of its curve.
        marker: of its points.
        is_control: whether it is a same-data control.
        control: the cell of its same-data control; empty if it has none.
        labels: label → value.
        found: the findings of all cells.
        places: its rows in them.
    """

    cell: str
    model: str
    style_name: str
    colour: str
    line: str
    marker: str
    is_control: bool
    control: str
    labels: Mapping[str, Any]
    found: pd.DataFrame
    places: npt.NDArray[np.intp]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Its findings, by volume; selected on first use: a page draws few cells."""
        return self.found.iloc[self.places].sort_values("volume", kind="stable")

    @cached_property
    def last(self) -> pd.DataFrame:
        """Its findings at its largest volume."""
        last: pd.DataFrame = self.rows[self.rows["volume"] == self.rows["volume"].max()]
        return last

    @property
    def name(self) -> str:
        """Its full name, for a sentence."""
        tuning = str(self.labels["tuning"])
        rest = [word for word in self.style_name.split(" · ") if word not in {tuning, "no mitigation", f"tuning {tuning}"}]
        plain = ", ".join(word for word in rest if word not in _SPELLED_OUT)
        main = f"{named(self.model)} {TUNED.get(tuning, f'tuned with {tuning}')}{f' ({plain})' if plain else ''}"
        return ", ".join([main, *(_SPELLED_OUT[word] for word in rest if word in _SPELLED_OUT)])

    @property
    def short(self) -> str:
        """Its short name, for a table."""
        return f"{named(self.model)} · {self.style_name}"

    @property
    def size(self) -> tuple[float, str]:
        """Sort key of its model: parameters, unknown ones last, then the name."""
        params = self.labels["params_total"]
        return (float("inf") if pd.isna(params) else float(params), self.model)

    def on(self, suite: str, task: str = SUITE_TASK) -> pd.DataFrame:
        """Return its findings on a suite or task that have a change, by volume."""
        return self._by_task.get((suite, task), self._nothing)

    @cached_property
    def _by_task(self) -> dict[tuple[str, str], pd.DataFrame]:
        rows = self.rows[_DRAWN].dropna(subset=["delta"]).drop_duplicates(["suite", "task", "volume"])
        return {(str(suite), str(task)): part for (suite, task), part in rows.groupby(["suite", "task"], sort=False)}

    @cached_property
    def _nothing(self) -> pd.DataFrame:
        return self.rows.head(0)[_DRAWN]

    @cached_property
    def runs(self) -> list[str]:
        """Its runs."""
        named = self.found["run_ids"].iloc[self.places].dropna().unique()
        return sorted({run for text in named for run in str(text).split(",")})


_DRAWN = "suite task volume before after delta delta_low delta_high level varies n seeds chance".split()


def series(findings: pd.DataFrame) -> list[Series]:
    """Return the cells of findings in the page's order.

    Unmitigated methods come first and controls last; within a method, cells are sorted by model
    size.
    """
    if findings.empty:
        return []
    ordered, styles = in_order(findings)
    sizes = ordered.groupby("model", sort=True)["params_total"].max().sort_values(kind="stable", na_position="last")
    colours = dict(zip(sizes.index, palette.sizes(len(sizes)), strict=True))
    places = findings.groupby("cell", sort=False).indices
    control_of = _controls(ordered)
    names = [name for name in _LABELS if name in ordered]
    found = []
    for row in ordered[[*names, "_style", "_control"]].astype(object).to_dict("records"):
        line, marker = LINES[styles[row["_style"]] % len(LINES)]
        found.append(
            Series(
                cell=str(row["cell"]),
                model=str(row["model"]),
                style_name=str(row["_style"]),
                colour=colours[row["model"]],
                line=line,
                marker=marker,
                is_control=bool(row["_control"]),
                control=control_of.get(str(row["cell"]), ""),
                labels={name: row[name] for name in names},
                found=findings,
                places=np.asarray(places[row["cell"]], dtype=np.intp),
            )
        )
    return found


def in_order(findings: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return one row per cell in the page's order, and the number of each style.

    Added columns: ``_style`` (the cell's style name) and ``_control`` (whether it is a control).
    """
    cells = findings.drop_duplicates("cell")
    cells = cells.assign(_control=cells["is_control"].fillna(False).astype(bool))
    proper = cells[~cells["_control"]]
    others = [name for name in varying(proper if len(proper) else cells) if name != "model"]
    cells = cells.assign(_style=_styles(cells, others), _last=cells["trajectory"] == INDEPENDENT)
    cells = cells.assign(_mitigated=cells["mitigation"].fillna("none") != "none")  # unmitigated methods first
    names = [name for name in others if name != "trajectory"]
    at = names.index("mitigation") if "mitigation" in names else len(names)
    order = ["_control", "_last", *names[:at], "_mitigated", *names[at:], "params_total", "model"]
    ordered = cells.sort_values(order, kind="stable", na_position="first")
    return ordered, {str(name): number for number, name in enumerate(dict.fromkeys(ordered["_style"]))}


def _styles(cells: pd.DataFrame, others: Sequence[str]) -> list[str]:
    """Return the style name of each cell: its labels that vary.

    The learning rate and the number of epochs are named only where cells that are alike but for
    them have several. A control is named by the labels that all cells it controls share, and the
    word CONTROL.
    """
    shown = named_by_arm(cells)
    texts = shown[list(others)].astype(object).itertuples(index=False, name=None)
    rows = {
        str(cell): dict(zip(others, map(label_words, others, row), strict=True)) for cell, row in zip(cells["cell"], texts, strict=True)
    }
    left, proper = list(others), shown[~cells["_control"]]
    for setting in [name for name in ("learning_rate", "epochs") if name in others]:
        left.remove(setting)
        several = proper.groupby([*dict.fromkeys(["model", *left])], dropna=False)[setting].transform("nunique") > 1
        alike = {tuple(rows[str(cell)][name] for name in left) for cell in proper["cell"][several]}
        for row in rows.values():
            if tuple(row[name] for name in left) not in alike:
                row[setting] = ""
    names = {cell: list(filter(None, row.values())) for cell, row in rows.items()}
    controlled_names: dict[str, list[list[str]]] = {}
    for cell, control in _controls(cells).items():
        controlled_names.setdefault(control, []).append(names[cell])
    for control, group in controlled_names.items():
        names[control] = [word for word in group[0] if all(word in other for other in group)] + [CONTROL]
    for cell, is_control in zip(cells["cell"], cells["_control"], strict=True):
        if is_control and str(cell) not in controlled_names:
            names[str(cell)] = [*names[str(cell)], CONTROL]
    return [" · ".join(names[str(cell)]) for cell in cells["cell"]]


def _controls(cells: pd.DataFrame) -> dict[str, str]:
    """Return cell → its control."""
    return controlled(cells.set_index("cell"), cells.set_index("cell")["_control"])


_LABELS = "cell model params_total tuning objective mitigation data anchor trajectory epochs learning_rate variant dtype".split()


def chosen(every: Sequence[Series], *, models: int = MAX_MODELS, styles: int = MAX_STYLES) -> tuple[list[Series], str]:
    """Return the series to draw of many, and a sentence on the rest.

    Drawn are models evenly spaced over sizes, and the first styles.
    """
    names = list(dict.fromkeys(one.model for one in every))
    sizes = sorted(names, key=lambda name: min(one.size[0] for one in every if one.model == name))
    places = sorted({round(float(at)) for at in np.linspace(0, len(sizes) - 1, min(models, len(sizes)))})
    kept_models = {sizes[place] for place in places}
    kept_styles = set(_in_turn(every)[:styles])
    kept = [one for one in every if one.model in kept_models and one.style_name in kept_styles]
    return kept, left_out(len(kept), len(every))


def left_out(count: int, total: int) -> str:
    """Return a sentence on the methods that are drawn; empty if all are."""
    return words.drawn(count, total, "methods", "findings.csv")


def _in_turn(every: Sequence[Series]) -> list[str]:
    """Return the style names in order; tunings alternate if there are too many styles."""
    names = list(dict.fromkeys(one.style_name for one in every))
    if len(names) <= MAX_STYLES:
        return names
    tuning_of = {one.style_name: str(one.labels["tuning"]) for one in every}
    by_tuning = [[name for name in names if tuning_of[name] == tuning] for tuning in dict.fromkeys(tuning_of[name] for name in names)]
    return [name for turn in itertools.zip_longest(*by_tuning) for name in turn if name is not None]


def legend(every: Sequence[Series]) -> list[Mark]:
    """Return the legend's entries for models (colours) and styles (lines and markers)."""
    by_size = sorted(every, key=lambda one: one.size)
    by_model = {one.model: Mark(label=sized(one.model, one.labels["params_total"]), colour=one.colour, line="swatch") for one in by_size}
    by_style = {one.style_name: Mark(label=one.style_name, line=one.line, marker=one.marker) for one in every}
    return [*by_model.values(), *by_style.values()]


def named(model: str) -> str:
    """Return a model's name; a long one is cut at its start."""
    name = model if len(model) <= 24 else model.rsplit("/", 1)[-1]
    return name if len(name) <= 30 else f"…{name[-29:]}"


def sized(model: str, params: Any) -> str:
    """Return a model's name with its size, such as ``pythia-160m (162M)``."""
    name = named(model)
    if pd.isna(params):
        return name
    units = [(1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")]
    size, letter = next((size, letter) for size, letter in units if float(params) >= size or size == 1.0)
    return f"{name} ({float(params) / size:.3g}{letter})"


def label_words(name: str, value: Any) -> str:
    """Return the shortest clear text of a label; empty if it has its usual value."""
    absent = pd.isna(value) or value in {"", "none"}
    if name == "trajectory":
        return INDEPENDENT if value == INDEPENDENT else ""
    if name == "variant":
        return "" if absent else str(value)
    if name in {"model", "tuning", "objective", "data", "mitigation"} and not absent:
        return named(str(value)) if name == "model" else str(value)
    return f"no {name}" if absent else f"{name.replace('_', ' ')} {value}"
