"""Logs of inspect_ai for tests, written by hand in the layout of 0.3.285."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GRADES = {True: "C", False: "I"}

Log = dict[str, Any]


def sample(number: int, value: Any, *, epoch: int = 1, scorer: str = "match", **changes: Any) -> dict[str, Any]:
    """Return a sample with one score."""
    return {
        "id": number,
        "epoch": epoch,
        "input": f"question {number}",
        "target": "yes",
        "messages": [],
        "output": {"model": "some/model", "choices": [], "completion": f"answer {value}"},
        "scores": {scorer: {"value": value, "answer": str(value), "history": []}},
        "metadata": {},
        "uuid": f"{number}-{epoch}-{value}",
        **changes,
    }


def log(samples: Sequence[Mapping[str, Any]], *, task: str = "sums", model: str = "some/model", **changes: Any) -> Log:
    """Return a log of one task.

    Args:
        samples: as returned by ``sample``.
        task: its name.
        model: its model.
        changes: keys of ``eval``, or ``status``, ``results``, ``plan`` and ``version`` of the log.
    """
    epochs = max((int(one["epoch"]) for one in samples), default=1)
    whole: Log = {key: changes.pop(key) for key in ("version", "status", "plan", "results") if key in changes}
    described = {
        "created": "2026-01-02T03:04:05+00:00",
        "task": task,
        "task_version": 0,
        "task_args": {},
        "dataset": {"samples": len(samples) // epochs},
        "model": model,
        "model_generate_config": {},
        "model_args": {},
        "config": {"epochs": epochs},
        "packages": {"inspect_ai": "0.3.285"},
        "scorers": [{"name": "match", "options": {}}],
    }
    rest: Log = {"version": 2, "status": "success", "plan": {"steps": [], "config": {}}, "results": {"scores": []}}
    return {**rest, **whole, "eval": described | changes, "samples": list(samples)}


def graded(right: Sequence[bool], **options: Any) -> Log:
    """Return a log of one epoch with a grade for each sample."""
    return log([sample(i, GRADES[is_right]) for i, is_right in enumerate(right, 1)], **options)


def write(file: Path, values: Mapping[str, Any]) -> Path:
    """Write a ``.json`` log, or an ``.eval`` log with the compression of older releases."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps(values), encoding="utf-8")
        return file
    members = {f"samples/{one['id']}_epoch_{one['epoch']}.json": one for one in values["samples"]}
    members = {"header.json": {key: value for key, value in values.items() if key != "samples"}} | members
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():  # a ZipInfo of its own has no time: equal bytes each time
            archive.writestr(zipfile.ZipInfo(name), json.dumps(content), compress_type=zipfile.ZIP_DEFLATED)
    return file


def sides(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Write a log into each of two folders."""
    write(folder / "before" / "log.json", before)
    write(folder / "after" / "log.json", after)


def planted(folder: Path) -> None:
    """Write 20 samples of two epochs, five of them lost, and a log in each kind of file."""
    for side, right in {"before": 15, "after": 10}.items():
        samples = [sample(i, GRADES[i < right], epoch=epoch) for epoch in (1, 2) for i in range(20)]
        write(folder / side / "sums.json", log(samples))
        write(folder / side / "more.eval", graded([i < right for i in range(20)], task="more"))
