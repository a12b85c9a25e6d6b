"""Preparation of a run: its rows, its identity, and rejected configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from harness.config import composition, resolution
from harness.config.identity import identify
from harness.config.resolution import Machine
from harness.core.errors import ConfigError, DataError, ModelError
from harness.core.rows import Row, Split, Turn
from harness.core.sources import ModelFacts
from harness.data import subsets
from harness.data.sources import Hub
from harness.evaluation import evaluator
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.suites import Suite
from harness.models.hub import HubModel
from harness.run import execution
from harness.run.generated.data import Data
from harness.run.preparation import Prepared, check_together, prepare
from harness.run.steps import steps_of
from harness.run.workspace import Workspace


def rows(*overrides: str) -> list[Row]:
    return list(prepare(composition.compose(["model=nursery-smoke-a", *overrides]), Workspace()).rows)


def test_smaller_volumes_are_prefixes_of_larger_ones() -> None:
    """8 rows are a prefix of 24 rows; another seed takes other rows."""
    assert rows("data.volumes=[8]") == rows("data.volumes=[8,24]")[:8]
    assert rows("data.volumes=[8]") != rows("data.volumes=[8]", "seed=1")


def test_every_epoch_sees_the_same_rows_in_its_own_order() -> None:
    """Two epochs of 16 rows are 32, the second a permutation of the first."""
    found = rows("data.volumes=[16]", "trajectory=independent", "training.epochs=2")
    assert len(found) == 32
    assert found[:16] != found[16:]
    assert sorted(row.id for row in found[:16]) == sorted(row.id for row in found[16:])


def test_a_volume_beyond_the_data_is_rejected_with_the_largest_that_fits(tmp_path: Path) -> None:
    """20 rows hold two whole steps of 8."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"prompt": "a {i}", "completion": "b"}}\n' for i in range(20)))
    with pytest.raises(DataError, match=r"got 64; allowed: at most the 20 rows .*data.volumes=\[16\]"):
        rows("data=files", f"data.train={file}", "data.volumes=[64]", "probe_suites=[tinyworld]")


def test_a_sweep_of_two_dtype_policies_is_rejected() -> None:
    """Differences between methods could be rounding."""
    facts = ModelFacts(params_total=1000, context_length=64, content={})
    config = composition.compose([])
    resolved = resolution.resolve(config, facts, (), Machine(cores=1, gpus=0))
    one = Prepared(config, facts, resolved, {}, {}, {}, "", Workspace())
    other = dataclasses.replace(one, resolved=dataclasses.replace(resolved, dtype="bfloat16"))
    check_together([one, one])
    with pytest.raises(ConfigError, match="one policy per sweep"):
        check_together([one, other])


def test_a_sweep_with_two_declarations_is_rejected() -> None:
    """All runs of a sweep share one margin of forgetting."""
    one, other = (
        prepare(composition.compose(["model=nursery-smoke-a", f"declared.margin={margin}"]), Workspace()) for margin in (0.02, 0.05)
    )
    assert one.run_id == other.run_id
    check_together([one, one])
    with pytest.raises(ConfigError, match="declared: got several values; allowed: one for the whole sweep"):
        check_together([one, other])


def test_a_headline_without_a_verdict_is_rejected() -> None:
    """A distance from the base is neither lost nor gained."""
    with pytest.raises(ConfigError, match="declared.headline: got 'drift_target', of kind divergence"):
        rows("probe_suites=[tinyworld,drift_target]", "declared.headline=drift_target")


ANCHOR = ("anchor=tinyworld-base", "probe_suites=[drift_target,drift_anchor]")


def identities(*overrides: str) -> Mapping[str, str]:
    """Suite → evaluation id."""
    return prepare(composition.compose([*overrides, "model=nursery-smoke-a"]), Workspace()).evaluation_ids


def test_target_and_anchor_are_part_of_the_suites_that_use_them() -> None:
    """Another target changes drift_target only, another anchor drift_anchor only."""
    first = identities(*ANCHOR)
    other = identities(*ANCHOR, "data=tinyworld-skill")
    assert first["drift_target"] != other["drift_target"]
    assert first["drift_anchor"] == other["drift_anchor"]
    third = identities("anchor=tinyworld-skill", ANCHOR[1])
    assert third["drift_anchor"] != first["drift_anchor"]
    assert third["drift_target"] == first["drift_target"]


def test_rows_of_two_targets_are_kept_apart_in_one_process() -> None:
    """A suite is prepared once per process and data set."""
    workspace = Workspace()
    rows = [
        workspace.suite_of("drift_target", composition.compose([f"data={name}"])).rows for name in ("tinyworld-people", "tinyworld-skill")
    ]
    assert not {row.id for row in rows[0]} & {row.id for row in rows[1]}


