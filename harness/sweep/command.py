"""A sweep from its command line to its launcher: checks, then the plan on disk."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.config import combinations, composition, paths
from harness.config.identity import recorded
from harness.config.resolution import Machine
from harness.config.run_config import RunConfig
from harness.core.display import OUTPUT, Display, display
from harness.core.errors import ConfigError, DataError, ModelError, explain
from harness.core.progress import Progress, Silent
from harness.records import provenance
from harness.records.schema import Declared
from harness.records.store import declared_by
from harness.records.sweep_schema import TRIES, Sweep
from harness.records.writer import ExperimentWriter
from harness.run import execution, outstanding, preparation, settling
from harness.run.preparation import Prepared
from harness.sweep.axes import Asked, Expansion, expand
from harness.sweep.claims import Claims
from harness.sweep.launchers import local_worker
from harness.sweep.launchers.choose import Launcher, Work, split
from harness.sweep.reporter import saved_on_interrupt
from harness.sweep.tally import Tally
from harness.sweep.units import units_of
from harness.sweep.watch import WATCH_SECONDS
from harness.sweep.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Started(Work):
    """A sweep that is planned and written to disk.

    Attributes:
        already_done: runs that were done before.
        same: whether the last command asked for the same runs, in the same arms, and declared the
            same.
    """

    already_done: int
    same: bool
    launcher: Launcher


def require_name(overrides: Sequence[str], command: str = "sweep") -> None:
    """Raise ConfigError unless the overrides name an experiment or a results folder."""
    if not any(text.lstrip("+").partition("=")[0] in {"experiment", "name"} for text in overrides):
        allowed = f"experiment=NAME ({', '.join(paths.members('conf/experiment'))}), or name=NAME with axes of your own"
        named = next((text for text in overrides if text in paths.members("conf/experiment")), "")
        fix = f"harness {command} " + (f"experiment={named}" if named else "name=mine model=nursery-s,nursery-m seed=0,1")
        raise ConfigError(explain(command, got="neither an experiment nor a name", allowed=allowed, fix=fix))


def start(
    overrides: Sequence[str],
    arms: Mapping[str, Mapping[str, str]] | None = None,
    *,
    warm: bool = False,
    progress: Progress = Silent(),  # noqa: B008 - it has no state
) -> Started:
    """Check every run of a sweep and write the units to do; nothing runs yet.

    Args:
        overrides: ``experiment=NAME`` or ``name=NAME``, axes, values and the launcher.
        arms: name → overrides, in place of the experiment's arms.
        warm: let the launcher start its slow preparations meanwhile.
        progress: told of models that are pretrained first.

    Raises:
        HarnessError: one line; nothing was written.
    """
    launcher, rest = split(overrides)
    require_name(rest)
    expansion = expand(rest, arms)
    _require_valid(expansion)
    return begin(expansion.asked, launcher, keep=False, claim=expansion.claim, warm=warm, progress=progress)


def _require_valid(expansion: Expansion) -> None:
    if expansion.rejected:
        first, total = expansion.rejected[0], len(expansion.asked) + len(expansion.rejected)
        count = f"{len(expansion.rejected)} of {total} points are rejected"
        raise ConfigError(f"{first.reason} ({count}; `harness plan` lists them, hydra.sweeper.exclude leaves them out)")


def run(overrides: Sequence[str]) -> tuple[Started, Tally]:
    """Carry out one run in this process: the run of ``harness run`` and of ``harness.train``.

    Args:
        overrides: values, and possibly the launcher, whose workers must be on this machine.

    Raises:
        HarnessError: one line; nothing was written.
        KeyboardInterrupt: after everything was saved.
    """
    launcher, rest = split(overrides)
    if not launcher.here:
        allowed, fix = "local", "harness sweep for other launchers"
        raise ConfigError(explain("harness run: launcher", got=type(launcher).__name__, allowed=allowed, fix=fix))
    if any(text.startswith("experiment=") for text in rest):
        OUTPUT.message(
            "harness: one run, without the experiment's axes and arms: their keys have defaults; `harness sweep` runs every point"
        )
    asked = [Asked(one, _own_overrides(rest, one)) for one in combinations.runs_of(composition.compose(rest))]
    with display() as progress:
        started = begin(asked, launcher, keep=True, progress=progress)
        return started, carry_here(started, progress)


def _own_overrides(overrides: Sequence[str], config: RunConfig) -> tuple[str, ...]:
    """Return the overrides of one run: those given, with its own volumes."""
    others = [text for text in overrides if text.split("=", 1)[0] != "data.volumes"]
    return (*others, f"data.volumes=[{','.join(map(str, config.data.volumes))}]")


def begin(
    asked: Sequence[Asked],
    launcher: Launcher,
    *,
    keep: bool,
    claim: str = "",
    warm: bool = False,
    progress: Progress = Silent(),  # noqa: B008 - it has no state
) -> Started:
    """Check and identify runs, and write the units that are not done.

    Args:
        asked: the runs.
        launcher: will carry them.
        warm: see ``start``.
        keep: add the runs to those of earlier commands, in place of a new sweep.
        claim: hash of the claim that the experiment declares.
        progress: told of models that are pretrained first.

    Raises:
        HarnessError: one line; nothing was written.
    """
    launcher.check()
    machine = launcher.machine
    try:
        prepared = _prepared(asked, machine, progress)
    except (ModelError, DataError) as error:
        if keep:
            raise
        raise type(error)(f"{error} (`harness plan` lists everything missing, `harness prefetch` fetches it)") from error
    experiment = prepared[0].experiment
    pending = [item for item in prepared if not outstanding.is_done(item)]
    if pending and warm:
        launcher.warm_up()
    for line in dict.fromkeys(line for item in _one_of_each(pending) for line in execution.inspect(item)):
        OUTPUT.message(line)
    missing, to_do = {item.run_id for item in pending}, {name for item in pending for name in _to_do(item)}
    every = units_of(list(zip(asked, prepared, strict=True)))
    needed = {name for unit in every if unit.id in to_do for name in unit.needs}
    units = [unit for unit in every if unit.id in to_do or unit.id in needed]
    sweep = Sweep(
        id=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        experiment=experiment.name,
        command=provenance.command(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        cores=machine.cores,
        gpus=machine.gpus,
        units=tuple(unit for unit in every if unit.kind != "baseline" or unit.id in needed),
    )
    last = experiment.sweep()
    if not units and last is not None and last.units == sweep.units:
        sweep = last  # nothing to do: what the last sweep recorded still holds
    elif not keep:
        experiment.write_sweep(sweep)
    configs = {item.run_id: recorded(item.config) for item in prepared}
    pairs = reversed(list(zip(asked, prepared, strict=True)))  # of two arms with the same run the first names it
    arms = {item.run_id: one.arm for one, item in pairs if one.arm}

    def announce() -> None:
        for item in prepared:
            if item.run_id not in missing and not settling.is_settled(item):
                settling.settle(item, progress)
        experiment.write_manifest(configs, keep=keep, sweep=None if keep else sweep.id, arms=arms, claim=claim)
        _allow_one_more_try(experiment, missing)

    before, named, known = experiment.asked(), experiment.arms(), experiment.manifest()
    same = (before, named) == (({*before, *configs}, {**named, **arms}) if keep else ({*configs}, arms))
    declared = next((declared_by(config) for config in configs.values() if "declared" in config), None)
    same &= known is None or known.declared == declared or (keep and declared in (None, Declared()))
    return Started(
        experiment=experiment,
        sweep=sweep,
        units=units,
        announce=announce,
        already_done=len(configs) - len(missing),
        same=same,
        launcher=launcher,
    )


def _prepared(asked: Sequence[Asked], machine: Machine, progress: Progress) -> list[Prepared]:
    """Prepare the runs of a sweep, which have to fit together. Raises HarnessError."""
    prepared = preparation.prepare_all([one.config for one in asked], progress, machine)
    preparation.check_together(prepared)
    return prepared


def _to_do(item: Prepared) -> set[str]:
    """Return the ids of a run's units that are to do, without baselines."""
    if not item.resolved.separate:
        return {item.run_id}
    left = outstanding.outstanding(item)
    trains = {item.run_id} if left.train or left.before or not outstanding.is_recorded(item) else set()
    return trains | {f"{item.run_id}@{volume}" for volume in (*left.train, *left.measure)}


