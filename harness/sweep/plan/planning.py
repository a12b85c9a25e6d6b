"""A sweep before it starts: states, missing pieces, and the cost of the rest."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.config.resolution import Machine
from harness.config.run_config import RunConfig
from harness.core.errors import DataError, EvaluationError, HarnessError, ModelError
from harness.core.files import size_text
from harness.core.methods import Mitigation
from harness.core.sources import ModelSource
from harness.records.store import Experiment
from harness.records.sweep_schema import Unit
from harness.run import other_models
from harness.run.outstanding import Outstanding, is_done, outstanding
from harness.run.preparation import Prepared, check_together, experiment_of, prepare
from harness.run.workspace import Workspace, content_key, source_of
from harness.sweep.axes import Asked, expand
from harness.sweep.claims import Claims
from harness.sweep.launchers import choose
from harness.sweep.plan.device import OnDevice, gpu_hours, on_device, price_line
from harness.sweep.plan.device import lines as memory_lines
from harness.sweep.plan.estimate import Cost, Estimator
from harness.sweep.plan.offline import offline
from harness.sweep.plan.power import Power, power
from harness.sweep.plan.power import lines as smallest_losses
from harness.sweep.plan.rates import START_SECONDS, rates
from harness.sweep.plan.stale import Stale, stale_runs
from harness.sweep.states import UnitStates
from harness.sweep.status import duration, groups, section
from harness.sweep.units import label, not_reached, units_of

State = Literal["done", "running", "failed", "pending", "missing", "incompatible"]

TO_DO: tuple[State, ...] = ("pending", "failed", "running")
OTHERS = 20
"""Other experiments that rates are measured from."""

LINES = 12
"""Lines of each part of the text; the number of omitted ones is shown."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run that is asked for, or a baseline that it needs.

    Attributes:
        id: empty if the run could not be identified.
        reason: of the state failed, missing or incompatible; of done, the volumes not reached.
        again: what is measured or trained again of a run that is recorded; empty for a new one.
        cost: of the work that is left; None if it could not be identified.
    """

    id: str
    kind: str
    label: str
    overrides: tuple[str, ...]
    arm: str = ""
    state: State
    reason: str = ""
    again: str = ""
    volumes: tuple[int, ...] = ()
    cost: Cost | None = None


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A sweep that has not started.

    Attributes:
        left: total cost of its unfinished runs and baselines.
        seconds: until all is done, with ``workers`` at a time; None if it is unknown.
        measured_on: hardware of the rates; empty if there are none.
        power: the smallest losses that it would find.
        gpu_memory: of each model × tuning on one GPU; empty without GPUs.
        price: lines on GPU-hours, and their price where the launcher names one.
    """

    experiment: str
    units: tuple[Planned, ...]
    stale: tuple[Stale, ...]
    left: Cost
    seconds: float | None
    workers: int
    measured_on: str
    power: tuple[Power, ...] = ()
    notes: tuple[str, ...] = field(default=())
    gpu_memory: tuple[OnDevice, ...] = ()
    price: tuple[str, ...] = ()

    def runs(self, *states: State) -> list[Planned]:
        """Return the runs in some states, or all runs."""
        return [unit for unit in self.units if unit.kind == "run" and (not states or unit.state in states)]

    @property
    def can_start(self) -> bool:
        """Whether nothing is missing and no point is rejected."""
        return not self.runs("missing", "incompatible")


def plan_command(overrides: Sequence[str], *, as_json: bool = False) -> tuple[str, int]:
    """Return the output and exit code of ``harness plan``: 1 if the sweep cannot start.

    Raises ConfigError.
    """
    found = plan_sweep(overrides)
    return (to_json(found) if as_json else as_text(found)), 0 if found.can_start else 1


