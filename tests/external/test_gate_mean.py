"""The gate over several suites: one mean, limits of single suites, Holm, and items that decide."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.analysis.statistics import stats
from harness.analysis.table.measure import TaskChange
from harness.external import gate, mean
from harness.external.gate import Gate
from harness.external.gate_lines import sentences
from harness.external.judge import Aggregate
from harness.external.limits import Limits
from tests.support.lm_eval_logs import Run, choice, config, lowered, outcomes, sides

Outcomes = tuple[int, int, int]
"""Lost, gained and all items of a task."""

KEPT: Outcomes = (0, 0, 2000)


def suite(name: str, tasks: Mapping[str, Outcomes], *, better: bool = True, unit: str = "share", cluster: int = 0) -> Aggregate:
    """Return a suite of 0/1 items; with ``cluster``, of so many items that change together."""
    changes = {}
    for task, (lost, gained, n) in tasks.items():
        values = np.array([-1.0] * lost + [1.0] * gained + [0.0] * (n - lost - gained))
        changes[task] = TaskChange("planted", values, np.arange(n) // cluster if cluster else None)
    return Aggregate(name=name, unit=unit, higher_is_better=better, changes=changes, is_binary=True)


def graded(name: str, change: float, *, unit: str = "nats", better: bool = False) -> Aggregate:
    """Return a suite of 50 items, whose changes are within 0.01 of ``change``."""
    values = change + 0.01 * np.linspace(-1, 1, 50)
    return Aggregate(name=name, unit=unit, higher_is_better=better, changes={name: TaskChange("g", values, None)}, is_binary=False)


def places(found: Gate) -> dict[str, str]:
    """Return suite → its place."""
    return {one.name: one.place for one in found.suites}


def test_one_suite_is_gated_as_alone() -> None:
    """Mean, suite and Tango's interval are one; no other test is named."""
    lost = suite("a", {"a": (45, 20, 500)})
    found = gate.decide([lost], Limits(overall=0.02))
    assert found.mean is not None
    assert (found.mean.low, found.mean.high) == stats.difference_interval([45], [20], [500], 0.9)
    assert (found.suites[0].low, found.suites[0].high) == (found.mean.low, found.mean.high)
    lines = sentences(found)
    assert len(lines) == 2
    assert lines[1] == "gate at --max-loss 0.02 (two one-sided 5% tests): fail, exit code 1"


def test_the_mean_has_equal_weights_over_suites() -> None:
    """(−0.1 + 0.05) / 2, where the second suite is the mean of 0.1 and 0."""
    found = gate.decide([suite("a", {"a": (20, 10, 100)}), suite("b", {"b1": (0, 10, 100), "b2": (3, 3, 300)})], Limits(overall=0.2))
    assert found.mean is not None
    assert found.mean.change == pytest.approx((-0.1 + 0.05) / 2)
    expected = stats.difference_interval([20, 0, 3], [10, 10, 3], [100, 100, 300], 0.9, weights=[1 / 2, 1 / 4, 1 / 4])
    assert (found.mean.low, found.mean.high) == pytest.approx(expected)
    assert found.as_dict()["mean"]["weights"] == {"a": 0.5, "b": 0.5}


def test_independent_parts_are_joined_by_their_distances() -> None:
    """0/1 items, clusters and graded items: the squared distances to an end add, by hand."""
    parts = [suite("a", {"a": (20, 10, 100)}), suite("c", {"c": (20, 4, 200)}, cluster=4), graded("g", 0.05, better=True, unit="share")]
    alone = [mean.of_suite(one, 0.9) for one in parts]
    found = mean.of_suites(parts, 0.9)
    assert found.value == pytest.approx(sum(one.value for one in alone) / 3)
    assert found.low == pytest.approx(found.value - math.sqrt(sum((one.value - one.low) ** 2 for one in alone)) / 3)
    assert found.high == pytest.approx(found.value + math.sqrt(sum((one.high - one.value) ** 2 for one in alone)) / 3)


def test_a_metric_that_should_be_low_enters_the_mean_turned() -> None:
    """Ten more errors of 100, and ten fewer right answers: −0.1, as two suites that lose."""
    rise, fall = suite("errors", {"e": (10, 20, 100)}, better=False), suite("acc", {"a": (20, 10, 100)})
    found = mean.of_suites([rise, fall], 0.9)
    assert found == pytest.approx(mean.of_suites([suite("other", {"o": (20, 10, 100)}), fall], 0.9))
    assert found.value == pytest.approx(-0.1)
    clustered = suite("errors", {"e": (10, 20, 100)}, better=False, cluster=2)
    assert mean.of_suites([clustered, fall], 0.9).value == pytest.approx(-0.1)


