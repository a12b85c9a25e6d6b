"""Grids of fabricated runs, and a reader of pages that knows nothing of how they are made."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from harness.records import Experiment
from tests.analysis.fabricate import Task, flipped, share, write_run

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
) -> Experiment:
    """Write runs of which the k-th volume gains 9k of 40 on ``new`` and loses 4k + seed of 40 on ``old``."""
    experiment = Experiment(folder)
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
    return experiment


class Page(HTMLParser):
    """What a page holds: its text, its tables by name as rows of texts, its elements with their attributes, and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._table = ""
        self._within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self._table = dict(attrs).get("data-name") or "?"
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in {"td", "th"}:
            self.tables[self._table][-1].append("")
        if tag in {"td", "th", "script", "style", "small", "title", "desc"}:
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
        """Everything a reader sees, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def rows(self, name: str) -> list[dict[str, str]]:
        """A table's rows, heading → text, without marks of verdicts."""
        head, *body = [[" ".join(cell.split()).lstrip("▼▲=? ") for cell in row] for row in self.tables[name]]
        return [dict(zip(head, row, strict=True)) for row in body]
