"""The pairs of methods that are compared at equal gain, and their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from harness.analysis.findings.reading import METHOD, Arm
from harness.analysis.statistics import two_level

ALL_PAIRS = 6
"""Largest number of methods for which all pairs are compared: 15 pairs. With 26 methods there would
be 325, and one in twenty could be false."""

PLAIN = "none"
"""The label of no mitigation. With many methods, the others are compared with the plain ones."""

WITHOUT_MITIGATION = ["tuning", "objective", "variant"]
"""Labels that a method shares with the plain ones that it is compared with. The anchor belongs to
the mitigation; the plain ones may have other rates, numbers of epochs and trajectories."""

Cells = tuple[Arm, ...]
"""A method: one cell, or the plain cells of several learning rates or numbers of epochs."""


def pairs_of(arms: Sequence[Arm], *, rates: bool = False) -> Iterator[tuple[Cells, Cells]]:
    """Yield the pairs of methods to compare.

    Plain cells that differ only in rate, epochs and trajectory are one method for all others. Among
    themselves, numbers of epochs are compared, each at its best rate, and ``rates`` if asked for.
    Of more than ALL_PAIRS methods, only pairs with a plain one are.
    """
    plain: dict[tuple[Any, ...], list[Arm]] = {}
    for arm in arms:
        if _is_plain(arm):
            plain.setdefault(_but_for_mitigation(arm), []).append(arm)
    others: list[Cells] = [(arm,) for arm in arms if not _is_plain(arm)]
    methods = [*map(tuple, plain.values()), *others]
    pairs = list(combinations(methods[: None if len(methods) <= ALL_PAIRS else len(plain)], 2))
    if len(methods) > ALL_PAIRS:
        pairs += _with_first(plain, others)
    for cells in plain.values():
        pairs += combinations(_parted(cells, "epochs"), 2)
    for pair in pairs:
        for first, second in _in_trajectory(*pair):
            if any(first[0].labels[name] != second[0].labels[name] for name in METHOD):
                yield first, second
    for cells in plain.values() if rates else ():
        yield from _rates(cells)


def _with_first(plain: Mapping[tuple[Any, ...], Sequence[Arm]], others: Sequence[Cells]) -> Iterator[tuple[Cells, Cells]]:
    """Yield each method with the plain one, or without any with the first of its trajectory."""
    first: dict[tuple[Any, ...], Cells] = {}
    for method in others:
        alike = _but_for_mitigation(method[0])
        yield tuple(plain.get(alike, ())) or first.setdefault((*alike, method[0].labels["trajectory"]), method), method


def _rates(cells: Sequence[Arm]) -> Iterator[tuple[Cells, Cells]]:
    """Yield each rate with the searched one, or without one with the lowest."""
    for part in _parted(cells, "epochs"):
        for alike in _parted(part, "trajectory"):
            reference = min(alike, key=lambda arm: (not arm.labels["lr_tuned"], arm.labels["learning_rate"]))
            yield from (((arm,), (reference,)) for arm in alike if arm is not reference)


def _is_plain(arm: Arm) -> bool:
    return bool(arm.labels["mitigation"] == PLAIN)


def _parted(cells: Sequence[Arm], label: str) -> list[Cells]:
    """Return the cells in groups that share a label."""
    return [tuple(arm for arm in cells if arm.labels[label] == value) for value in dict.fromkeys(arm.labels[label] for arm in cells)]


def _in_trajectory(first: Cells, second: Cells) -> Iterator[tuple[Cells, Cells]]:
    """Yield a pair for each trajectory that both have.

    A mitigation is compared with no mitigation on any trajectory: each is a way to do without one.
    """
    if _is_plain(first[0]) != _is_plain(second[0]):
        yield first, second
        return
    of_second = {cells[0].labels["trajectory"]: cells for cells in _parted(second, "trajectory")}
    for cells in _parted(first, "trajectory"):
        if other := of_second.get(cells[0].labels["trajectory"]):
            yield cells, other


def _but_for_mitigation(arm: Arm) -> tuple[Any, ...]:
    return tuple(arm.labels[name] for name in WITHOUT_MITIGATION)


def names_of(first: Cells, second: Cells, arms: Sequence[Arm], shown: pd.DataFrame) -> list[str]:
    """Return the names of a pair, such as ``lora`` and ``full, mitigation=replay``.

    A name has the labels in which the two differ, and the learning rate where other cells differ
    from it in nothing else. Where the two have several trajectories, so is that of a cell whose
    method has another. ``shown``: cell → METHOD labels as names have them; several plain cells may
    be those of several arms.
    """
    sides = [(cells, shown.loc[[cells[0].cell]].iloc[0]) for cells in (first, second)]
    differ = [name for name in METHOD if first[0].labels[name] != second[0].labels[name]]
    names = [_name(cells, of if len(cells) == 1 else of.where(of.index != "mitigation", PLAIN), differ, arms) for cells, of in sides]
    if len({arm.labels["trajectory"] for arm in (*first, *second)}) == 1:
        return names
    return [", ".join(filter(None, [name, _trajectory(cells, arms)])) for name, cells in zip(names, (first, second), strict=True)]


def _name(cells: Cells, labels: pd.Series, differ: Sequence[str], arms: Sequence[Arm]) -> str:
    varied = [name for name in _SETTINGS if len({arm.labels[name] for arm in cells}) > 1]
    words = [str(labels[name]) if name == "tuning" else f"{name}={labels[name]}" for name in differ if name not in varied]
    alike = [arm for arm in arms if all(arm.labels[name] == cells[0].labels[name] for name in [*METHOD, "trajectory"])]
    if len(cells) > 1:
        known = len(comparable(cells))
        count = f"{len(cells)}" if known in {0, len(cells)} else f"{known} of {len(cells)}"
        words.append(f"best of {count} {' and '.join(_SETTINGS[name] for name in varied) if len(varied) < len(_SETTINGS) else 'settings'}")
    elif len(alike) > 1:
        words.append(f"learning_rate={cells[0].labels['learning_rate']:g}")
    return ", ".join(words)


def _trajectory(cells: Cells, arms: Sequence[Arm]) -> str:
    """Return the trajectory of a cell that another of the same method does not share, in words."""
    labels = cells[0].labels
    known = {arm.labels["trajectory"] for arm in arms if all(arm.labels[name] == labels[name] for name in METHOD)}
    return f"{labels['trajectory']} trajectory" if len(cells) == 1 and len(known) > 1 else ""


_SETTINGS = {"learning_rate": "rates", "epochs": "numbers of epochs", "trajectory": "trajectories"}
"""Labels in which the cells of one method may differ, and their words in its name."""


FEW = f"fewer than {two_level.MIN_SEEDS} seeds, which others have"


def comparable(cells: Cells) -> list[Arm]:
    """Return the cells of a method that have a path.

    A cell with fewer than MIN_SEEDS seeds would take the variation between seeds from all others.
    """
    known = [arm for arm in cells if arm.path is not None]
    return [arm for arm in known if len(arm.seeds) >= two_level.MIN_SEEDS] or known