def test_a_task_counts_once_in_the_largest_of_its_suites() -> None:
    """Mmlu with two subgroups; a suite that shares one task has the mean of its other."""
    tasks = {"physics": (0, 0, 100), "law": (30, 0, 100), "art": (0, 0, 100)}
    whole, law = suite("mmlu", tasks), suite("mmlu_law", {"law": tasks["law"]})
    other = suite("own", {"law": tasks["law"], "poems": (10, 0, 100)})
    found = gate.decide([law, whole, other], Limits(overall=0.1))
    assert places(found) == {"mmlu_law": "in another", "mmlu": "in the mean", "own": "in the mean"}
    assert found.mean is not None
    assert found.mean.change == pytest.approx((-0.1 - 0.1) / 2)
    assert found.mean.items == 400
    lines = "\n".join(sentences(found))
    assert "gate mmlu_law (not in the mean: its tasks count in mmlu)" in lines
    assert "gate own (in the mean, without tasks that count in mmlu)" in lines


def test_one_small_suite_below_the_limit_fails_only_under_holm() -> None:
    """By hand: 12 of 60 lost, 2 gained has p = 0.012 at −0.02: below 5%, not below 5%/20."""
    odd, same = suite("odd", {"odd": (12, 2, 60)}), [suite(f"s{i}", {f"s{i}": (5, 5, 600)}) for i in range(19)]
    assert gate.decide([odd], Limits(overall=0.02)).code == 1
    found = gate.decide([odd, *same], Limits(overall=0.02))
    assert (found.code, found.tests, found.suites[0].is_below, found.suites[0].decision) == (0, 20, True, "undecided")
    assert "below the limit, but not under Holm: one of 20 suites may be so by chance" in sentences(found)[1]
    worse = suite("odd", {"odd": (20, 2, 60)})
    assert gate.decide([worse, *same], Limits(overall=0.02)).code == 1


def test_the_suites_that_fail_are_those_of_holms_adjusted_p_values() -> None:
    """P of the score test at −0.02 from the interval's level, adjusted step by step."""
    counts = [(14, 2, 60), (17, 2, 60), (13, 2, 60), (6, 5, 60), (9, 3, 60), (12, 2, 60)]
    found = gate.decide([suite(f"s{i}", {f"s{i}": one}) for i, one in enumerate(counts)], Limits(overall=0.02))
    levels = np.linspace(0.9, 0.9999, 2000)
    p_values = [
        next(((1 - x) / 2 for x in levels if stats.difference_interval([a], [b], [n], float(x)).high >= -0.02), 0.0) for a, b, n in counts
    ]
    order = np.argsort(p_values)
    rejected: set[int] = set()
    for step, index in enumerate(order):
        if p_values[index] >= 0.05 / (len(counts) - step):
            break
        rejected.add(int(index))
    assert 0 < len(rejected) < 5
    assert {number for number, one in enumerate(found.suites) if one.decision == "lost more"} == rejected


def test_a_suite_of_another_unit_has_a_limit_of_its_own() -> None:
    """A rise by 0.05 nats: lost at 0.02, kept at 0.1, undecided without a limit."""
    suites = [suite("a", {"a": KEPT}), suite("b", {"b": KEPT}), graded("text", 0.05)]
    for own, code in (({"text": 0.1}, 0), ({"text": 0.02}, 1), ({}, 3)):
        found = gate.decide(suites, Limits(overall=0.02, own=own))
        assert (found.code, [one.name for one in found.averaged]) == (code, ["a", "b"])
    assert "undecided: no limit is given; add --max-loss text=X" in sentences(found)[3]
    assert "(not in the mean: its unit is nats)" in sentences(found)[3]
    assert "no decision on text: undecided" in sentences(found)[-1]


def test_suites_of_one_other_unit_have_a_mean_of_their_own() -> None:
    """Without shares, the limit is for the mean of the only unit; without one unit, for none."""
    found = gate.decide([graded("t", 0.05), graded("u", 0.03)], Limits(overall=0.1))
    assert (found.code, places(found)) == (0, {"t": "in the mean", "u": "in the mean"})
    assert "mean of 2 suites in nats" in sentences(found)[0]
    found = gate.decide([graded("t", 0.05), graded("u", 0.03, unit="bits")], Limits(overall=0.1))
    assert (found.code, found.mean) == (3, None)


