"""The smallest losses that a planned sweep would find."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.analysis.table import runs
from harness.config import composition
from harness.config.resolution import Machine
from harness.records.writer import ExperimentWriter
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace
from harness.sweep.plan.power import Power, lines, power
from tests.support.experiments import Task, flipped, share, write_run

MACHINE = Machine(cores=1, gpus=0)


@pytest.fixture(scope="module")
def ready() -> list[Prepared]:
    """Three seeds of a run."""
    workspace = Workspace()
    overrides = ["experiment=smoke", "name=smoke", "model=nursery-smoke-a", "tuning=full"]
    return [prepare(composition.compose([*overrides, f"seed={seed}"]), workspace, MACHINE) for seed in range(3)]


def test_without_results_it_is_a_guess_that_says_so(ready: list[Prepared]) -> None:
    """The sweep's own design is among those compared, and more items or seeds find less."""
    (found,) = power(ready, [])
    assert found.planned is not None
    assert (found.suite, found.planned.seeds, found.is_headline) == ("tinyworld", 3, True)
    assert "guess" in found.basis
    assert found.others[0] == found.planned
    losses = [one.loss or 0.0 for one in found.others]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] > losses[5] > losses[8]
    assert f"{100 * losses[0]:.1f} points" in "\n".join(lines([found]))


def test_one_seed_is_a_loss_of_that_run(ready: list[Prepared]) -> None:
    """It is said."""
    found = power(ready[:1], [])
    assert found[0].planned is not None
    assert found[0].planned.seeds == 1
    assert "not of the method" in "\n".join(lines(found))


def test_finished_runs_take_the_place_of_the_guess(ready: list[Prepared], tmp_path: Path) -> None:
    """20 of 100 items of each task change in each of three seeds, 13, 15 and 17 of them lost."""
    tasks = list(ready[0].workspace.suite_of("tinyworld", ready[0].config).items)
    earlier = ExperimentWriter(tmp_path / "earlier")
    for seed, (lost, gained) in enumerate([(13, 7), (15, 5), (17, 3)]):
        old = [Task(suite="tinyworld", task=name, values=share(50, 100)) for name in tasks]
        new = [Task(suite="tinyworld", task=name, values=flipped(share(50, 100), lost=lost, gained=gained)) for name in tasks]
        write_run(earlier, f"r{seed}", before=old, points={64: new}, roles={"tinyworld": "probe"}, seed=seed)
        runs.summarise(earlier, f"r{seed}")
    (found,) = power(ready, [ExperimentWriter(tmp_path / "empty"), earlier])
    assert found.variation is not None
    assert found.variation.changed == pytest.approx(0.2)
    assert found.variation.freedom == 2
    losses = [one.loss or 0.0 for one in found.others]
    assert losses[0] >= losses[3] >= losses[6]  # with 3 seeds; more items never find larger losses alone
    impossible = dataclasses.replace(found, others=tuple(dataclasses.replace(one, loss=1.01) for one in found.others))
    assert "none" in lines([impossible])[-2]
    assert f"1 cell of 3 seeds in earlier: 20% of {100 * len(tasks)} items changed" in found.basis


def test_one_cell_of_more_seeds_does_not_outvote_the_others(ready: list[Prepared], tmp_path: Path) -> None:
    """Cells of three seeds and more all count; those of fewer do not."""
    tasks = list(ready[0].workspace.suite_of("tinyworld", ready[0].config).items)
    earlier = ExperimentWriter(tmp_path / "earlier")
    for cell, seeds in enumerate([1, 3, 3, 4]):
        for seed in range(seeds):
            old = [Task(suite="tinyworld", task=name, values=share(50, 100)) for name in tasks]
            new = [
                Task(suite="tinyworld", task=name, values=flipped(share(50, 100), lost=4 + 10 * cell + seed, gained=0)) for name in tasks
            ]
            run_id, identity = f"r{cell}{seed}", {"of": cell}
            write_run(earlier, run_id, before=old, points={64: new}, roles={"tinyworld": "probe"}, seed=seed, identity=identity)
            runs.summarise(earlier, run_id)
    (found,) = power(ready, [earlier])
    assert found.variation is not None
    assert "3 cells of 3 to 4 seeds in earlier" in found.basis
    assert found.variation.changed == pytest.approx(0.25)


def test_a_metric_that_is_not_a_share_is_unknown_until_it_was_measured() -> None:
    """No number is made up for nats."""
    text = "\n".join(lines([Power(suite="text", is_headline=False, metric="nats_per_token", planned=None, basis="unknown: …")]))
    assert "text  ?" in text
