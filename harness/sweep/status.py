"""Progress of a sweep, from disk alone: states, workers, costs so far and left."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.core.errors import RecordError, explain
from harness.records.store import Experiment
from harness.records.sweep_schema import Claim, Sweep, Unit
from harness.sweep.claims import LEFT, Claims
from harness.sweep.states import State, UnitStates

HOUR = 3600.0
STATES: tuple[State, ...] = ("done", "running", "pending", "failed")


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Seconds of processors, GPUs and workers: two workers for a minute are 120."""

    cpu: float = 0.0
    gpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(cpu=self.cpu + other.cpu, gpu=self.gpu + other.gpu, wall=self.wall + other.wall)


@dataclass(frozen=True, kw_only=True)
class UnitState:
    """A unit and its progress.

    Attributes:
        group: arm and overrides that it shares with units of another seed.
        reason: of its failure.
        points, wanted: volumes recorded and asked for.
        stage, finished, total: of its work while it runs.
        node: of its current or last worker.
        heartbeat_seconds: age of the last heartbeat while it runs.
        tries: exceptions so far.
        deaths: of workers that had it.
        spent: by all workers that ever had it.
        paid: whether this sweep finished it, so that ``spent`` is the cost of such a unit.
    """

    id: str
    kind: str
    label: str
    group: str
    state: State
    reason: str = ""
    points: int = 0
    wanted: int = 0
    stage: str = ""
    finished: int = 0
    total: int = 0
    node: str = ""
    heartbeat_seconds: float | None = None
    tries: int = 0
    deaths: int = 0
    spent: Seconds = Seconds()
    paid: bool = False


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A sweep at one moment.

    Attributes:
        spent: by all units, including the work of dead workers.
        left: cost of the unfinished units, at the rate of those that this sweep finished; None
            before the first.
        seconds_left: with the current number of workers; None without workers.
        workers: node → number of workers that have a unit.
    """

    experiment: str
    sweep: str
    command: str
    units: tuple[UnitState, ...]
    spent: Seconds
    left: Seconds | None
    seconds_left: float | None
    workers: dict[str, int]

    def count(self, kind: str, *states: State) -> int:
        """Return the number of units of a kind, in any of these states if given."""
        return sum(unit.kind == kind and (not states or unit.state in states) for unit in self.units)

    @property
    def points(self) -> tuple[int, int]:
        """Points measured, and points asked for."""
        apart = {unit.id.partition("@")[0] for unit in self.units if unit.kind == "measurement"}
        counted = [unit for unit in self.units if unit.id not in apart]
        return sum(unit.points for unit in counted), sum(unit.wanted for unit in counted)

    @property
    def is_over(self) -> bool:
        """Whether nothing is running or pending."""
        return all(unit.state in {"done", "failed"} for unit in self.units)


class StatusReader:
    """Reads a sweep's progress repeatedly; units that are done or failed only once."""

    def __init__(self, experiment: Experiment, sweep: Sweep | None = None) -> None:
        found = sweep or experiment.sweep()
        if found is None:
            raise RecordError(explain(f"sweep of '{experiment.name}'", got="none", fix="`harness sweep experiment=NAME` starts one"))
        self.experiment, self.sweep = experiment, found
        self.claims = Claims(experiment, sweep=found.id)
        self.states = UnitStates(experiment, self.claims)
        self.known: dict[str, UnitState] = {}
        self.groups = groups({unit.id: (unit.arm, unit.overrides) for unit in found.units if unit.kind == "run"})

    def read(self) -> Overview:
        """Return the current progress."""
        claimed = set(self.experiment.claims.units())
        owners: dict[tuple[str, str, int], str] = {}
        for unit in self.sweep.units:
            known = self.known.get(unit.id)
            changes = unit.id in claimed or unit.kind != "run"
            if known is None or (known.state not in {"done", "failed"} and changes):
                self.known[unit.id] = self._look(unit, owners)
        units = tuple(self.known[unit.id] for unit in self.sweep.units)
        left = _left(self.sweep.units, units)
        return Overview(
            experiment=self.experiment.name,
            sweep=self.sweep.id,
            command=self.sweep.command,
            units=units,
            spent=sum((unit.spent for unit in units), Seconds()),
            left=left,
            seconds_left=left.wall / len(owners) if left and owners else None,
            workers=dict(sorted(Counter(owners.values()).items())),
        )

    def _look(self, unit: Unit, owners: dict[tuple[str, str, int], str]) -> UnitState:
        state, history = self.states.of(unit), self.claims.history(unit.id)
        last = history[-1] if history else None
        found = UnitState(
            id=unit.id,
            kind=unit.kind,
            label=unit.label,
            group=self.groups.get(unit.id, f"{unit.kind}s"),
            state=state,
            points=len(self.states.reached(unit)) if state == "done" else len(set(unit.volumes) & set(self.experiment.volumes(unit.id))),
            wanted=len(self.states.reached(unit)),
            node=last.node if last else "",
            deaths=sum(not claim.ended and claim.died != LEFT for claim in history) - (state == "running"),
            spent=sum(map(_spent, history), Seconds()),
            paid=state == "done" and any(claim.sweep == self.sweep.id for claim in history),
        )
        if state == "running" and last:
            owners[last.host, last.boot, last.pid] = last.node
            age = self.experiment.claims.age(last)
            found = dataclasses.replace(
                found,
                stage=last.stage,
                finished=last.finished,
                total=last.total,
                heartbeat_seconds=None if age is None else round(age, 1),
            )
        return found if state == "done" else self._troubled(unit, found)

    def _troubled(self, unit: Unit, found: UnitState) -> UnitState:
        failure = self.experiment.failure(unit.id) if unit.kind == "run" else None
        reason = self.states.failure(unit) or (failure.reason if failure else "")
        return dataclasses.replace(found, reason=reason, tries=failure.tries if failure else 0)