def test_a_limit_takes_a_suite_and_its_parts_out_of_the_mean() -> None:
    """Mmlu may lose 0.2: neither it nor its part is in the mean, and the part may lose as much."""
    suites = [suite("mmlu", {"law": (30, 0, 200), "art": (0, 0, 200)}), suite("law", {"law": (30, 0, 200)}), suite("a", {"a": KEPT})]
    found = gate.decide(suites, Limits(overall=0.02, own={"mmlu": 0.2}))
    assert places(found) == {"mmlu": "own limit", "law": "in another", "a": "in the mean"}
    assert (found.code, [one.limit for one in found.suites]) == (0, [0.2, 0.2, 0.02])


def test_a_suite_alone_in_the_mean_is_tested_at_5_percent() -> None:
    """Below the limit at 5%, not at 5%/2: it fails as the mean, next to a suite in nats."""
    found = gate.decide([suite("odd", {"odd": (12, 2, 60)}), graded("text", 0.05)], Limits(overall=0.03, own={"text": 0.1}))
    assert (found.code, found.tests, places(found)) == (1, 2, {"odd": "in the mean", "text": "own limit"})
    lines = sentences(found)
    assert lines[0].startswith("gate odd (alone in the mean): ")
    assert lines[0].endswith(": more is lost than allowed")
    assert lines[-1].endswith("more is lost in odd: fail, exit code 1")


def test_a_suite_that_is_not_named_need_not_pass_but_can_fail() -> None:
    small, kept = suite("small", {"s": (2, 2, 20)}), suite("kept", {"k": KEPT})
    assert gate.decide([small, kept], Limits(overall=0.02)).code == 3
    found = gate.decide([small, kept], Limits(overall=0.02, mean=("kept",)))
    assert (found.code, places(found)) == (0, {"small": "not named", "kept": "in the mean"})
    lost = suite("small", {"s": (18, 0, 20)})
    assert gate.decide([lost, kept], Limits(overall=0.02, mean=("kept",))).code == 1


def test_an_equal_or_undetermined_suite_leaves_the_mean_undecided() -> None:
    """Log-likelihoods of one model, and graded items without any change."""
    kept, other = suite("kept", {"k": KEPT}), suite("other", {"o": KEPT})
    same = dataclasses.replace(other, equal="log-likelihoods")
    flat = dataclasses.replace(graded("flat", 0.0, unit="share", better=True), changes={"flat": TaskChange("f", np.zeros(9), None)})
    for unknown in (same, flat):
        found = gate.decide([kept, unknown], Limits(overall=0.02))
        assert found.code == 3
        assert f"undecided because of {unknown.name}" in sentences(found)[0]
    assert gate.decide([suite("lost", {"l": (90, 0, 100)}), same], Limits(overall=0.02)).code == 1


def test_missing_tasks_leave_a_mean_that_passes_undecided() -> None:
    kept = [suite(name, {name: KEPT}) for name in ("a", "b")]
    assert gate.decide(kept, Limits(overall=0.02)).code == 0
    assert gate.decide(kept, Limits(overall=0.02), missing=["c"]).code == 3


def test_the_items_that_decide_are_those_of_a_power_of_80_percent() -> None:
    """By hand: SE 0.02 at 1,000 items, 0.01 from the limit: (2.486 · 2)² times as many."""
    z, power = scipy_stats.norm.ppf(0.95), scipy_stats.norm.ppf(0.8)
    reach = z * 0.02
    for change in (-0.01, -0.03):
        items = gate.items_to_decide(mean.Change(change, change - reach, change + reach), 0.02, 1000)
        assert items is not None
        assert items == math.ceil(1000 * ((z + power) * 0.02 / 0.01) ** 2)
        error = 0.02 * math.sqrt(1000 / items)
        assert scipy_stats.norm.cdf(0.01 / error - z) == pytest.approx(0.8, abs=1e-4)
    assert gate.items_to_decide(mean.Change(-0.0199, -0.0199 - reach, -0.0199 + reach), 0.02, 1000) is None
    assert gate.items_to_decide(mean.Change(-0.02, -0.05, 0.01), 0.02, 1000) is None


