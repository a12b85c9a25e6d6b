"""One run, step by step: what is measured, kept, found again and dropped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import compose, preparation, run
from harness.interfaces import Silent
from harness.preparation import Prepared, Workspace
from harness.schema import Baseline, Point

SMALL = "kind: lm_eval\ntasks: [tinyworld_facts, tinyworld_arithmetic, tinyworld_grammar]\nmetric: acc\nreport: 12\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model of random weights with the nursery's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = compose.member("model", "nursery-smoke-a").tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclasses.dataclass
class Runs:
    """Runs in an empty folder, on a suite of three tasks; counts the tasks that are evaluated and interrupts at the number ``stop_at``."""

    monkeypatch: pytest.MonkeyPatch
    evaluated: list[str] = dataclasses.field(default_factory=list)
    stop_at: int = 0
    prepared: Prepared | None = None

    def __call__(self, *overrides: str, name: str = "a", stop_at: int = 0) -> str:
        """Do one run; return the outcome."""
        self.evaluated.clear()
        self.stop_at = stop_at
        fixed = ["model=hf", "model.name=./model", "data.volumes=[8]", "target_suites=[]", f"name={name}"]
        self.prepared = preparation.prepare(compose.compose([*fixed, "probe_suites=[small]", *overrides]), Workspace())
        return run.execute(self.prepared, Silent())

    @property
    def baselines(self) -> list[Baseline]:
        """Every baseline that is recorded."""
        experiment = self._prepared.experiment
        found = [experiment.baseline(path.name) for path in sorted(experiment.folder.glob("baselines/*"))]
        return [baseline for baseline in found if baseline]

    @property
    def point(self) -> Point:
        """The point of the last run."""
        found = self._prepared.experiment.point(self._prepared.run_id, 8)
        assert found
        return found

    @property
    def folder(self) -> Path:
        """The folder of the last run."""
        return self._prepared.experiment.run_folder(self._prepared.run_id)

    @property
    def _prepared(self) -> Prepared:
        assert self.prepared
        return self.prepared


@pytest.fixture
def runs(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    import lm_eval

    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "own" / "benchmarks" / "suites").mkdir(parents=True)
    (tmp_path / "own" / "benchmarks" / "suites" / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path / "own"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    made, evaluate = Runs(monkeypatch), lm_eval.evaluate

    def counted(lm: Any, tasks: Any, **settings: Any) -> Any:
        made.evaluated.extend(tasks["tasks"])
        if len(made.evaluated) == made.stop_at:
            raise KeyboardInterrupt
        return evaluate(lm, tasks, **settings)

    monkeypatch.setattr(lm_eval, "evaluate", counted)
    return made


def test_volume_0_is_measured_twice_and_later_runs_not_again(runs: Runs) -> None:
    """Three tasks before, again in other batches, and after 8 rows; another seed needs those after 8 rows alone."""
    assert runs() == "done"
    assert len(runs.evaluated) == 9
    (baseline,) = runs.baselines
    assert all(score.remeasured is not None and score.numeric_spread_nats is not None for score in baseline.scores)
    assert all(score.remeasured is None for score in runs.point.scores)
    assert runs("seed=1") == "done"
    assert len(runs.evaluated) == 3
    assert runs() == "already done"
    assert not runs.evaluated


def test_the_second_measurement_leaves_the_threads_as_they_were(runs: Runs) -> None:
    """It runs on another number of them; what follows does not."""
    import torch

    seen: list[int] = []
    set_num_threads = torch.set_num_threads

    def noted(count: int) -> None:
        seen.append(count)
        set_num_threads(count)

    runs.monkeypatch.setattr(torch, "set_num_threads", noted)
    runs("training.threads=1")
    assert seen[:3] == [1, 2, 1]
    assert set(seen[3:]) <= {1}  # others set what it is already


@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_an_interrupted_evaluation_goes_on_where_it_was(runs: Runs, stop_at: int) -> None:
    """Interrupted before, in the second measurement, or at a point: the tasks that were finished are not computed again."""
    runs(name="whole")
    whole, (before,) = runs.point, runs.baselines
    with pytest.raises(KeyboardInterrupt):
        runs(stop_at=stop_at)
    assert runs() == "done"
    assert len(runs.evaluated) == 9 - (stop_at - 1)
    assert runs.point.scores == whole.scores
    (baseline,) = runs.baselines
    assert baseline.scores == before.scores
    assert not list(Path("results/a").rglob("partial"))


def test_what_other_weights_left_unfinished_is_not_taken(runs: Runs) -> None:
    """The same run, interrupted at a point and then trained otherwise (here: noise on its weights), evaluates every task anew."""
    import torch

    with pytest.raises(KeyboardInterrupt):
        runs(stop_at=8)
    measured = run._Execution._point

    def disturbed(self: Any, stop: Any, model: Any) -> None:
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1e-3
        measured(self, stop, model)

    runs.monkeypatch.setattr(run._Execution, "_point", disturbed)
    runs()
    assert len(runs.evaluated) == 3


def test_a_changed_byte_of_the_weights_is_another_baseline(runs: Runs) -> None:
    """Two models in one folder, one after the other, are two models."""
    from safetensors.torch import load_file, save_file

    runs()
    weights = load_file("model/model.safetensors")
    weights["lm_head.weight"][5, 3] += 1e-3
    save_file(weights, "model/model.safetensors", metadata={"format": "pt"})
    runs()
    first, second = runs.baselines
    assert first.weights_sha256 != second.weights_sha256
    assert len(runs.evaluated) == 9


def test_a_baseline_is_of_items_settings_tokenizer_and_dtype(runs: Runs) -> None:
    """What decides a score stands in its identity; another of them is another baseline."""
    runs("evaluation=hf")
    (baseline,) = runs.baselines
    identity = baseline.identity
    assert set(identity["tasks"]) == {"tinyworld_facts", "tinyworld_arithmetic", "tinyworld_grammar"}
    assert {"version", "settings", "items"} <= set(identity["tasks"]["tinyworld_facts"])
    assert identity["tokenizer"]
    assert (identity["evaluation"]["dtype"], identity["evaluation"]["class"].rpartition(".")[2]) == ("float32", "HfEvaluation")
    assert {"batch_size", "likelihood_tokens", "add_bos", "prompt_format"} <= set(identity["evaluation"])
    assert identity["protocol_version"] >= 2
    changes = ["evaluation.batch_size=4", "evaluation.dtype=bfloat16", "evaluation.add_bos=false", "evaluation=prefix"]
    for count, change in enumerate(changes, start=2):
        runs(*(["evaluation=hf"] if change != "evaluation=prefix" else []), change)
        assert len(runs.baselines) == count, change


def test_points_that_were_compared_with_other_items_are_dropped(runs: Runs) -> None:
    """A data set of lm-eval that changed behind the same configuration: the run is the same, its old points are not."""
    from harness.evaluation import adapter

    runs()
    prepare = adapter._prepare_tasks

    def changed(*arguments: Any) -> Any:
        found = prepare(*arguments)
        return dataclasses.replace(found, content={name: {**known, "items": "others"} for name, known in found.content.items()})

    runs.monkeypatch.setattr(adapter, "_prepare_tasks", changed)
    runs("data.volumes=[8,16]")
    assert len(runs.evaluated) == 12  # twice before, after 8 rows and after 16


def test_one_item_of_each_task_lies_in_the_folder_of_the_run(runs: Runs) -> None:
    """As the model reads it, special tokens and all."""
    runs()
    files = sorted((runs.folder / "prompts" / "small").glob("*.txt"))
    assert [file.stem for file in files] == ["tinyworld_arithmetic", "tinyworld_facts", "tinyworld_grammar"]
    for file in files:
        text = file.read_text()
        assert text.startswith(f"suite small, task {file.stem}: item 1 of 12")
        assert "\n<s> " in text
        assert "choice 0, 1 token" in text


def test_a_record_says_which_protocol_it_is_of(runs: Runs) -> None:
    """Numbers of this version are never mixed with those of one task's batches beside another's."""
    runs()
    assert json.loads((runs.folder / "record.json").read_text())["protocol_version"] == 2


def test_a_suite_that_fails_whole_is_a_run_measured_in_part(runs: Runs) -> None:
    """Each task has its reason; nothing unfinished is left, and the next try measures all of it."""
    import lm_eval

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory")

    with runs.monkeypatch.context() as patch:
        patch.setattr(lm_eval, "evaluate", broken)
        assert runs() == "measured in part"
    assert {score.reason for score in runs.point.scores} == {"RuntimeError: no memory"}
    assert all(score.remeasured is None for score in runs.baselines[0].scores)
    assert runs() == "done"
    assert len(runs.evaluated) == 9
