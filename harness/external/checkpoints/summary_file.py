"""``forgetting.json``: the losses of a training so far, for programs that follow it.

It is replaced whole after each measurement, so a reader never sees half of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.core import json_text
from harness.core.files import write_text
from harness.external.checkpoints import finding, states
from harness.external.checkpoints.finding import Signature
from harness.models.weights import numbered

if TYPE_CHECKING:
    from harness.external.judge import Comparison

FILE = "forgetting.json"
VERSION = 1

Status = Literal["watching", "done", "idle", "interrupted", "failed"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measured checkpoint.

    Attributes:
        checkpoint: name of its folder.
        volume: its place on the axis of the run.
        step: optimizer steps; None if unknown.
        rows: of the training data so far; None if unknown.
        tokens: of training so far; None if unknown.
        training_loss: in nats; None if unknown.
        seconds: of loading and measuring it.
        suites: suite → unit, metric, n, before, after, loss, interval, stderr, df, verdict. A loss
            is positive where the checkpoint is worse than the base.
        files: of the checkpoint when it was measured: name, size, time of change, inode of each.
    """

    checkpoint: str
    volume: int
    step: int | None
    rows: int | None
    tokens: int | None
    training_loss: float | None
    seconds: float
    suites: Mapping[str, Mapping[str, Any]]
    files: tuple[str, ...] = ()

    @property
    def signature(self) -> Signature:
        """Its files, as ``finding.signature`` returns them."""
        parts = [one.rsplit(" ", 3) for one in self.files]
        return tuple((name, int(size), int(changed), int(inode)) for name, size, changed, inode in parts)


@dataclass(kw_only=True)
class Summary:
    """The content of the file.

    Attributes:
        base: the model before training, as typed.
        output: the watched folder.
        run_id: of the run in the experiment's folder; empty before the first checkpoint.
        axis: unit of the volumes.
        evaluations: suite → evaluation id, which says how the checkpoints were measured.
        status: ``watching``, or how the watch ended.
        checkpoints: by volume.
        skipped: name of a checkpoint → why it is not measured.
    """

    base: str
    output: str
    evaluations: Mapping[str, str]
    run_id: str = ""
    axis: str = ""
    status: Status = "watching"
    checkpoints: list[Measured] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, one: Measured) -> None:
        """Add a checkpoint, in place of one of its name."""
        others = [other for other in self.checkpoints if other.checkpoint != one.checkpoint]
        self.checkpoints = sorted([*others, one], key=lambda one: one.volume)

    def resume(self, file: Path) -> None:
        """Take over what an earlier watch of the same training measured in the same way.

        A file that is damaged, of another version, folder or evaluations changes nothing.
        """
        try:
            values = json_text.loads(file.read_text(encoding="utf-8"))
            same = {"version": VERSION, "output": self.output, "evaluations": dict(self.evaluations)}
            found = [Measured(**one | {"files": tuple(one["files"])}) for one in values["checkpoints"]]
            if all(values[key] == value for key, value in same.items()) and all(one.signature for one in found):
                self.checkpoints = [one for one in found if _is_of_training(one, Path(self.output))]
                self.run_id, self.axis = str(values["run_id"]), str(values["axis"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return

    def write(self, file: Path) -> None:
        """Replace the file. Raises OSError."""
        head = {"version": VERSION, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        write_text(file, json.dumps(head | asdict(self), indent=1, allow_nan=False))


def _is_of_training(one: Measured, output: Path) -> bool:
    """Return whether a measured checkpoint is of the training that is in a folder now.

    It is unchanged, or was deleted and a later checkpoint continues its losses: trainers delete
    old checkpoints, never the last. A folder that was emptied holds another training. Raises
    OSError if there is no folder.
    """
    folder = output / one.checkpoint
    if folder.is_dir():
        return set(finding.signature(folder)) <= set(one.signature)
    step = one.step or 0
    later = [path for path in numbered(output) if (finding.number_of(path) or 0) > step]
    if not later:
        return False
    logged = states.loss_at(later[-1], step)
    return logged is None or one.training_loss is None or logged == one.training_loss


def suites_of(comparison: Comparison, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the suites of a comparison as plain values.

    Args:
        comparison: of the base with a checkpoint.
        rows: its suites, as ``told.of_suites`` returns them.
    """
    errors = comparison.rows[comparison.rows["task"] == "*"].set_index("suite")[["stderr", "df"]]
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = {key: row[key] for key in ("unit", "metric", "n")} | {key: _finite(row[key]) for key in ("before", "after", "loss")}
        interval = None if row["low"] is None else [_finite(row["low"]), _finite(row["high"])]
        spread = {key: _finite(errors.loc[row["suite"], key]) for key in ("stderr", "df")}
        found[row["suite"]] = own | {"interval": interval} | spread | {"verdict": row["verdict"]}
    return found


def _finite(value: Any) -> float | None:
    """Return a number; None for a missing one, or infinity, which JSON lacks."""
    number = float("nan") if value is None or str(value) == "<NA>" else float(value)
    return number + 0.0 if math.isfinite(number) else None
