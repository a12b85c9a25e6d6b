"""Schema of a sweep's records: manifest, sweep, unit, claim; versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness import PROTOCOL_VERSION
from harness.config.run_config import Declared
from harness.records.schema import SCHEMA_VERSION

TRIES = 2
"""Exceptions after which a run counts as failed: one may be chance (a file system, a full GPU)."""


@dataclass(frozen=True)
class Manifest:
    """The runs that the last sweep, and any run since, asked for.

    Attributes:
        sweep: id of the last sweep, whose units are in ``sweeps/``; None if there was only
            ``harness run``.
        declared: their declarations; None in a manifest of an earlier version.
        arms: run id → name of its arm, for runs that have one. Names belong to the experiment, not
            to a run: they are no part of its identity, and those of the last command count.
        targets: target suites, in the order in which the last command named them.
        claim: hash of the claim that the experiment declared at its first command; empty if it
            declared none then.
    """

    experiment: str
    run_ids: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    sweep: str | None = None
    declared: Declared | None = None
    arms: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    claim: str = ""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One job of a sweep: a run, the volume 0 that runs need, or the measurement of one point.

    Attributes:
        kind: ``measurement`` measures a checkpoint that a run left at a volume.
        id: the run id; of a baseline unit, ``baseline-`` and a hash; of a measurement, the run id,
            ``@`` and the volume.
        overrides: they compose to its configuration (of a baseline unit, that of any run that
            needs it).
        arm: name of its arm; empty without arms, and of a baseline unit.
        label: its name for people.
        needs: baseline units that come first.
        evaluations: suite → evaluation id; of a baseline unit, those that volume 0 lacks.
        before_sha256: hash of the weights that volume 0 is measured on.
        volumes: points to reach, or the one to measure; empty for a baseline unit.
        measures: whether the unit of a run measures its points itself.
        derived: runs that are measured with this one, at the same volumes.
        threads, processes: that it computes with.
        params_total: of its model.
        cost: approximate floating-point operations, to start the longest first.
    """

    kind: Literal["baseline", "run", "measurement"]
    id: str
    overrides: tuple[str, ...]
    arm: str = ""
    label: str
    needs: tuple[str, ...] = ()
    evaluations: Mapping[str, str]
    before_sha256: str = ""
    volumes: tuple[int, ...] = ()
    derived: tuple[str, ...] = ()
    measures: bool = True
    threads: int
    processes: int
    params_total: int
    cost: float

    @property
    def run_id(self) -> str:
        """The run that it belongs to; of a baseline unit, its own id."""
        return self.id.partition("@")[0]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The units of a sweep, done or not, in the order in which they start.

    Attributes:
        cores, gpus: of each worker, as planned; they decide threads, dtype and processes.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    id: str
    experiment: str
    command: str
    time: str
    cores: int
    gpus: int
    units: tuple[Unit, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's hold of a unit; ``generation`` counts the holds of a unit.

    The modification time of its file is its last heartbeat.

    Attributes:
        sweep: id of the sweep that it was taken for; empty for ``harness run``.
        host, boot, pid, started: the process that holds it. ``boot`` distinguishes containers and
            reboots of a host, ``started`` processes with the same pid.
        node: the cluster's name of the machine, else its host name.
        lease: seconds without a heartbeat after which another worker may take the unit.
        found: summary of the unit's records when it was taken.
        stage, finished, total: progress since.
        cpu_seconds, wall_seconds: spent on it.
        gpus, memory_bytes: held at the last heartbeat.
        ended: how the hold ended: ``done``, ``failed``, ``interrupted``, …; empty while it is held,
            and always empty if its owner died.
        died: how its owner died, if that is known.
    """

    schema_version: int = SCHEMA_VERSION
    unit: str
    generation: int
    sweep: str
    host: str
    boot: str
    pid: int
    started: float
    node: str
    lease: float
    taken: str
    found: str = ""
    stage: str = ""
    finished: int = 0
    total: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    gpus: int = 0
    memory_bytes: int = 0
    ended: str = ""
    reason: str = ""
    died: str = ""
