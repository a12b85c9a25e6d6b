"""Missing work of a run: volumes to train, and measurements to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.run.preparation import Prepared


@dataclass(frozen=True)
class Outstanding:
    """What a run lacks.

    Attributes:
        before: suites whose volume 0 is not measured.
        train: volumes whose weights are missing: never trained, or not kept and not measured.
        measure: volume → suites to measure on weights on disk; none where these only are left over.
        retrained: suites that are measured by training again, since weights were not kept.
    """

    before: tuple[str, ...]
    train: tuple[int, ...]
    measure: Mapping[int, tuple[str, ...]]
    retrained: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether nothing is missing."""
        return not (self.before or self.train or self.measure)


def outstanding(prepared: Prepared) -> Outstanding:
    """Return what a run and its derived runs lack, from disk."""
    experiment, train, retrained = prepared.experiment, [], []
    measure: dict[int, tuple[str, ...]] = {}
    for volume in prepared.volumes:
        lacking = {
            one: experiment.unmeasured(one, volume, prepared.evaluation_ids) for one in (prepared.run_id, *prepared.derived.values())
        }
        own = lacking.pop(prepared.run_id)
        if not own and not any(lacking.values()):
            if experiment.unmeasured_weights(prepared.run_id, volume).is_dir():  # of a process that was killed
                measure[volume] = ()
            continue
        if own and not any(lacking.values()) and experiment.weights_folder(prepared.run_id, volume):
            measure[volume] = own
            continue
        train.append(volume)
        if experiment.point(prepared.run_id, volume) is not None:
            retrained += [*own, *(name for names in lacking.values() for name in names)]
    before = [name for name, found in prepared.evaluation_ids.items() if not experiment.is_measured(found, prepared.before_sha256)]
    return Outstanding(tuple(before), tuple(train), measure, tuple(dict.fromkeys(retrained)))


def is_done(prepared: Prepared) -> bool:
    """Return whether the run and its derived runs are recorded and measured at every volume."""
    return is_recorded(prepared) and outstanding(prepared).is_done


def is_trained(prepared: Prepared) -> bool:
    """Return whether the run is recorded, and lacks nothing but measurements of kept weights."""
    return is_recorded(prepared) and not outstanding(prepared).train


def is_recorded(prepared: Prepared) -> bool:
    """Return whether the run and its derived runs have a record of every volume."""
    records = (prepared.experiment.glance("runs", one, "record.json") for one in (prepared.run_id, *prepared.derived.values()))
    return all(set(prepared.volumes) <= set(record.get("volumes", ())) for record in records)
