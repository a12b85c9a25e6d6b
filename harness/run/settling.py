"""The record of a run, brought up to date with what is asked of it and measured by now."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from harness.config.identity import recorded
from harness.config.strict import plain
from harness.core import files
from harness.core.progress import Progress
from harness.core.rows import Row
from harness.data import overlap
from harness.evaluation import prompts
from harness.records.schema import Record
from harness.records.store import Experiment
from harness.run.generated.binding import generated_for
from harness.run.preparation import Prepared
from harness.run.selection import derived_config

MEASURING = ("evaluation", "target_suites", "probe_suites", "reference")
"""Parts of a configuration that say how a run is measured."""


def is_settled(prepared: Prepared) -> bool:
    """Return whether the record of a run shows what is asked of it."""
    found = prepared.experiment.glance("runs", prepared.run_id, "record.json")
    shown = [found.get(name) for name in ("evaluations", "before_sha256", "roles", "incomplete")]
    reference = found.get("labels", {}).get("reference")
    asked = [prepared.evaluation_ids, prepared.before_sha256, prepared.roles, []]
    lacks = any(prepared.experiment.lacks_files(one) for one in (prepared.run_id, *prepared.derived.values()))
    return shown == asked and reference == prepared.config.labels.reference and not lacks


def lock(prepared: Prepared) -> AbstractContextManager[None]:
    """Return a lock on a run's record, which workers that measure its points update too."""
    folder = prepared.experiment.run_folder(prepared.run_id)
    return files.locked(folder / "record.lock") if prepared.resolved.separate and folder.is_dir() else nullcontext()


def settle(prepared: Prepared, progress: Progress) -> None:
    """Let the record of a run, and those of derived runs, say what is asked and measured by now.

    The suites that are shown are those asked for last. Without a record nothing is written.
    """
    with lock(prepared):
        for one in (*prepared.derived.values(), prepared.run_id):
            record = prepared.experiment.record(one)
            if record is not None:
                _settle(prepared, record)
                if set(prepared.volumes) <= set(record.volumes):
                    prepared.experiment.drop_failure(one)
                summarise(prepared.experiment, one, progress)


def _settle(prepared: Prepared, record: Record) -> None:
    reference, experiment = prepared.config.labels.reference, prepared.experiment
    changed = [name for name, found in prepared.evaluation_ids.items() if record.evaluations.get(name) != found]
    values: dict[str, Any] = {
        "evaluations": prepared.evaluation_ids,
        "before_sha256": prepared.before_sha256,
        "roles": prepared.roles,
        "labels": {**record.labels, "reference": reference},
        "incomplete": incomplete(prepared, record.run_id, record.volumes),
    }
    asked = plain(prepared.config)
    labels = {**record.config["labels"], "reference": reference}
    values["config"] = {**record.config, **{name: asked[name] for name in MEASURING}, "labels": labels}
    if changed:
        values["overlap"] = _overlap(prepared, record, changed)
    if changed or record.roles != prepared.roles or experiment.lacks_files(record.run_id):
        write_prompts(prepared)
        write_configs(prepared)
    now = dataclasses.replace(record, **values)
    if now != record:
        experiment.write_record(now)


def _overlap(prepared: Prepared, record: Record, changed: Sequence[str]) -> dict[str, Any]:
    """Return the overlap of a run with suites of which some are measured in another way.

    Unknown, so left out, for generated rows and for a run that saw more rows than are asked for.
    """
    known = {name: found for name, found in record.overlap.items() if name in prepared.evaluation_ids and name not in changed}
    if generated_for(prepared.config) or max(record.volumes) > prepared.volumes[-1]:
        return known
    last = prepared.experiment.point(prepared.run_id, max(record.volumes))
    drawn = prepared.anchor[: last.anchor_rows] if last else []
    return known | overlap_of(prepared, [*prepared.rows, *drawn], changed)


def overlap_of(prepared: Prepared, rows: Sequence[Row], suites: Iterable[str]) -> dict[str, Any]:
    """Return suite → shares of its items' text that occur in rows; only of suites measured before.

    A suite that asks for the rows that are taught has ``expected``.
    """
    texts = list(dict.fromkeys(row.text for row in rows))
    found: dict[str, Any] = {}
    for name in suites:
        suite, place = prepared.workspace.suite_of(name, prepared.config), (prepared.evaluation_ids[name], prepared.before_sha256)
        if suite.suite.overlap == "expected":
            found[name] = "expected"
        elif prepared.experiment.measurement(*place) is not None:
            samples = prepared.experiment.measurement_samples(*place)
            items = samples[~samples["task"].map(suite.apart).astype(bool)].drop_duplicates(["task", "doc_hash"])
            found[name] = overlap.shares(texts, items["item"].tolist()) if len(items) else {}
    return found


def write_prompts(prepared: Prepared, run_id: str | None = None) -> None:
    """Write one item of each task as the model sees it; ``run_id`` None is the run's own."""
    tokenizer = prepared.workspace.tokenizer_of(prepared.config)
    for name in prepared.roles:
        suite = prepared.workspace.suite_of(name, prepared.config)
        shown = prompts.shown(suite, prepared.config.evaluation, tokenizer, prepared.facts.context_length)
        prepared.experiment.write_prompts(run_id or prepared.run_id, name, shown)


def write_configs(prepared: Prepared) -> None:
    """Write the configurations of a run and its derived runs, and what they are measured by."""
    configs: dict[str, Mapping[str, Any]] = {prepared.run_id: recorded(prepared.config)}
    configs |= {run_id: derived_config(prepared, coefficient) for coefficient, run_id in prepared.derived.items()}
    for run_id, config in configs.items():
        prepared.experiment.write_config(run_id, config, prepared.evaluation_ids, prepared.before_sha256)


def incomplete(prepared: Prepared, run_id: str, volumes: Iterable[int]) -> tuple[int, ...]:
    """Return the volumes with a failed or missing measurement; 0 is volume 0.

    Those of derived runs are included in the run that trained.
    """
    experiment, ids = prepared.experiment, prepared.evaluation_ids
    every = (run_id, *prepared.derived.values()) if run_id == prepared.run_id else (run_id,)
    points = [volume for volume in volumes if any(experiment.unmeasured(one, volume, ids) for one in every)]
    before = all(experiment.is_measured(evaluation_id, prepared.before_sha256) for evaluation_id in ids.values())
    return (*([] if before else [0]), *points)


def summarise(experiment: Experiment, run_id: str, progress: Progress) -> None:
    """Write the summary of a recorded run, so that no table reads its items again."""
    from harness.analysis.table import runs  # imports SciPy, which only the end of a run needs

    if reason := runs.summarise(experiment, run_id):
        progress.say(f"run {run_id}: recorded; its summary could not be computed: {reason}")
