"""Sweeps on a real Slurm of two nodes, with lost nodes and signals: `make test-cluster`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.cluster_sweeps import RUNS, SLURM, SWEEP, Cluster, Sweep, until
from tests.support.storm import contents


def test_a_sweep_runs_on_both_nodes(sweep: Sweep, undisturbed: dict[str, object]) -> None:
    """One command submits two workers and returns.

    Each node carries out some of the runs, with the scores of this machine alone.
    """
    jobs = sweep.submit()
    assert len(jobs) == 2
    assert sweep.submit() == jobs  # the workers that are there will do it all
    sweep.finish()
    assert {claim.node for claim in sweep.claims()} == {"node1", "node2"}
    assert sweep.executions() == [1] * RUNS
    assert contents(sweep.results) == undisturbed
    assert [sweep.cluster.restarts(job) for job in jobs] == [0, 0]


def test_a_dead_node_costs_nothing_but_time(sweep: Sweep, undisturbed: dict[str, object]) -> None:
    """A node loses power during a run; another one resumes from the saved state."""
    sweep.submit()
    lost = until(120, "training on node2", lambda: sweep.training_on("node2"))
    sweep.cluster.script("kill-node", "node2")
    sweep.finish()
    first, *others = [claim for claim in sweep.claims() if claim.unit == lost.unit and claim.generation >= lost.generation]
    assert first.ended == ""
    assert [claim.node for claim in others] == ["node1"]
    assert sweep.executions() == [1] * RUNS
    assert contents(sweep.results) == undisturbed


def test_a_job_that_is_told_to_stop_goes_on_from_its_last_step(sweep: Sweep, undisturbed: dict[str, object]) -> None:
    """Near the time limit a worker saves and queues again; the next claim resumes."""
    sweep.submit()
    told = until(120, "training on node1", lambda: sweep.training_on("node1"))
    job = sweep.cluster.job_on("node1")
    sweep.cluster.ask("scancel", "--signal=USR2", job)
    sweep.finish()
    stopped, resumed = [claim for claim in sweep.claims() if claim.unit == told.unit and claim.generation >= told.generation][:2]
    assert stopped.ended == "interrupted"
    assert f"states [{stopped.finished}]" in resumed.found  # the very step at which it stopped
    assert sweep.cluster.restarts(job) == 1
    assert sweep.executions() == [1] * RUNS
    assert contents(sweep.results) == undisturbed


def test_a_preempted_job_queues_again(sweep: Sweep, undisturbed: dict[str, object]) -> None:
    """A job of higher priority displaces a worker, which saves, ends in time and returns."""
    sweep.submit()
    told = until(120, "training on node2", lambda: sweep.training_on("node2"))
    job = sweep.cluster.job_on("node2")
    sweep.cluster.ask("sbatch", "--partition=urgent", "--nodelist=node2", "--output=/dev/null", "--wrap=sleep 1")
    until(60, "the place of the worker", lambda: sweep.cluster.job_on("node2") != job)
    sweep.finish()
    assert next(claim for claim in sweep.claims() if (claim.unit, claim.generation) == (told.unit, told.generation)).ended == "interrupted"
    assert sweep.cluster.restarts(job) == 1
    assert sweep.executions() == [1] * RUNS
    assert contents(sweep.results) == undisturbed


def test_a_cancelled_sweep_stays_cancelled_until_the_same_command(sweep: Sweep, undisturbed: dict[str, object]) -> None:
    """After `scancel` no worker comes back by itself.

    The same command does the rest, and changes no earlier result.
    """
    sweep.submit()
    until(120, "a run that is done", lambda: any(claim.ended == "done" for claim in sweep.claims()))
    until(120, "training on node1", lambda: sweep.training_on("node1"))
    sweep.cluster.ask("scancel", "--user=root")
    until(60, "an empty queue", lambda: not sweep.cluster.ask("squeue", "--noheader"))
    before = sweep.files()
    assert before
    assert not {claim.ended for claim in sweep.claims()} - {"done", "interrupted"}
    sweep.finish()
    assert before.items() <= sweep.files().items()
    assert sweep.executions() == [1] * RUNS
    assert contents(sweep.results) == undisturbed


def test_options_that_slurm_refuses_are_said_in_one_line(sweep: Sweep) -> None:
    """For a partition that does not exist the command shows sbatch's message."""
    done = sweep.harness(*SLURM, "launcher.partition=nowhere")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("harness: sbatch: got ")
    assert "invalid partition" in done.stderr


def test_no_slurm_is_said_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    """Without sbatch the command says so, and how else to run."""
    command = [sys.executable, "-m", "harness", "sweep", *SWEEP, f"results={tmp_path}", *SLURM]
    done = subprocess.run(command, env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no sbatch on this machine" in done.stderr
    assert "launcher=local" in done.stderr
