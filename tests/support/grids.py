"""Grids of fabricated runs, and an independent reader of pages."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from harness.records.writer import ExperimentWriter
from tests.support.experiments import Task, flipped, share, write_run

ROLES = {"new": "target", "old": "probe"}


def grid(
    folder: Path,
    *,
    models: int = 1,
    tunings: tuple[str, ...] = ("full",),
    mitigations: tuple[str, ...] = ("none",),
    seeds: int = 1,
    volumes: tuple[int, ...] = (8, 32, 128),
    texts: dict[str, Any] | None = None,
    controls: bool = False,
    high_rates: tuple[str, ...] = (),
    independent: bool = False,
) -> ExperimentWriter:
    """Write runs that gain 9k of 40 on ``new`` and lose 4k + seed on ``old``.

    k is the number of the volume, from 1. With ``controls``, each model and tuning also has a
    declared control at an untuned rate, which gains nothing and loses k of 40, or 4k for the models
    ``high_rates``. With ``independent``, the first model and tuning also has independent
    trajectories.
    """
    experiment = ExperimentWriter(folder)
    before = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(36, 40))]
    for model, tuning, mitigation, seed in itertools.product(range(models), tunings, mitigations, range(seeds)):
        points = {
            volume: [
                Task(suite="new", task="n", values=flipped(share(2, 40), lost=0, gained=9 * k)),
                Task(suite="old", task="o", values=flipped(share(36, 40), lost=4 * k + seed, gained=0)),
            ]
            for k, volume in enumerate(volumes, start=1)
        }
        labels = {"model": f"m{model}", "tuning": tuning, "mitigation": mitigation} | (texts or {})
        name = f"m{model}{tuning}{mitigation}{seed}"
        write_run(experiment, name, before=before, points=points, roles=ROLES, labels=labels, seed=seed, params_total=10 ** (4 + model))
    first = {"model": "m0", "tuning": tunings[0]}
    for seed in range(seeds if independent else 0):
        write_run(
            experiment,
            f"independent{seed}",
            before=before,
            points=points,
            roles=ROLES,
            labels={"mitigation": "none", "trajectory": "independent"} | first,
            seed=seed,
            params_total=10**4,
            trajectory="independent",
        )
    for model, tuning, seed in itertools.product(range(models), tunings, range(seeds if controls else 0)):
        lost = 4 if f"m{model}" in high_rates else 1
        kept = {
            volume: [before[0], Task(suite="old", task="o", values=flipped(share(36, 40), lost=lost * k, gained=0))]
            for k, volume in enumerate(volumes, start=1)
        }
        labels = {"model": f"m{model}", "tuning": tuning, "mitigation": "none", "data": "base", "objective": "clm"}
        name = f"control{model}{tuning}{seed}"
        write_run(
            experiment,
            name,
            before=before,
            points=kept,
            roles=ROLES,
            labels=labels,
            seed=seed,
            params_total=10 ** (4 + model),
            lr_tuned=False,
        )
    if controls:
        declared = {"declared": {"control": {"data": "base"}}}
        experiment.write_manifest(dict.fromkeys(experiment.run_ids(), declared), keep=False)
    return experiment


class Page(HTMLParser):
    """A page's text, tables, elements and scripts.

    Attributes:
        tables: name → rows of texts, the headings first.
        elements: (tag, attributes) of every element.
        scripts: contents of its scripts.
        texts: its texts, in order.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._table = ""
        self._is_group = False
        self._within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self._table = dict(attrs).get("data-name") or "?"
            self.tables[self._table] = []
        elif tag == "tr":
            self._is_group = dict(attrs).get("class") == "group"
            self.tables[self._table].append([])
        elif tag in {"td", "th"} and not self._is_group:
            self.tables[self._table][-1].append("")
        if tag in {"td", "th"} - ({"th"} if self._is_group else set()) or tag in {"script", "style", "small", "title", "desc"}:
            self._within.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self._within:
            self.scripts[-1] += data
        elif self._within and self._within[-1] in {"td", "th"}:
            self.tables[self._table][-1][-1] += data
            self.texts.append(data)
        elif "style" not in self._within:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All visible text, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def rows(self, name: str) -> list[dict[str, str]]:
        """Return a table's rows as heading → text, without the marks of verdicts."""
        head, *body = [[" ".join(cell.split()).lstrip("▼▲=? ") for cell in row] for row in self.tables[name] if row]
        return [dict(zip(head, row, strict=True)) for row in body]
