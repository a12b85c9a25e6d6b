from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.speed.sweep_measure import CommandFailed, Cost, Parts, Point, clever_loop, measure, plain_loop, sample, scaled
from benchmarks.speed.sweep_scores import Agreement, Task, compare, recorded, written
from harness.records.schema import Score

POINTS = [
    Point(model, tuning, volume, seed, f"{model}-{tuning}-{seed}")
    for model in ("a", "b")
    for tuning in ("full", "lora")
    for volume in (64, 256, 1024)
    for seed in (0, 1, 2)
]
MEGA = 1_000_000


def test_a_sample_has_every_model_and_tuning_and_rotates_volumes_and_seeds() -> None:
    """Four of 36 points are the four arms.

    Eight points have each arm twice, with another volume and seed. Every volume is there.
    """
    four, eight = sample(POINTS, 4), sample(POINTS, 8)
    arms = {(point.model, point.tuning) for point in POINTS}
    assert {(point.model, point.tuning) for point in four} == arms
    assert {point.volume for point in four} == {64, 256, 1024}
    for arm in arms:
        first, second = [point for point in eight if (point.model, point.tuning) == arm]
        assert first.volume != second.volume
        assert first.seed != second.seed


def test_a_sample_never_repeats_a_point_and_can_be_all() -> None:
    """Samples of any size have different points; None gives all 36."""
    assert all(len(set(sample(POINTS, number))) == number for number in range(4, 37))
    assert sorted(sample(POINTS, None)) == sorted(POINTS)


@pytest.mark.parametrize("number", [3, 37])
def test_too_few_or_too_many_points_are_rejected(number: int) -> None:
    """With fewer points than arms, an arm could not be scaled."""
    with pytest.raises(ValueError, match="4 .*to 36"):
        sample(POINTS, number)


def test_scaling_takes_the_mean_of_each_arm_times_its_points() -> None:
    """9 points of 10 s and 9 of 30 s take 360 s.

    The peak is the largest measured.
    """
    full = [point for point in POINTS if (point.model, point.tuning) == ("a", "full")]
    lora = [point for point in POINTS if (point.model, point.tuning) == ("a", "lora")]
    costs = {full[0]: Cost(10, 5, 3 * MEGA), lora[0]: Cost(20, 10, 7 * MEGA), lora[4]: Cost(40, 20, MEGA)}
    assert scaled(costs, [*full, *lora]) == Cost(360.0, 180.0, 7 * MEGA)


def test_scaling_all_points_is_their_sum() -> None:
    """If all points are measured, nothing is estimated."""
    costs = {point: Cost(number, 2 * number, number) for number, point in enumerate(POINTS)}
    total = scaled(costs, POINTS)
    assert total.wall_seconds == pytest.approx(sum(range(36)))
    assert total.processor_seconds == pytest.approx(2 * sum(range(36)))


def test_the_clever_loop_evaluates_each_model_before_once() -> None:
    """36 points of 3 + 5 + 4 s take 432 s.

    With `before` once for each of two models, they take 36 x 9 + 2 x 3 = 330 s.
    """
    parts = {point: Parts(Cost(3, 3, 1), Cost(5, 5, 2), Cost(4, 4, 1)) for point in sample(POINTS, 4)}
    assert plain_loop(parts, POINTS) == Cost(432.0, 432.0, 2)
    assert clever_loop(parts, POINTS) == Cost(330.0, 330.0, 2)


def test_the_cost_of_a_command_counts_its_children(tmp_path: Path) -> None:
    """A command that waits for a busy child has the child's processor time and memory."""
    child = "import time\nheld = bytearray(100_000_000)\nwhile time.process_time() < 0.8: pass"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = measure([sys.executable, "-c", parent], {}, tmp_path / "log")
    assert cost.processor_seconds >= 0.8
    assert cost.wall_seconds >= 0.8
    assert cost.peak_bytes >= 100 * MEGA


