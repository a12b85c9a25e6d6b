from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.analysis.statistics import stats
from harness.analysis.table import forgetting
from harness.analysis.table.forgetting import Items, Samples
from harness.core.errors import RecordError
from tests.support.experiments import Task, samples


def items(values: list[float], **changes: Any) -> Items:
    task = Task(**({"suite": "s", "task": "t", "values": values} | changes))
    return Samples(samples([task])).items("s", "t", "none", task.metric)


def change(before: Items, after: Items) -> forgetting.Change:
    return forgetting.change([forgetting.pair(before, after)])


def test_a_change_counts_what_was_lost_and_gained() -> None:
    """With 2 of 5 items lost and 1 gained, Δ is −0.2."""
    found = change(items([1, 1, 1, 0, 0]), items([0, 0, 1, 1, 0]))
    assert (found.n, found.lost, found.gained, found.p_value) == (5, 2, 1, 1.0)
    assert (found.before, found.after, found.delta) == pytest.approx((0.6, 0.4, -0.2))
    assert found.interval == stats.difference_interval([2], [1], [5])


def test_items_are_joined_by_hash_and_not_by_order() -> None:
    """Rows in another order give the same change."""
    task = Task(suite="s", task="t", values=[1, 0, 0, 1])
    shuffled = Samples(samples([task]).sample(frac=1.0, random_state=7))
    found = change(items([1, 1, 0, 0]), shuffled.items("s", "t", "none", "acc"))
    assert (found.lost, found.gained) == (1, 1)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"prompt": "other"}, "another prompt or target for 4 of 4 items"),
        ({"values": [1, 1, 0]}, "4 before and 3 after, 3 of them the same"),
        ({"first": 1}, "4 before and 4 after, 3 of them the same"),
        ({"weights": [1, 2, 1, 1]}, "another weight for 1 of 4 items"),
        ({"values": [1, 1, 0, float("nan")]}, "4 before and 3 after, 3 of them the same"),
    ],
)
def test_a_join_of_different_items_is_rejected(after: dict[str, Any], words: str) -> None:
    """Other prompts, items or weights and missing values are never dropped silently."""
    before = items([1, 1, 0, 0], weights=[1, 1, 1, 1])
    with pytest.raises(RecordError, match=words):
        forgetting.pair(before, items(**({"values": [1, 1, 0, 0], "weights": [1, 1, 1, 1]} | after)))


def test_a_repeated_item_is_rejected() -> None:
    """A join by hash needs each item once."""
    twice = samples([Task(suite="s", task="t", values=[1, 0])])
    twice["doc_hash"] = "d0"
    with pytest.raises(RecordError, match="1 repeated doc hashes"):
        Samples(twice).items("s", "t", "none", "acc")


def test_a_task_without_items_is_rejected() -> None:
    """The message names the task, filter and metric."""
    with pytest.raises(RecordError, match="s, u, acc"):
        Samples(samples([Task(suite="s", task="t", values=[1, 0])])).items("s", "u", "none", "acc")


def test_a_ratio_metric_has_no_counts() -> None:
    """Nats that fall by 1 with a weight of 1/4 give Δ = −1/4.

    The p-value is that of a permutation of the one changed item.
    """
    shared = {"metric": "nats_per_token", "weights": [1.0, 3.0], "higher_is_better": False, "chance": None}
    found = change(items([2.0, 1.0], **shared), items([1.0, 1.0], **shared))
    assert found.delta == pytest.approx(-0.25)
    assert (found.before, found.after) == pytest.approx((1.25, 1.0))
    assert (found.lost, found.gained, found.p_value) == (None, None, 1.0)


def test_a_weighted_metric_of_zeros_and_ones_has_no_counts() -> None:
    """Weights make it a ratio, even if its values are 0 and 1."""
    shared = {"weights": [1.0, 3.0, 2.0]}
    assert change(items([1, 0, 1], **shared), items([0, 0, 1], **shared)).lost is None