def _spent(claim: Claim) -> Seconds:
    return Seconds(cpu=claim.cpu_seconds, gpu=claim.gpus * claim.wall_seconds, wall=claim.wall_seconds)


def groups(runs: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return the name of each run's group: its arm, and its overrides.

    The seed and overrides that all runs share are left out, as are those that an arm's runs share.

    Args:
        runs: run → its arm (empty without arms) and its overrides.
    """
    of_arms: dict[str, list[set[str]]] = {}
    for arm, texts in runs.values():
        of_arms.setdefault(arm, []).append(set(texts))
    every = [texts for found in of_arms.values() for texts in found]
    common = set.intersection(*every) if len(every) > 1 else set()
    shared = {arm: set.intersection(*found) if arm and len(of_arms) > 1 else set() for arm, found in of_arms.items()}
    names = {}
    for name, (arm, texts) in runs.items():
        own = [text for text in texts if text not in common | shared[arm] and not text.startswith("seed=")]
        names[name] = " ".join([*([f"arm={arm}"] if arm else []), *own]) or "all"
    return names


def _left(units: Sequence[Unit], states: Sequence[UnitState]) -> Seconds | None:
    """Return the cost of the unfinished units.

    A unit's cost per operation is that of finished units of its kind with the nearest model size.
    What it spent already is subtracted, since it resumes.
    """
    paid: dict[tuple[str, int], tuple[float, Seconds]] = {}
    for unit, state in zip(units, states, strict=True):
        if state.paid and unit.cost > 0:
            cost, spent = paid.get((unit.kind, unit.params_total), (0.0, Seconds()))
            paid[unit.kind, unit.params_total] = cost + unit.cost, spent + state.spent
    if not paid:
        return None
    left = Seconds()
    for unit, state in zip(units, states, strict=True):
        if state.state in {"running", "pending"}:
            cost, spent = paid[min(paid, key=_distance(unit))]
            share = unit.cost / cost
            rest = {name: max(0.0, share * value - getattr(state.spent, name)) for name, value in vars(spent).items()}
            left += Seconds(**rest)
    return left


def _distance(unit: Unit) -> Callable[[tuple[str, int]], tuple[bool, float]]:
    return lambda other: (other[0] != unit.kind, abs(math.log(max(1, other[1]) / max(1, unit.params_total))))


def as_json(found: Overview) -> str:
    """Return everything as JSON; times in seconds."""
    done, wanted = found.points
    states = {state: found.count("run", state) for state in STATES}
    totals = {"runs": found.count("run"), "runs_by_state": states, "points_done": done, "points": wanted}
    return json.dumps(dataclasses.asdict(found) | totals, indent=1, ensure_ascii=False)


def as_text(found: Overview, limit: int = 20) -> str:
    """Return totals, then running units, failed ones with reasons, and pending groups.

    Args:
        found: the sweep.
        limit: lines of each part; the number of omitted ones is shown.
    """
    parts = [*_totals(found)]
    parts += section("running", [_running(unit) for unit in found.units if unit.state == "running"], limit)
    parts += section("failed", [(unit.label, unit.reason) for unit in found.units if unit.state == "failed"], limit)
    pending = Counter(unit.group for unit in found.units if unit.state == "pending")
    return "\n".join(parts + section("pending", [(str(count), group) for group, count in pending.items()], limit)) + "\n"


def _totals(found: Overview) -> list[str]:
    done, wanted = found.points
    runs = f"{found.count('run', 'done')} of {found.count('run')} runs, {done} of {wanted} points"
    baselines = f", {found.count('baseline', 'done')} of {found.count('baseline')} baselines" if found.count("baseline") else ""
    states = Counter(unit.state for unit in found.units)
    others = ", ".join(f"{states[state]} {state}" for state in STATES[1:] if states[state])
    lines = [f"{found.experiment}: {runs}{baselines} done{f'; {others}' if others else ''}", f"spent {_hours(found.spent)}"]
    if found.left and not found.is_over:
        lines.append(f"left about {_hours(found.left)}")
    if found.workers:
        nodes = ", ".join(f"{node} ({count})" for node, count in found.workers.items())
        end = f"; ends in about {duration(found.seconds_left)}" if found.seconds_left is not None else ""
        count = sum(found.workers.values())
        lines.append(f"{count} worker{'' if count == 1 else 's'}: {nodes}{end}")
    elif not found.is_over:
        lines.append(f"no worker is alive; unless some wait in a queue, resume with: {found.command}")
    return lines


def _running(unit: UnitState) -> tuple[str, ...]:
    beat = f"heartbeat {duration(unit.heartbeat_seconds)} ago" if unit.heartbeat_seconds is not None else ""
    trouble = ", ".join(f"{count} {name}" for count, name in ((unit.tries, "failed"), (unit.deaths, "died")) if count)
    share = f"{min(unit.finished, unit.total)}/{unit.total}" if unit.total else ""
    return unit.label, f"{unit.points}/{unit.wanted} points", unit.stage or "starting", share, unit.node, beat, trouble


def section(title: str, rows: Sequence[tuple[str, ...]], limit: int) -> list[str]:
    """Return an empty line, a title and up to ``limit`` aligned rows; nothing without rows."""
    more = [f"  … and {len(rows) - limit} more"] if len(rows) > limit else []
    return ["", title, *aligned(rows[:limit]), *more] if rows else []


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as indented lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _hours(seconds: Seconds) -> str:
    gpu = f", {duration(seconds.gpu)} of GPUs" if seconds.gpu else ""
    return f"{duration(seconds.cpu)} of processors{gpu}, {duration(seconds.wall)} of workers"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes, hours or days, by its length."""
    steps: Iterable[tuple[float, float, str]] = ((90, 1, "s"), (90 * 60, 60, "min"), (48 * HOUR, HOUR, "h"))
    for below, unit, name in steps:
        if seconds < below:
            return f"{seconds / unit:.{int(name == 'h')}f} {name}"
    return f"{seconds / (24 * HOUR):.1f} days"