def test_the_number_of_further_items_is_printed() -> None:
    """In all and further, or that none would decide, be the loss at the limit or the items few."""
    found = gate.decide([suite(name, {name: (6, 6, 100)}) for name in "ab"], Limits(overall=0.02))
    assert found.mean is not None
    enough = found.mean.items_to_decide
    assert enough is not None
    assert f"with {enough - 200:,} further items ({enough:,} in all, {enough / 200:.1f} times as many in each suite)" in sentences(found)[0]
    assert "this test would pass with 80% probability" in sentences(found)[0]
    assert f"no decision on the mean; {enough - 200:,} further items would decide the mean with 80% probability" in sentences(found)[-1]
    found = gate.decide([suite(name, {name: (8, 6, 100)}) for name in "ab"], Limits(overall=0.02))
    assert "even 100 times the items would not decide it with 80% probability" in sentences(found)[0]


def test_limits_of_logs_end_to_end(tmp_path: Path, run: Run) -> None:
    """Two shares and one metric in bits: the text, the page and the JSON name the same parts."""
    kept = outcomes(150, 0, 0, 0)
    listed = [{"metric": "bits", "aggregation": "mean", "higher_is_better": False}]
    bits = [choice(i, right=True, metric="bits") | {"bits": 1.5 + 0.01 * (i % 7)} for i in range(30)]
    more = [lowered(one) | {"bits": one["bits"] + 0.04 + 0.001 * (i % 5)} for i, one in enumerate(bits)]
    tasks = {"a": kept, "b": kept, "text": (bits, more)}
    configs = {"text": config(metric_list=listed)}
    sides(tmp_path, {name: one for name, (one, _) in tasks.items()}, {name: two for name, (_, two) in tasks.items()}, configs=configs)
    assert run("--max-loss", "0.02")[0] == 3
    assert run("--max-loss", "0.02", "--max-loss", "text=0.01")[0] == 1
    code, out, _ = run("--max-loss", "0.02", "--max-loss", "text=0.1", "--mean", "a", "--output", str(tmp_path / "page"))
    assert code == 0
    assert "gate text (not in the mean: limit 0.1 in bits)" in out
    assert "gate b (not in the mean: not named by --mean)" in out
    assert "limit 0.1 in bits" in (tmp_path / "page" / "index.html").read_text()
    values = json.loads(run("--max-loss", "0.02", "--max-loss", "text=0.1", "--json")[1])["gate"]
    assert (values["max_loss"], values["max_loss_of_suites"]) == (0.02, {"text": 0.1})
    assert values["mean"]["weights"] == {"a": 0.5, "b": 0.5}
    assert [(one["name"], one["unit"], one["place"]) for one in values["suites"]][2] == ("text", "bits", "own limit")


def test_a_gate_without_a_mean_says_so_and_names_only_what_is_open() -> None:
    """A part of a suite with a limit of its own need not pass, so it is no reason."""
    tasks = {"physics": (10, 7, 100), "law": (0, 0, 2000), "art": (0, 0, 2000)}
    both = [suite("all", tasks), suite("stem", {"physics": tasks["physics"]})]
    found = gate.decide(both, Limits(overall=0.001, own={"all": 0.05}))
    assert (found.code, found.suites[1].place, found.suites[1].decision) == (0, "in another", "undecided")
    lines = sentences(found)
    assert lines[0].startswith("gate all (limit 0.05): ")
    assert lines[-1].endswith("; no suite is left for a mean, so 0.001 limits nothing): pass, exit code 0")


def test_the_parts_of_a_suite_with_a_limit_need_none_of_their_own() -> None:
    """Mmlu alone has a limit: its subgroups do not leave the gate undecided."""
    tasks = {"physics": (1, 1, 2000), "law": (1, 1, 2000)}
    both = [suite("mmlu", tasks), suite("mmlu_stem", {"physics": tasks["physics"]})]
    found = gate.decide(both, Limits(own={"mmlu": 0.02}))
    assert (found.code, places(found)["mmlu_stem"]) == (0, "in another")
    assert sentences(found)[1].startswith("gate mmlu_stem (its tasks count in mmlu): ")


def test_a_limit_of_zero_has_no_sign() -> None:
    assert "contains the limit of 0;" in sentences(gate.decide([suite("a", {"a": (6, 4, 100)})], Limits(overall=0.0)))[0]


