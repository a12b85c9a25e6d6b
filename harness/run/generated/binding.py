"""Hashes of the generated rows of a run; changed rows restart it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.config.run_config import RunConfig
from harness.core.progress import Progress
from harness.data import subsets
from harness.records.schema import WRITERS
from harness.run.generated.data import Data
from harness.run.preparation import Prepared


def bind(prepared: Prepared, data: Data, restart: Callable[[], None], progress: Progress) -> None:
    """Write the hash of a run's rows by volume; restart the run if rows changed.

    The rows are stored outside the run, and the run id does not depend on them: they may have been
    lost, and then generated anew on another machine.

    Args:
        prepared: the run.
        data: its rows.
        restart: drops the results of the run.
        progress: told of a restart.
    """
    experiment, run_id, known = prepared.experiment, prepared.run_id, prepared.experiment.written(prepared.run_id)
    within = [int(volume) for volume in known if int(volume) <= max(prepared.config.data.volumes)]
    reached = [volume for volume in prepared.config.data.volumes if data.reach is None or volume <= data.reach[0]]
    now = {str(volume): _hash(data, volume, prepared.config.training.epochs) for volume in [*within, *reached]}
    if changed := [volume for volume in within if known[str(volume)] != now[str(volume)]]:
        progress.say(f"run {run_id}: restarted, because its generated rows up to volume {min(changed)} changed")
        restart()
        known = {}
    experiment.write_written(run_id, {**known, **now}, data.reach)


def _hash(data: Data, volume: int, epochs: int) -> str:
    """Return the hash of the target rows and generated anchor rows up to a volume."""
    return subsets.fingerprint([*data.target[:volume], *data.anchor[: data.anchor_rows(volume * epochs)]])


def generated_for(config: RunConfig) -> dict[str, Any]:
    """Return the uses of generated rows for ``Record.writing``: objective, targets or anchor.

    Empty for a run without generated rows.
    """
    uses = [*(["objective"] if config.objective.writes else []), *([config.mitigation.writes] if config.mitigation.writes else [])]
    return {WRITERS: uses} if uses else {}