def plan_sweep(overrides: Sequence[str], machine: Machine | None = None, workers: int | None = None) -> SweepPlan:
    """Plan a sweep: nothing is fetched, built or written.

    Args:
        overrides: as for ``harness sweep``, including the launcher's.
        machine: cores and GPUs of a run; None takes the launcher's.
        workers: at a time; None takes the launcher's number.

    Raises:
        ConfigError: one line, for an error at every point.
    """
    with offline():
        launcher, rest = choose.split(overrides)
        expansion, workspace = expand(rest), Workspace()
        machine = machine or launcher.machine
        experiment = experiment_of(expansion.asked[0].config)
        ready: list[tuple[Asked, Prepared]] = []
        stopped = [
            Planned(id="", kind="run", label=" ".join(one.overrides), overrides=one.overrides, state="incompatible", reason=one.reason)
            for one in expansion.rejected
        ]
        for one in expansion.asked:
            found = _prepared(one, workspace, machine)
            if isinstance(found, Prepared):
                ready.append((one, found))
            else:
                stopped.append(found)
        check_together([prepared for _, prepared in ready])
        earlier = _experiments(experiment)
        estimator = Estimator(workspace, rates(earlier, gpu=machine.gpus > 0), gpu=machine.gpus > 0)
        units = _units(ready, experiment, estimator)
        left = sum((unit.cost for unit in units if unit.state in TO_DO and unit.cost), Cost())
        most = max((unit.resolved.threads * unit.resolved.processes for _, unit in ready), default=1)
        workers = workers or launcher.workers or max(1, workspace.machine().cores // most)
        return SweepPlan(
            experiment=experiment.name,
            units=(*units, *stopped),
            stale=tuple(stale_runs(experiment, [prepared for _, prepared in ready])),
            left=left,
            seconds=_together(units, workers),
            workers=workers,
            measured_on=estimator.rates.where,
            power=power([prepared for _, prepared in ready], earlier),
            gpu_memory=on_device([prepared for _, prepared in ready], machine),
            price=tuple(price_line(gpu_hours(left.seconds, machine), launcher.price_per_hour, machine)),
            notes=tuple(_notes(left, ready, units, gpu=machine.gpus > 0)),
        )


def _prepared(one: Asked, workspace: Workspace, machine: Machine) -> Prepared | Planned:
    """Prepare a run, or return why it is missing a piece or incompatible."""
    state: State = "missing"
    try:
        parts = (one.config.model, one.config.data, one.config.anchor, one.config.mitigation, one.config.evaluation)
        others = (one.config.reference, one.config.objective)
        key = (content_key(*parts, *others), one.config.target_suites, one.config.probe_suites)
        workspace.once(("pieces", *key), lambda: _pieces(one, workspace))
        state = "incompatible"
        return prepare(one.config, workspace, machine)
    except HarnessError as error:
        reason = str(error)
    if state == "missing" and any(word in reason for word in ("hub", "network")):  # else nothing that can be fetched is missing
        named = next((text for text in one.overrides if text.startswith("experiment=")), "with the same arguments")
        reason += f"; `harness prefetch {named}`, on a machine with a network, fetches and checks every piece"
    called = label(one, "").strip()
    return Planned(id="", kind="run", label=called, overrides=one.overrides, state=state, reason=reason)


def _pieces(one: Asked, workspace: Workspace) -> None:
    """Look for the models, data and suites of a run on this machine.

    Raises ModelError, DataError or EvaluationError for one that is missing or cannot be read.
    """
    config = one.config
    workspace.facts_of(config)
    workspace.tokenizer_of(config)
    for model in other_models.every(config, workspace).values():
        workspace.facts_of_model(model)
    workspace.rows_of(config.data)
    if config.anchor is not None and config.mitigation.needs_anchor:
        workspace.rows_of(config.anchor)
    for name in (*config.target_suites, *config.probe_suites):
        try:
            suite = workspace.suite(name)
            source = source_of(suite, config)
        except HarnessError:  # invalid rather than missing: preparation reports it
            continue
        if source is not None:
            workspace.rows_of(source, suite.split)
        try:
            workspace.suite_of(name, config)
        except (ModelError, DataError, EvaluationError):
            raise
        except HarnessError:
            continue


def _experiments(experiment: Experiment) -> list[Experiment]:
    """Return this experiment and others in the same results folder, the latest first."""
    parent = experiment.folder.parent
    others = [path for path in parent.iterdir() if (path / "runs").is_dir() and path != experiment.folder] if parent.is_dir() else []
    latest = sorted(others, key=lambda path: -path.stat().st_mtime)[:OTHERS]
    return [experiment, *map(Experiment, latest)]


def _units(ready: Sequence[tuple[Asked, Prepared]], experiment: Experiment, estimator: Estimator) -> list[Planned]:
    """Return the baselines to measure, then all runs, with states and costs."""
    by_id = {prepared.run_id: prepared for _, prepared in reversed(ready)}
    states = UnitStates(experiment, Claims(experiment, sweep=str(experiment.glance("manifest.json").get("sweep") or "")))
    units = [unit for unit in units_of(ready) if unit.kind != "measurement"]  # part of the cost of a run
    begun = {*experiment.run_ids(), *experiment.claims.units()}
    state_of: dict[str, State] = {}
    for unit in units:
        state_of[unit.id] = states.of(unit) if unit.id in begun or unit.kind == "baseline" else "pending"
        if unit.kind == "run" and unit.id in begun and state_of[unit.id] in {"pending", "done"}:
            state_of[unit.id] = "done" if is_done(by_id[unit.id]) else "pending"  # also if it was asked for other suites before
    needed = {name for unit in units if state_of[unit.id] != "done" for name in unit.needs}
    found = []
    for unit in units:
        again = ""
        if unit.kind == "baseline":
            needing = next((prepared for _, prepared in ready if _needs(prepared, unit)), None)
            cost = estimator.baseline(needing, sorted(unit.evaluations)) if needing else Cost()
        else:
            prepared = by_id[unit.id]
            left = outstanding(prepared) if unit.id in begun and state_of[unit.id] in TO_DO else None
            known = experiment.glance("runs", unit.id, "record.json").get("evaluations")
            again = _again(left, _changed(known, prepared)) if left and known else ""
            cost = estimator.measuring(prepared, left.measure) if left and not left.train else estimator.run(prepared)
        if unit.kind == "run" or unit.id in needed:
            unreached = not_reached(by_id[unit.id]) if state_of[unit.id] == "done" and unit.kind == "run" else ""
            reason = states.failure(unit) if state_of[unit.id] == "failed" else unreached
            found.append(dataclasses.replace(_planned(unit, state_of[unit.id], reason, cost), again=again))
    return found


def _changed(known: Mapping[str, str], prepared: Prepared) -> dict[str, str]:
    """Return suite → its mark, of those that a run was measured on otherwise."""
    asked = prepared.evaluation_ids
    return {name: " (changed)" for name in known if asked.get(name, known[name]) != known[name]}


def _again(left: Outstanding, changed: Mapping[str, str]) -> str:
    """Return what is done again for a recorded run, and why.

    Args:
        left: the work that is left.
        changed: suite → its mark, of those that the run was measured on otherwise.
    """
    kept = dict.fromkeys(name + changed.get(name, "") for names in left.measure.values() for name in names)
    volumes = ", ".join(map(str, left.measure))
    parts = [f"weights kept: measures {', '.join(kept)} at {volumes}"] if kept else []
    if left.retrained:
        at, again = ", ".join(map(str, left.train)), ", ".join(name + changed.get(name, "") for name in left.retrained)
        parts.append(f"weights not kept: retrains, to measure {again} at {at} (save_weights=all keeps them)")
    return "; ".join(parts)


def _needs(prepared: Prepared, unit: Unit) -> bool:
    """Return whether a run needs a baseline unit."""
    return prepared.before_sha256 == unit.before_sha256 and set(unit.evaluations.values()) <= set(prepared.evaluation_ids.values())


def _planned(unit: Unit, state: State, reason: str, cost: Cost) -> Planned:
    values = {"id": unit.id, "kind": unit.kind, "label": unit.label, "overrides": unit.overrides, "volumes": unit.volumes}
    return Planned(**values, arm=unit.arm, state=state, reason=reason, cost=cost)  # type: ignore[arg-type]


def _together(units: Iterable[Planned], workers: int) -> float | None:
    """Return the time until all is done: the start, and work per worker or the longest units."""
    costs = [(unit.kind, unit.cost.seconds) for unit in units if unit.state in TO_DO and unit.cost]
    if any(seconds is None for _, seconds in costs):
        return None
    known = [(kind, seconds or 0.0) for kind, seconds in costs]
    longest = sum(max((seconds for kind, seconds in known if kind == which), default=0.0) for which in ("baseline", "run"))
    return bool(known) * START_SECONDS + max(longest, sum(seconds for _, seconds in known) / workers)


def _notes(left: Cost, ready: Sequence[Any], units: Sequence[Planned], *, gpu: bool) -> list[str]:
    notes = []
    if left.seconds is None:
        notes.append(f"time unknown: nothing was measured {'on a GPU, and this machine has no GPU' if gpu else 'yet'}")
    elif not left.measured:
        notes.append("time partly estimated, from steps, items and a matrix product: may be off by twice, by more for large models")
    if left.unknown:
        notes.append(f"time without {', '.join(left.unknown)}: not measured yet")
    if not left.memory_measured and left.memory_bytes and not gpu:
        notes.append("memory not measured at this size yet: weights, gradients, moments and logits, without activations")
    if made := len({content_key(one.config.model) for one, _ in ready if not _weights_are_here(one.config.model)}):
        notes.append(f"time without pretraining {made} model{'' if made == 1 else 's'} of the nursery first")
    to_do = {unit.id for unit in units if unit.state in TO_DO}
    if any(_does_more(one.config) for one, prepared in ready if prepared.run_id in to_do):
        notes.append("not included: text that models write, and forward passes of reference models")
    taught = {f"data {one.config.labels.data}": prepared.taught for one, prepared in ready}
    notes += [f"{name}: {rows.in_words()}" for name, rows in taught.items() if rows.content]
    if equal := len(ready) - sum(unit.kind == "run" for unit in units):
        notes.append(f"{equal} points share a run with another point: nothing that decides a number differs")
    return notes


def _does_more(config: RunConfig) -> bool:
    """Return whether models write for a run, or read more than its training rows."""
    objective, mitigation = config.objective, config.mitigation
    reads = not mitigation.is_off and type(mitigation).extra_tokens is not Mitigation.extra_tokens
    return bool(objective.writes or objective.learns != "tokens" or mitigation.writes or reads)


@functools.cache
def _weights_are_here(model: ModelSource) -> bool:
    try:
        return bool(model.weights_sha256())
    except ModelError:
        return False


def to_json(found: SweepPlan) -> str:
    """Return everything as JSON; times in seconds, sizes in bytes."""
    states: dict[str, int] = {"stale": len(found.stale)}
    states |= Counter(unit.state for unit in found.runs())
    totals = {"runs": len(found.runs()), "runs_by_state": states, "can_start": found.can_start}
    return json.dumps(totals | dataclasses.asdict(found), indent=1, ensure_ascii=False) + "\n"


def as_text(found: SweepPlan) -> str:
    """Return totals, the runs to do by group, and other runs with their reasons."""
    states = Counter(unit.state for unit in found.runs())
    counted = ", ".join(f"{count} {state}" for state, count in states.items()) or "nothing"
    lines = [f"{found.experiment}: {len(found.runs())} run(s): {counted}{f'; {len(found.stale)} stale' if found.stale else ''}"]
    lines += [*_costs(found), *smallest_losses(found.power)]
    lines += section("to do", _by_group(found.runs(*TO_DO)), LINES)
    lines += section("memory of a GPU", memory_lines(found.gpu_memory), LINES)
    again = Counter(unit.again for unit in found.runs(*TO_DO) if unit.again)
    lines += section("recorded before", [(str(count), what) for what, count in again.items()], LINES)
    explained: tuple[State, ...] = ("failed", "missing", "incompatible")
    for state in explained:
        reasons = Counter(unit.reason for unit in found.runs(state))
        lines += section(state, [(str(count), reason) for reason, count in reasons.items()], LINES)
    unreached = Counter(unit.reason for unit in found.runs("done") if unit.reason).items()
    lines += section("not reached", [(str(count), reason) for reason, count in unreached], LINES)
    lines += section("stale", [_stale_line(one) for one in found.stale], LINES)
    return "\n".join(lines) + "\n"


def _costs(found: SweepPlan) -> list[str]:
    left, runs = found.left, len(found.runs(*TO_DO))
    baselines = sum(unit.kind == "baseline" for unit in found.units)
    if not runs:
        return []
    read = "unknown" if left.evaluation_tokens is None else f"{left.evaluation_tokens:,}"
    with_baselines = f" and {baselines} baselines" if baselines else ""
    memory = f"{left.memory_bytes / 2**30:.2f} GiB"
    lines = [
        f"to do: {runs} run(s){with_baselines}: {left.train_tokens:,} training tokens, {read} evaluation tokens",
        f"disk: about {size_text(left.disk_bytes)}; memory: up to {'' if left.memory_measured else 'about '}{memory} a run",
    ]
    if found.seconds is not None and left.seconds is not None:
        where = f"; rates measured on {found.measured_on}" if found.measured_on else ""
        work = f", {duration(left.seconds)} of work{where}"
        lines.append(f"time: about {duration(found.seconds)} with {found.workers} worker{'' if found.workers == 1 else 's'}{work}")
    return [*lines, *found.price, *(f"note: {note}" for note in found.notes)]


def _by_group(runs: Sequence[Planned]) -> list[tuple[str, ...]]:
    names = groups({unit.id: (unit.arm, unit.overrides) for unit in runs})
    found: dict[str, list[Planned]] = {}
    for unit in runs:
        found.setdefault(names[unit.id], []).append(unit)
    return [(str(len(of)), name, *_cells(sum((unit.cost for unit in of if unit.cost), Cost()))) for name, of in found.items()]


def _cells(cost: Cost) -> tuple[str, ...]:
    seconds = "time unknown" if cost.seconds is None else f"{'' if cost.measured else 'about '}{duration(cost.seconds)}"
    return f"{cost.train_tokens:,} training tokens", seconds, f"{cost.memory_bytes / 2**30:.2f} GiB"


def _stale_line(one: Stale) -> tuple[str, ...]:
    differs = "; ".join(one.differs)
    return one.id, f"superseded by {one.superseded_by}: {differs}" if one.superseded_by else "no longer asked for"
