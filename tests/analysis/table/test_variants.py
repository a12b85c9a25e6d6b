"""Variants of runs with the same labels."""

from __future__ import annotations

from harness.analysis.table.variants import variants

LABELS = {"model": "m", "tuning": "full", "seed": 0, "learning_rate": 0.1}


def test_runs_with_equal_labels_are_told_apart_by_what_differs() -> None:
    """Runs with two weight decays are named by their own."""
    identities = {name: {"training": {"weight_decay": decay, "batch_rows": 8}} for name, decay in {"a": 0.0, "b": 0.1}.items()}
    assert variants({"a": LABELS, "b": LABELS}, identities, {}) == {"a": "weight_decay=0.0", "b": "weight_decay=0.1"}


def test_runs_that_differ_in_a_column_need_no_further_name() -> None:
    """Seed, rate and volume have separate columns."""
    identities = {"a": {"seed": 0, "volumes": [8]}, "b": {"seed": 1, "volumes": [8]}, "c": {"seed": 0, "volumes": [16]}}
    assert set(variants({"a": LABELS, "b": LABELS | {"seed": 1}, "c": LABELS}, identities, {}).values()) == {""}


def test_other_inputs_are_shown_by_their_hash() -> None:
    """The same configuration on changed rows is another variant with a short name."""
    identities = {"a": {"inputs": {"data": "a" * 64}}, "b": {"inputs": {"data": "b" * 64}}}
    assert variants({"a": LABELS, "b": LABELS}, identities, {})["b"] == "inputs.data=bbbbbbbb…"


def test_seeds_that_are_measured_on_other_tasks_are_told_apart() -> None:
    """They must not be averaged; a suite that only one of them has is no difference."""
    runs = {"a": LABELS, "b": LABELS | {"seed": 1}, "c": LABELS | {"tuning": "lora"}}
    evaluations = {"a": {"x": "1" * 12, "y": "2" * 12}, "b": {"x": "3" * 12}, "c": {"x": "4" * 12}}
    assert variants(runs, {name: {} for name in runs}, evaluations) == {"a": "x=11111111…", "b": "x=33333333…", "c": ""}
