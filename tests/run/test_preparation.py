"""What a run trains on, and what is refused before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
from harness.run.preparation import Prepared, check_together, prepare
from harness.run.workspace import Workspace


def rows(*overrides: str) -> list[Row]:
    return list(prepare(composition.compose(["model=nursery-smoke-a", *overrides]), Workspace()).rows)


def test_smaller_volumes_are_prefixes_of_larger_ones() -> None:
    """The 8-row set is inside the 24-row set, in the same order; another seed takes others."""
    assert rows("data.volumes=[8]") == rows("data.volumes=[8,24]")[:8]
    assert rows("data.volumes=[8]") != rows("data.volumes=[8]", "seed=1")


def test_every_epoch_sees_the_same_rows_in_its_own_order() -> None:
    """Two epochs of 16 rows are 32, the second a permutation of the first."""
    found = rows("data.volumes=[16]", "trajectory=independent", "training.epochs=2")
    assert len(found) == 32
    assert found[:16] != found[16:]
    assert sorted(row.id for row in found[:16]) == sorted(row.id for row in found[16:])


def test_more_rows_than_there_are_is_refused_with_the_largest_volume_that_fits(tmp_path: Path) -> None:
    """Of 20 rows, 16 are whole steps of 8."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"prompt": "a {i}", "completion": "b"}}\n' for i in range(20)))
    with pytest.raises(DataError, match=r"got 64; allowed: at most the 20 rows .*data.volumes=\[16\]"):
        rows("data=files", f"data.train={file}", "data.volumes=[64]", "probe_suites=[tinyworld]")


def test_a_sweep_of_two_dtype_policies_is_refused() -> None:
    """A difference between methods could be one of rounding."""
    facts = ModelFacts(params_total=1000, context_length=64, content={})
    config = composition.compose([])
    resolved = resolution.resolve(config, facts, (), Machine(cores=1, gpus=0))
    one = Prepared(config, facts, resolved, {}, {}, {}, Workspace())
    other = dataclasses.replace(one, resolved=dataclasses.replace(resolved, dtype="bfloat16"))
    check_together([one, one])
    with pytest.raises(ConfigError, match="one policy a sweep"):
        check_together([one, other])


def test_a_sweep_that_declares_two_things_is_refused() -> None:
    """What counts as forgotten is one for all its runs."""
    one, other = (
        prepare(composition.compose(["model=nursery-smoke-a", f"declared.margin={margin}"]), Workspace()) for margin in (0.02, 0.05)
    )
    assert one.run_id == other.run_id
    check_together([one, one])
    with pytest.raises(ConfigError, match="declared: got several values; allowed: one for the whole sweep"):
        check_together([one, other])


def test_a_headline_without_a_verdict_is_refused() -> None:
    """A distance from the base is neither lost nor gained."""
    with pytest.raises(ConfigError, match="declared.headline: got 'drift_target', of kind divergence"):
        rows("probe_suites=[tinyworld,drift_target]", "declared.headline=drift_target")


ANCHOR = ("anchor=tinyworld-base", "probe_suites=[drift_target,drift_anchor]")


def identities(*overrides: str) -> dict[str, str]:
    """Suite → hash of what decides its volume 0."""
    config = composition.compose([*overrides, "model=nursery-smoke-a"])
    return {name: identify(found) for name, found in prepare(config, Workspace()).baseline_identities.items()}


def test_target_and_anchor_of_a_suite_are_the_runs_own_by_content() -> None:
    """Another target is another baseline of drift_target and none of drift_anchor's business, and the other way round."""
    first = identities(*ANCHOR)
    other = identities(*ANCHOR, "data=tinyworld-skill")
    assert first["drift_target"] != other["drift_target"]
    assert first["drift_anchor"] == other["drift_anchor"]
    third = identities("anchor=tinyworld-skill", ANCHOR[1])
    assert third["drift_anchor"] != first["drift_anchor"]
    assert third["drift_target"] == first["drift_target"]


def test_rows_of_two_targets_are_kept_apart_in_one_process() -> None:
    """Suites are prepared once a process, for each data set they stand for."""
    workspace = Workspace()
    rows = [
        workspace.suite_of("drift_target", composition.compose([f"data={name}"])).rows for name in ("tinyworld-people", "tinyworld-skill")
    ]
    assert not {row.id for row in rows[0]} & {row.id for row in rows[1]}


def test_rows_that_a_prompt_format_cannot_take_are_refused() -> None:
    """Conversations have no plain form.

    What a chat template writes between texts has no bytes of theirs.
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
def test_a_suite_without_its_rows_is_refused_before_anything_is_built(overrides: list[str], words: str) -> None:
    """One line at preparation."""
    with pytest.raises((ConfigError, DataError), match=words):
        identities(*overrides)


def test_identifying_a_run_orders_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of thousands of runs looks at sizes alone.

    The rows come in order when they are asked for, once.
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


def test_an_anchor_with_too_few_rows_is_refused(tmp_path: Path) -> None:
    """Half of 64 rows on top are 32; there are 20."""
    file = tmp_path / "past.jsonl"
    file.write_text("".join(f'{{"prompt": "a {i}", "completion": "b"}}\n' for i in range(20)))
    replay = ["mitigation=replay", "mitigation.fraction=0.5", "anchor=files", f"anchor.train={file}", "data.volumes=[64]"]
    with pytest.raises(DataError, match="anchor=.*got 20 rows; allowed: at least 32"):
        rows(*replay)
    assert len(rows(*replay, "mitigation.fraction=0")) == 64


def test_runs_that_start_from_the_same_share_the_keys_of_their_baselines() -> None:
    """Seed, rate and method do not move volume 0; the model and how it is evaluated do.

    A key is its identity's hash.
    """
    workspace = Workspace()

    def keys(*overrides: str) -> dict[str, str]:
        prepared = prepare(composition.compose(["model=nursery-smoke-a", *overrides]), workspace)
        assert {name: identify(found) for name, found in prepared.baseline_identities.items()} == prepared.baseline_keys
        return dict(prepared.baseline_keys)

    first = keys()
    assert first.keys() == {"tinyworld", "tinyworld-people"}
    assert keys("seed=1", "tuning=lora", "training.learning_rate=0.5", "training.processes=2") == first
    assert not set(keys("model=nursery-smoke-b").values()) & set(first.values())
    assert not set(keys("evaluation.token_budget=64").values()) & set(first.values())


def test_the_machine_is_part_of_what_a_run_is() -> None:
    """Planned for a GPU: another dtype, another run, wherever it is planned."""
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
def test_a_piece_that_is_not_here_is_named_and_looked_for_once(
    overrides: list[str], error: type[Exception], piece: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the hub, each of a thousand runs says what is missing, and none waits for it again until it is asked to."""
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