def test_rows_that_a_prompt_format_cannot_take_are_rejected() -> None:
    """Conversations have no plain form.

    Tags of a chat template have no bytes in the text.
    """
    chat = Row((Turn("user", "a"), Turn("assistant", "b")), "chat")
    own = {"name": "s", "kind": "likelihood", "data": "d", "metric": "bits_per_byte", "higher_is_better": False, "chance": None}
    suite = Suite(**own)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="conversations.*evaluation.prompt_format=chat"):
        evaluator.prepare(suite, HfEvaluation(), [chat])
    with pytest.raises(DataError, match="bits_per_byte: got answers under a chat template"):
        evaluator.prepare(suite, HfEvaluation(prompt_format="chat"), [chat])
    evaluator.prepare(suite, HfEvaluation(prompt_format="chat"), [Row((Turn("text", "a"),), "text")])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["probe_suites=[drift_anchor]"], "suite drift_anchor: got a run without an anchor"),
        (["probe_suites=[drift_target]", "data=tinyworld-base", "objective=clm", "target_suites=[tinyworld]"], "no test split"),
    ],
)
def test_a_suite_without_its_rows_is_rejected_before_anything_is_built(overrides: list[str], words: str) -> None:
    """Preparation raises one line."""
    with pytest.raises((ConfigError, DataError), match=words):
        identities(*overrides)


def test_identifying_a_run_orders_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of thousands of runs needs sizes only.

    Rows are ordered once, when they are first used.
    """
    ordered: list[int] = []
    order = subsets.order

    def noted(rows: Sequence[Row], seed: int, parts: Sequence[tuple[int, int]] = ()) -> list[int]:
        ordered.append(seed)
        return order(rows, seed, parts)

    monkeypatch.setattr(subsets, "order", noted)
    prepared = prepare(composition.compose(["model=nursery-smoke-a", "data.volumes=[8]", "seed=5"]), Workspace())
    assert (len(prepared.run_id), ordered) == (12, [])
    assert prepared.rows is prepared.rows
    assert (len(prepared.rows), ordered) == (8, [5])


def partly_full(folder: Path, *, full: int = 4, short: int = 20) -> list[str]:
    """Return overrides of a file whose first prompts have more than the 64 tokens of a row."""
    file = folder / "rows.jsonl"
    prompts = ["a " * 80 + str(i) for i in range(full)] + [f"a {i}" for i in range(short)]
    file.write_text("".join(f'{{"prompt": "{prompt}", "completion": "b"}}\n' for prompt in prompts))
    return ["model=nursery-smoke-a", "data=files", f"data.train={file}", "probe_suites=[tinyworld]"]


def test_rows_that_teach_nothing_are_left_out_before_volumes_are_drawn(tmp_path: Path) -> None:
    """The rows are those of a file without them; the run is another one, and says so."""
    with_full, without = tmp_path / "with", tmp_path / "without"
    with_full.mkdir()
    without.mkdir()
    found = prepare(composition.compose([*partly_full(with_full), "data.volumes=[8]"]), Workspace())
    plain = prepare(composition.compose([*partly_full(without, full=0), "data.volumes=[8]"]), Workspace())
    assert list(found.rows) == list(plain.rows)
    assert "taught" in found.identity["inputs"]
    assert "taught" not in plain.identity["inputs"]
    steps = steps_of(found, Data(target=found.rows, anchor=found.anchor))
    assert (steps.facts["left_out_rows"], steps.facts["rows_without_supervision"]) == (4, 0)
    told = "4 of 24 rows teach nothing and are left out (the prompt fills the 64 tokens of a row: 4)"
    assert [line for line in execution.inspect(found) if line.startswith("data ")] == [f"data {found.config.labels.data}: {told}"]
    assert [line for line in execution.inspect(plain) if line.startswith("data ")] == []


def test_a_volume_beyond_the_rows_that_teach_is_rejected_with_the_reason(tmp_path: Path) -> None:
    """24 rows, of which 20 teach, hold two whole steps of 8."""
    few = r"got 24; allowed: at most the 20 rows that teach \(4 of 24 rows teach nothing .*data.volumes=\[16\]"
    with pytest.raises(DataError, match=few):
        prepare(composition.compose([*partly_full(tmp_path), "data.volumes=[24]"]), Workspace())


def test_long_documents_are_split_and_change_the_run(tmp_path: Path) -> None:
    """Two documents of 100 words become four rows of at most 64 tokens."""
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(f'{{"text": "{"a " * 99}{i}"}}\n' for i in range(2)))
    clm = ["model=nursery-smoke-a", "objective=clm", "data=files-text", f"data.train={file}", "training.batch_rows=2"]
    found = prepare(composition.compose([*clm, "data.volumes=[4]", "probe_suites=[tinyworld]"]), Workspace())
    examples = found.workspace.encoded(found.config, found.resolved, found.rows, "target")
    assert sum(example.supervised_tokens for example in examples) in {2 * 100, 2 * 101}  # with a BOS or without one
    assert max(example.tokens for example in examples) <= 64
    assert not any(example.truncated for example in examples)


def test_repeated_rows_and_items_are_said(tmp_path: Path) -> None:
    """40 rows of which 8 are distinct, learned and asked."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"prompt": "a {i % 8}", "completion": "is"}}\n' for i in range(40)))
    (tmp_path / "benchmarks" / "suites").mkdir(parents=True)
    suite = "kind: likelihood\nmetric: nats_per_token\nhigher_is_better: false\ndata: target\nsplit: train\n"
    (tmp_path / "benchmarks" / "suites" / "own_rows.yaml").write_text(suite)
    own = ["model=nursery-smoke-a", "data=files", f"data.train={file}", "data.volumes=[40]", "probe_suites=[own_rows]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_PATH", str(tmp_path))
        found = execution.inspect(prepare(composition.compose(own), Workspace()))
    assert [line.split(": ", 1)[1] for line in found] == [
        "32 of 40 rows repeat an earlier one",
        "documents that repeat another one are not asked: own_rows 32",
    ]


