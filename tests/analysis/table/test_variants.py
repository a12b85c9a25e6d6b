"""Variants of runs with the same labels."""

from __future__ import annotations

from typing import Any

from harness.analysis.table.variants import variants

LABELS = {"model": "m", "tuning": "full", "seed": 0, "learning_rate": 0.1}


def test_runs_with_equal_labels_are_told_apart_by_what_differs() -> None:
    """Runs with two weight decays are named by their own."""
    identities = {name: {"training": {"weight_decay": decay, "batch_rows": 8}} for name, decay in {"a": 0.0, "b": 0.1}.items()}
    assert variants({"a": LABELS, "b": LABELS}, identities) == {"a": "weight_decay=0.0", "b": "weight_decay=0.1"}


def test_runs_that_differ_in_a_column_need_no_further_name() -> None:
    """Seed, rate and volume have separate columns."""
    identities = {"a": {"seed": 0, "volumes": [8]}, "b": {"seed": 1, "volumes": [8]}, "c": {"seed": 0, "volumes": [16]}}
    assert set(variants({"a": LABELS, "b": LABELS | {"seed": 1}, "c": LABELS}, identities).values()) == {""}


def test_other_inputs_are_shown_by_their_hash() -> None:
    """The same configuration on changed rows is another variant with a short name."""
    identities = {"a": {"inputs": {"data": "a" * 64}}, "b": {"inputs": {"data": "b" * 64}}}
    assert variants({"a": LABELS, "b": LABELS}, identities)["b"] == "inputs.data=bbbbbbbb…"


def test_other_suites_are_shown_by_their_names() -> None:
    """A run measured on more suites is named by the suites, not by their settings."""
    suite = {"metric": "acc", "tasks": ["t"]}
    identities: dict[str, Any] = {"a": {"inputs": {"target_suites": {"x": suite}}}, "b": {"inputs": {"target_suites": {}}}}
    assert variants({"a": LABELS, "b": LABELS}, identities) == {"a": "target_suites=x", "b": "target_suites=none"}
    other = suite | {"metric": "f1"}
    changed: dict[str, Any] = {"a": {"inputs": {"probe_suites": {"x": suite}}}, "b": {"inputs": {"probe_suites": {"x": other}}}}
    assert all(text.startswith("suite_definitions=") for text in variants({"a": LABELS, "b": LABELS}, changed).values())