def test_a_suite_of_equal_tasks_is_tested_on_the_summed_counts() -> None:
    """In all, 5 items are lost and 1 is gained."""
    pairs = [
        forgetting.pair(items([1.0] * 10), items([0.0] * 3 + [1.0] * 7)),
        forgetting.pair(items([1.0] * 9 + [0.0]), items([0.0] * 2 + [1.0] * 8)),
    ]
    found = forgetting.change(pairs)
    assert (found.n, found.lost, found.gained) == (20, 5, 1)
    assert found.delta == pytest.approx((-0.3 - 0.1) / 2)
    assert found.p_value == pytest.approx(stats.mcnemar(5, 1))


def test_a_suite_of_unequal_tasks_is_tested_on_its_own_difference() -> None:
    """Tasks of 4 and 8 items have equal weight: sign flips of ±1/8 and ±1/16."""
    pairs = [forgetting.pair(items([1.0] * 4), items([0.0, 1, 1, 1])), forgetting.pair(items([1.0] * 8), items([0.0, 0] + [1.0] * 6))]
    totals = [abs(a / 8 + b / 16 + c / 16) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    assert forgetting.change(pairs).p_value == pytest.approx(np.mean([total >= 0.25 for total in totals]))


def answered(answers: list[Any], *, generated: bool = False, **changes: Any) -> Items:
    """Return items with these choices of two, or these generated texts; all are wrong."""
    table = samples([Task(suite="s", task="t", values=[0] * len(answers), **changes)]).sort_values("doc_id", ignore_index=True)
    if generated:
        table["text"] = answers
    else:
        table["choices"] = [["a", "b"]] * len(answers)
        table["log_likelihoods"] = pd.Series(
            [None if answer is None else [-1.0, -0.5 if answer else -2.0] for answer in answers], dtype="object"
        )
    return Samples(table).items("s", "t", "none", "acc")


@pytest.mark.parametrize(
    ("before", "after", "generated", "share"),
    [([0, 1, 1, 0], [0, 1, 0, 0], False, 0.75), (["x", "y"], ["x", "x"], True, 0.5), ([0, 1], [0, None], False, None)],
)
def test_answers_can_change_where_no_item_does(before: list[Any], after: list[Any], generated: bool, share: float | None) -> None:
    """Every answer is wrong before and after, so nothing is lost or gained.

    Agreement is the share of equal answers.
    """
    found = change(answered(before, generated=generated), answered(after, generated=generated))
    assert (found.lost, found.gained, found.delta) == (0, 0, 0.0)
    assert found.agreement == share


def test_agreement_of_a_suite_has_equal_weights() -> None:
    """3 of 4 and 1 of 2 give 5/8; a task without answers gives none."""
    one = forgetting.pair(answered([0, 1, 1, 0]), answered([0, 1, 0, 0]))
    other = forgetting.pair(answered([0, 1]), answered([0, 0]))
    without = forgetting.pair(items([1, 0]), items([1, 1]))
    assert forgetting.agreement([one, other]) == 0.625
    assert forgetting.agreement([one, without]) is None


def test_a_scored_text_is_not_an_answer() -> None:
    """Texts of divergence and likelihood suites were neither chosen nor generated."""
    table = samples([Task(suite="s", task="t", values=[0, 0])])
    table["text"], table["log_likelihoods"] = ["x", "y"], [[-1.0], [-2.0]]
    assert list(Samples(table).items("s", "t", "none", "acc").answers) == [None, None]


def test_a_divergence_of_zeros_is_not_binary() -> None:
    """A continuous metric with values of 0 and 1 is not a share."""
    same = items([0, 0, 0], metric="kl_base_tuned_sequence", higher_is_better=False, chance=None)
    assert not forgetting.is_binary([same])
    assert forgetting.is_binary([items([0, 0, 0])])
