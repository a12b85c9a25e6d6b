"""What binds a run to the rows that models wrote for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.config.run_config import RunConfig
from harness.core.progress import Progress
from harness.data import subsets
from harness.records.schema import WRITERS
from harness.run.generated.data import Data
from harness.run.preparation import Prepared


def bind(prepared: Prepared, data: Data, begin_again: Callable[[], None], progress: Progress) -> None:
    """Note the rows that a run is trained on, by volume.

    Have it begun again where those it was trained on are not what they were.

    They are kept apart from runs, and no hash of a run tells of them: they may have been lost, and
    written again elsewhere.

    Args:
        prepared: the run.
        data: its rows.
        begin_again: drops what there is of it.
        progress: told where that is done.
    """
    experiment, run_id, known = prepared.experiment, prepared.run_id, prepared.experiment.written(prepared.run_id)
    within = [int(volume) for volume in known if int(volume) <= prepared.volumes[-1]]
    now = {str(volume): _hash(data, volume, prepared.config.training.epochs) for volume in [*within, *prepared.volumes]}
    if changed := [volume for volume in within if known[str(volume)] != now[str(volume)]]:
        progress.say(f"run {run_id}: begun again: up to volume {min(changed)} the rows that models wrote are not what they were")
        begin_again()
        known = {}
    experiment.write_written(run_id, {**known, **now})


def _hash(data: Data, volume: int, epochs: int) -> str:
    """Return the hash of target rows up to a volume, and of what is mixed in by then of an anchor that was written."""
    return subsets.fingerprint([*data.target[:volume], *data.anchor[: data.due(volume * epochs)]])


def writers(config: RunConfig) -> dict[str, Any]:
    """Return what Record.writing says of who wrote: ``objective``, ``targets`` or ``anchor``.

    Empty where nothing is written.
    """
    by = [*(["objective"] if config.objective.writes else []), *([config.mitigation.writes] if config.mitigation.writes else [])]
    return {WRITERS: by} if by else {}