def test_a_command_that_fails_says_how(tmp_path: Path) -> None:
    """The message contains its exit code and the end of its output."""
    with pytest.raises(CommandFailed, match="exit code 3(.|\n)*no such model"):
        measure([sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"], {}, tmp_path / "log")


def task(value: float = 0.5, **items: tuple[float, ...]) -> Task:
    return Task("acc", value, items or {"x": (-1.0, -2.0), "y": (-3.0, -1.5)})


def test_equal_scores_agree() -> None:
    """Rounding of float32 is not a problem, and the largest difference is reported."""
    theirs = task(0.5, x=(-1.0001, -2.0), y=(-3.0, -1.5))
    found = compare("here", {"t": task()}, {"t": theirs})
    assert (found.scores, found.items, found.largest_metric, found.problems) == (1, 2, 0.0, ())
    assert found.largest_nats == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("theirs", "problem"),
    [
        ({"t": task(0.505)}, "acc 0.5 here, 0.505 there"),
        ({"t": task(math.nan)}, "acc 0.5 here, nan there"),
        ({"t": task(0.5, x=(-1.002, -2.0), y=(-3.0, -1.5))}, "a log-likelihood differs by 0.002 nats"),
        ({"t": task(0.5, x=(-1.0, -2.0), z=(-3.0, -1.5))}, "other items"),
        ({"t": task(0.5, x=(-1.0,), y=(-3.0, -1.5))}, "other choices"),
        ({}, "only one side has it"),
    ],
)
def test_differences_beyond_the_numeric_spread_are_problems(theirs: dict[str, Task], problem: str) -> None:
    """Different metrics and log-likelihoods, and items without a counterpart, are named."""
    (line,) = compare("model a, full", {"t": task()}, theirs).problems
    assert line.startswith("model a, full, t: ")
    assert problem in line


def test_agreements_add_up() -> None:
    """Counts and problems are added, and the largest differences are kept."""
    total = Agreement(1, 2, 0.0, 1e-5, ("a",)) + Agreement(3, 4, 0.1, 1e-6, ("b",))
    assert total == Agreement(4, 6, 0.1, 1e-5, ("a", "b"))


def score(**changes: Any) -> Score:
    values: dict[str, Any] = {"suite": "s", "task": "t", "metric": "acc", "filter": "none", "primary": True, "n": 2, "value": 0.5}
    return Score(**{**values, "stderr": None, "chance": None, "higher_is_better": True, **changes})


def test_recorded_scores_equal_those_of_lm_eval(tmp_path: Path) -> None:
    """The same items recorded by the harness and written by lm_eval are equal.

    Other metrics are left out.
    """
    columns = {"task": ["t", "t", "u"], "filter": ["none"] * 3, "doc_hash": ["h1", "h2", "h1"]}
    samples = pd.DataFrame({**columns, "log_likelihoods": [[-1.0, -2.0], [-3.0, -1.5], [-9.0, -9.0]]})
    ours = recorded((score(), score(metric="acc_norm", primary=False)), samples)
    folder = tmp_path / "some__model"
    folder.mkdir()
    (folder / "results_2026-01-02.json").write_text(json.dumps({"results": {"t": {"acc,none": 0.5, "acc_norm,none": 0.25}}}))
    lines = [
        {"doc_hash": "h1", "filter": "none", "resps": [[["-1.0", "False"]], [["-2.0", "False"]]]},
        {"doc_hash": "h2", "filter": "none", "resps": [[["-3.0", "False"]], [["-1.5", "True"]]]},
    ]
    (folder / "samples_t_2026-01-02.jsonl").write_text("\n".join(map(json.dumps, lines)))
    theirs = written(tmp_path, {"t": ("acc", "none")})
    assert ours == theirs == {"t": Task("acc", 0.5, {"h1": (-1.0, -2.0), "h2": (-3.0, -1.5)})}