def _one_of_each(pending: Sequence[Prepared]) -> list[Prepared]:
    """Return one run of each group that differs in numbers alone, to check its data.

    It is the run with the largest volume.
    """
    found: dict[object, Prepared] = {}
    for item in pending:
        key = (repr(item.config.labels), item.config.target_suites, item.config.probe_suites, repr(item.config.evaluation))
        if key not in found or found[key].volumes[-1] < item.volumes[-1]:
            found[key] = item
    return list(found.values())


def _allow_one_more_try(experiment: ExperimentWriter, run_ids: set[str]) -> None:
    for run_id in sorted(run_ids):
        failure = experiment.failure(run_id)
        if failure is not None and failure.tries >= TRIES:
            experiment.write_failure(dataclasses.replace(failure, tries=TRIES - 1))


def carry(started: Started, display: Display, *, wait: bool = True) -> Tally | None:
    """Have a sweep's units carried out.

    Returns:
        How the runs ended; None if they were submitted and are not waited for.
    """
    if not started.units:
        started.announce()
        return Tally(already_done=started.already_done)
    found = started.launcher.carry(started, display, wait=wait)
    if found is not None:
        found.already_done = started.already_done
    return found


def carry_here(started: Started, display: Display) -> Tally:
    """Carry out runs in this process, one after another, each tried once.

    Raises KeyboardInterrupt after everything was saved.
    """
    claims = Claims(started.experiment, lease=local_worker.LEASE, beat=local_worker.BEAT, gpus=started.sweep.gpus)
    worker = Worker(started.experiment, claims, started.launcher.machine, display, tries=1)
    started.announce()
    runs = list(dict.fromkeys(unit.run_id for unit in started.units if unit.kind != "baseline"))
    order = {kind: number for number, kind in enumerate(("run", "measurement"))}
    units = sorted((unit for unit in started.units if unit.kind in order), key=lambda unit: (runs.index(unit.run_id), order[unit.kind]))
    ended, failed = Tally(already_done=started.already_done), set[str]()
    with saved_on_interrupt():
        for number, unit in enumerate(units):
            display.runs(runs.index(unit.run_id), len(runs))
            if unit.run_id in failed:
                continue
            while (found := worker.carry_out(unit))[0] == "busy":
                display.stage("wait for another process, which has this run", 1)
                time.sleep(WATCH_SECONDS)
            outcome, reason = found
            if outcome == "interrupted":
                raise KeyboardInterrupt
            last = all(other.run_id != unit.run_id for other in units[number + 1 :])
            ended.done += outcome == "done" and last
            ended.already_done += outcome == "already done"
            if outcome not in {"done", "already done"}:
                failed.add(unit.run_id)
                ended.failed.append((unit.label, reason))
                display.say(f"failed: {unit.label}: {reason}")
    display.runs(len(runs), len(runs))
    return ended