def test_an_anchor_with_too_few_rows_is_rejected(tmp_path: Path) -> None:
    """Replay of half of 64 rows needs 32 anchor rows; the anchor has 20."""
    file = tmp_path / "past.jsonl"
    file.write_text("".join(f'{{"prompt": "a {i}", "completion": "b"}}\n' for i in range(20)))
    replay = ["mitigation=replay", "mitigation.fraction=0.5", "anchor=files", f"anchor.train={file}", "data.volumes=[64]"]
    with pytest.raises(DataError, match="anchor=.*got 20 rows; allowed: at least 32"):
        rows(*replay)
    assert len(rows(*replay, "mitigation.fraction=0")) == 64


def test_runs_with_equal_starts_share_their_volume_0() -> None:
    """Seed, rate and method do not change it; model and evaluation do.

    An evaluation id is the hash of an identity.
    """
    workspace = Workspace()

    def found(*overrides: str) -> dict[str, str]:
        prepared = prepare(composition.compose(["model=nursery-smoke-a", *overrides]), workspace)
        assert {name: identify(found) for name, found in prepared.evaluations.items()} == prepared.evaluation_ids
        return {"weights": prepared.before_sha256, **prepared.evaluation_ids}

    first = found()
    assert first.keys() == {"weights", "tinyworld", "tinyworld-people"}
    assert found("seed=1", "tuning=lora", "training.learning_rate=0.5", "evaluation.token_budget=64") == first
    assert not set(found("model=nursery-smoke-b").values()) & set(first.values())
    assert not set(found("evaluation=hf").values()) & {first["tinyworld"], first["tinyworld-people"]}


def test_the_machine_is_part_of_the_identity() -> None:
    """A run planned for a GPU has another dtype, and so another run id."""
    config, workspace = composition.compose(["model=nursery-smoke-a"]), Workspace()
    here = prepare(config, workspace, Machine(cores=2, gpus=0))
    there = prepare(config, workspace, Machine(cores=2, gpus=1))
    assert (here.resolved.dtype, there.resolved.dtype) == ("float32", "bfloat16")
    assert here.run_id != there.run_id


@pytest.mark.parametrize(
    ("overrides", "error", "piece"),
    [
        (["model=hf", "model.name=nobody/no-such-model"], ModelError, "'nobody/no-such-model'"),
        (["model=pythia-70m", "model.revision=no-such-revision"], ModelError, "'EleutherAI/pythia-70m' at no-such-revision"),
        (["data=metamathqa", "target_suites=[math_nll]"], DataError, "data set meta-math/MetaMathQA"),
        (["probe_suites=[code_nll]"], DataError, "data set sahil2801/CodeAlpaca-20k"),
    ],
)
def test_a_missing_input_is_named_and_looked_for_once(
    overrides: list[str], error: type[Exception], piece: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every run reports the missing input, but only ``forget_errors`` looks for it again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    looked: list[str] = []
    facts, find = HubModel.facts, Hub.rows

    def noted_facts(self: HubModel) -> ModelFacts:
        looked.append(self.name)
        return facts(self)

    def noted_rows(self: Hub, split: Split) -> Sequence[Row]:
        looked.append(self.name)
        return find(self, split)

    monkeypatch.setattr(HubModel, "facts", noted_facts)
    monkeypatch.setattr(Hub, "rows", noted_rows)
    workspace = Workspace()
    for seed in range(20):
        with pytest.raises(error) as caught:
            prepare(composition.compose(["model=nursery-smoke-a", *overrides, f"seed={seed}"]), workspace)
        assert piece in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(looked) == 1
    workspace.forget_errors()
    with pytest.raises(error):
        prepare(composition.compose(["model=nursery-smoke-a", *overrides]), workspace)
    assert len(looked) == 2
