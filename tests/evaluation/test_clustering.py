"""Clusters of items: the suite's setting, and the column of samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.errors import ConfigError, EvaluationError
from harness.core.progress import Silent
from harness.evaluation import evaluator, suites
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.suites import Suite
from harness.records import record_files, seals
from harness.records.schema import GENERATED, cluster_field


def test_a_suite_without_clusters_keeps_its_identity() -> None:
    """The identity has the key only if set: measurements older than the setting stay valid."""
    plain = Suite(name="s", tasks=("t",), metric="acc")
    assert "cluster" not in plain.identity()
    assert dataclasses.replace(plain, cluster="passage").identity()["cluster"] == "passage"


def test_rows_have_no_documents_to_cluster_by() -> None:
    """Only lm-eval's tasks have fields."""
    with pytest.raises(ConfigError, match="suite s: cluster"):
        Suite(name="s", kind="likelihood", data="d", metric="nats_per_token", higher_is_better=False, chance=None, cluster="passage")


def test_a_field_that_no_item_has_is_refused_before_anything_runs() -> None:
    """A misspelt field would leave all items unclustered silently."""
    with pytest.raises(EvaluationError, match=r"cluster.*'persn'.*did you mean 'person'"):
        evaluator.prepare(dataclasses.replace(suites.load("tinyworld"), report=4, cluster="persn"), HfEvaluation())


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"tinyworld_facts": "persn"}, r"cluster.*'persn'.*did you mean 'person'"),
        ({"tinyworld_facts": "person", "tinyworld_grammar": "person"}, "cluster: got 'person'"),
        ({"tinyworld_fact": "person"}, r"cluster: got tinyworld_fact;.*did you mean 'tinyworld_facts'"),
    ],
)
def test_a_mapping_must_name_tasks_and_their_own_fields(cluster: dict[str, str], words: str) -> None:
    """At least one item of a named task must have the field."""
    with pytest.raises(EvaluationError, match=words):
        evaluator.prepare(dataclasses.replace(suites.load("tinyworld"), report=4, cluster=cluster), HfEvaluation())


@pytest.mark.parametrize("key", ["report", "select"])
def test_a_number_of_items_must_name_a_task(key: str) -> None:
    """A misspelt task would be measured on all of its items silently."""
    changes: dict[str, Any] = {key: {"tinyworld_fact": 5}}
    changed = dataclasses.replace(suites.load("tinyworld"), **changes)
    with pytest.raises(EvaluationError, match=rf"{key}: got tinyworld_fact;.*did you mean 'tinyworld_facts'"):
        evaluator.prepare(changed, HfEvaluation())


@pytest.mark.parametrize("cluster", [{}, {"t": None}, {"t": {"a": "b"}}, "", 5, ["passage"]])
def test_a_cluster_is_a_field_or_a_mapping_to_fields(cluster: object) -> None:
    with pytest.raises(ConfigError, match="suite s: cluster"):
        Suite(name="s", tasks=("t",), metric="acc", cluster=cluster)


def test_a_mapping_is_in_the_identity_and_gives_each_task_its_field() -> None:
    """A task asked by generation has the field of its multiple-choice task.

    A task without an entry has none.
    """
    suite = Suite(name="s", tasks=("t", "u"), metric="acc", cluster={"t": "passage"})
    assert suite.identity()["cluster"] == {"t": "passage"}
    assert [cluster_field(suite.cluster, task) for task in ("t", f"t{GENERATED}", "u")] == ["passage", "passage", None]
    assert cluster_field("passage", "u") == "passage"


def test_suites_with_mappings_load() -> None:
    """Of tasks in the suites."""
    for name in ("german", "chinese"):
        suite = suites.load(name)
        assert set(suite.cluster) <= set(suite.tasks)


@pytest.mark.parametrize("cluster", ["person", {"tinyworld_facts": "person"}])
def test_samples_say_which_items_belong_together(
    random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase, tmp_path: Path, cluster: object
) -> None:
    """Facts about one person have one cluster, those about others another.

    Sums and sentences, without the field, have none.
    """
    prepared = evaluator.prepare(dataclasses.replace(suites.load("tinyworld"), report=40, cluster=cluster), HfEvaluation())
    found = evaluator.evaluate(prepared, HfEvaluation(), random_model, words, max_length=64, dtype="float32", progress=Silent(), stage="")
    record_files.write_samples(tmp_path, found.samples)
    samples = record_files.read_samples(tmp_path, seals.hash_of(tmp_path / "samples.parquet"))
    facts = samples[samples["task"] == "tinyworld_facts"]
    docs = prepared.tasks["tinyworld_facts"].eval_docs
    people = [docs[int(index)]["person"] for index in facts["doc_id"]]
    assert 1 < len(set(people)) < 40
    assert len(set(facts["cluster"])) == len(set(people)) == len(set(zip(facts["cluster"], people, strict=True)))
    assert samples.loc[samples["task"] != "tinyworld_facts", "cluster"].isna().all()
