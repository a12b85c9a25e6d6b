"""Items that belong together: the suite's key, and the column of samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness import record_files
from harness.errors import ConfigError, EvaluationError
from harness.evaluation import adapter, suites
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.suites import Suite
from harness.interfaces import Silent


def test_a_suite_without_clusters_keeps_its_identity() -> None:
    """The key is in the identity only when given: what was measured before there were clusters stays found."""
    plain = Suite(name="s", tasks=("t",), metric="acc")
    assert "cluster" not in plain.identity()
    assert dataclasses.replace(plain, cluster="passage").identity()["cluster"] == "passage"


def test_rows_have_no_documents_to_cluster_by() -> None:
    """Only lm-eval's tasks have fields."""
    with pytest.raises(ConfigError, match="suite s: cluster"):
        Suite(name="s", kind="likelihood", data="d", metric="nats_per_token", higher_is_better=False, chance=None, cluster="passage")


def test_a_field_that_no_item_has_is_refused_before_anything_runs() -> None:
    """A misspelt field would leave all items unclustered without a word."""
    with pytest.raises(EvaluationError, match=r"cluster.*'persn'.*did you mean 'person'"):
        adapter.prepare(dataclasses.replace(suites.load("tinyworld"), report=4, cluster="persn"), HfEvaluation())


def test_samples_say_which_items_belong_together(random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Facts about one person have one cluster, those about others another; sums and sentences, without the field, have none."""
    prepared = adapter.prepare(dataclasses.replace(suites.load("tinyworld"), report=40), HfEvaluation())
    found = adapter.evaluate(prepared, HfEvaluation(), random_model, words, max_length=64, dtype="float32", progress=Silent(), stage="")
    record_files.write_samples(tmp_path, found.samples)
    samples = record_files.read_samples(tmp_path)
    facts = samples[samples["task"] == "tinyworld_facts"]
    docs = prepared.tasks["tinyworld_facts"].eval_docs
    people = [docs[int(index)]["person"] for index in facts["doc_id"]]
    assert 1 < len(set(people)) < 40
    assert len(set(facts["cluster"])) == len(set(people)) == len(set(zip(facts["cluster"], people, strict=True)))
    assert samples.loc[samples["task"] != "tinyworld_facts", "cluster"].isna().all()