@pytest.mark.parametrize(("n", "code"), [(4, 3), (5, 3), (6, 1)])
def test_a_loss_fails_only_where_its_verdict_could_be_lost(n: int, code: int) -> None:
    """The two-sided sign test of n items that all lose has p = 2/2^n: 0.125, 0.063 and 0.031."""
    assert (2 / 2**n < 0.05) == (code == 1)
    values = np.linspace(1.0, 1.0 + 0.1 * (n - 1), n)
    worse = Aggregate(name="text", unit="nats", higher_is_better=False, changes={"text": TaskChange("g", values, None)}, is_binary=False)
    found = gate.decide([worse], Limits(own={"text": 0.02}))
    line, last = sentences(found)
    assert found.code == code
    assert line.startswith(f"gate text (limit 0.02 in nats): loss {values.mean():+.4f} (positive is worse), 90% interval [+")
    few = f"undecided: {n} items are too few for any decision; at least 6 are needed"
    assert line.endswith(few if code == 3 else ": more is lost than allowed")
    assert ("fewer than 6 independent items" in last) == (code == 3)


@pytest.mark.parametrize(("clusters", "code"), [(5, 3), (6, 0)])
def test_clusters_count_as_items_of_a_gate(clusters: int, code: int) -> None:
    """120 items of 5 passages decide nothing, not even that nothing is lost."""
    found = gate.decide([suite("a", {"a": (0, 0, 120)}, cluster=120 // clusters)], Limits(overall=0.6))
    assert (found.code, found.suites[0].independent) == (code, clusters)
    assert ("5 independent clusters of items are too few" in sentences(found)[0]) == (code == 3)


def test_a_mean_of_few_items_counts_all_suites_and_each_graded_one() -> None:
    """Ten suites of 4 right or wrong items have 40; a graded one of 4 leaves the mean undecided."""
    lost = [suite(name, {name: (4, 0, 4)}) for name in "abcdefghij"]
    found = gate.decide(lost, Limits(overall=0.02))
    assert found.mean is not None
    assert (found.code, found.mean.independent) == (1, 40)
    few = Aggregate(name="few", unit="share", higher_is_better=True, changes={"few": TaskChange("g", -np.ones(4), None)}, is_binary=False)
    found = gate.decide([*lost, few], Limits(overall=0.02))
    assert found.mean is not None
    assert (found.code, found.mean.independent) == (3, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-loss", "0.02", "--mean", "al"], "--mean: got 'al'; allowed: all, part, other; fix: did you mean 'all'?"),
        (["--max-loss", "parts=1"], "harness: --max-loss: got 'parts'; allowed: all, part, other; fix: did you mean 'part'?"),
        (["--max-loss", "0.02", "--mean", "all,part"], "harness: --mean: got 'part'; allowed: suites that do not contain each other"),
        (["--max-loss", "0.02", "--mean", "all,other"], "--mean: got all (share), other (bits); allowed: suites of one unit"),
        (["--max-loss", "0.02", "--max-loss", "all=1", "--mean", "all"], "--mean: got 'all'; allowed: suites without limits of their own"),
        (["--mean", "all"], "harness: --mean: got 'all'; allowed: together with a limit of the mean; fix: add --max-loss 0.02"),
        (["--max-loss", "0.02", "--mean", ","], "--mean: got ','"),
        (["--max-loss", "0.02", "--max-loss", "0.03"], "harness: --max-loss: got 0.03; allowed: one limit for the mean; fix: omit"),
        (["--max-loss", "=0.02"], "--max-loss: got =0.02; allowed: X or SUITE=X"),
        (["--max-loss", "part=few"], "--max-loss: got part=few"),
        (["--max-loss", "part:0.3"], "fix: write part=0.3"),
        (["--max-loss", "2"], "--max-loss: got 2 for shares; allowed: less than 1: 0.02 is 2 points; fix: --max-loss 0.02"),
        (["--max-loss", "0.02", "--max-loss", "part=5"], "--max-loss: got 5 for shares; allowed: less than 1"),
        (["--max-loss", "inf"], "--max-loss: got inf"),
    ],
)
def test_limits_that_mean_nothing_exit_with_2(tmp_path: Path, run: Run, options: list[str], words: str) -> None:
    items = [choice(i, right=True) for i in range(4)]
    bits = [choice(i, right=True, metric="bits") | {"bits": 1.0 + i} for i in range(4)]
    tasks = {"a": items, "b": items, "other": bits}
    sides(tmp_path, tasks, tasks, groups={"all": ["a", "b"], "part": ["b"]})
    code, out, err = run(*options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
