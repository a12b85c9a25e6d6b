"""Small runs of models with random weights, in an empty folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition
from harness.core.progress import Silent
from harness.records.schema import Point, Score
from harness.run import execution, preparation
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace

ROWS = "data: tinyworld-people\nsplit: test\nhigher_is_better: false\n"
SUITES = {
    "probe": "kind: lm_eval\ntasks: [tinyworld_facts, tinyworld_grammar]\nmetric: acc\nreport: 12\n",
    "aim": "kind: lm_eval\ntasks: [tinyworld_people]\nmetric: acc\nreport: 12\nselect: 20\n",
    "unchosen": "kind: lm_eval\ntasks: [tinyworld_people]\nmetric: acc\nreport: 12\n",
    "loss": "kind: likelihood\nmetric: nats_per_token\nreport: 12\nselect: 20\n" + ROWS,
    "drift": "kind: divergence\nmetric: kl_base_tuned\nreport: 4\n" + ROWS,
}


def save_models(folder: Path) -> None:
    """Write models ``start``, ``chat``, ``base`` and, wider, ``wide``, with one tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.core.seeds import seed_torch, untouched_global_streams

    tokenizer = composition.member("model", "nursery-smoke-a").tokenizer()
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends: dict[str, Any] = {"max_position_embeddings": 64, "eos_token_id": tokenizer.eos_token_id}
    for seed, name in enumerate(["start", "chat", "base", "wide"]):
        with untouched_global_streams():
            seed_torch(seed)
            model = LlamaForCausalLM(LlamaConfig(**sizes, **ends, hidden_size=24 if name == "wide" else 16))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def own_folder(saved: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with these models, as members of conf/model, and SUITES."""
    shutil.copytree(saved, folder / "models")
    own = folder / "own"
    (own / "benchmarks" / "suites").mkdir(parents=True)
    (own / "conf" / "model").mkdir(parents=True)
    for name, text in SUITES.items():
        (own / "benchmarks" / "suites" / f"{name}.yaml").write_text(text)
    for name in ["start", "chat", "base", "wide"]:
        text = f"# A test's.\nclass: hub.HubModel\nname: ./models/{name}\n"
        (own / "conf" / "model" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HARNESS_PATH", str(own))
    monkeypatch.setenv("HARNESS_CACHE", str(folder / "cache"))


@dataclasses.dataclass
class Runs:
    """Runs on the suites ``aim`` and ``probe``.

    Attributes:
        evaluated: task and items (report or select) of each evaluation.
        trained: optimizer steps.
        stop_at: number of the evaluation at which it interrupts.
    """

    workspace: Workspace = dataclasses.field(default_factory=Workspace)
    evaluated: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    trained: int = 0
    stop_at: int = 0

    def __call__(self, *overrides: str, name: str = "a", stop_at: int = 0) -> str:
        """Execute one run; return the outcome."""
        self.evaluated.clear()
        self.trained, self.stop_at = 0, stop_at
        self.prepared = self.prepare(*overrides, name=name)
        return execution.execute(self.prepared, Silent())

    def prepare(self, *overrides: str, name: str = "a") -> Prepared:
        """Prepare a run."""
        fixed = ["model=start", "data.volumes=[8,16]", "target_suites=[aim]", "probe_suites=[probe]", f"name={name}"]
        return preparation.prepare(composition.compose([*fixed, "training.learning_rate=0.01", *overrides]), self.workspace)

    def point(self, volume: int, coefficient: float | None = None) -> Point:
        """Return a point of the last run, or of one derived from it."""
        run_id = self.prepared.run_id if coefficient is None else self.prepared.derived[coefficient]
        found = self.prepared.experiment.point(run_id, volume)
        assert found
        return found

    def scores(self, volume: int, coefficient: float | None = None) -> tuple[Score, ...]:
        """Return the scores of a point, suites in the order of the run."""
        return scores_of(self.prepared, self.point(volume, coefficient))


def scores_of(prepared: Prepared, point: Point) -> tuple[Score, ...]:
    """Return the scores of a point of a run, suites in the order of the run."""
    found = [prepared.experiment.measurement(one, point.weights_sha256) for one in prepared.evaluation_ids.values()]
    return tuple(score for one in found if one is not None for score in one.scores)


def counted(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Return runs that count evaluations and steps."""
    import lm_eval

    from harness.training.step import StepTrainer

    made = Runs()
    evaluate, step = lm_eval.evaluate, StepTrainer.training_step

    def evaluated(lm: Any, tasks: Any, **settings: Any) -> Any:
        for task in tasks["tasks"]:
            made.evaluated.append((task, "select" if len(settings["samples"][task]) == 20 else "report"))
        if len(made.evaluated) == made.stop_at:
            raise KeyboardInterrupt
        return evaluate(lm, tasks, **settings)

    def trained(*arguments: Any) -> Any:
        made.trained += 1
        return step(*arguments)

    monkeypatch.setattr(lm_eval, "evaluate", evaluated)
    monkeypatch.setattr(StepTrainer, "training_step", trained)
    return made


def without_time(point: Point) -> Point:
    """Return a point without what differs between two measurements of the same weights."""
    counts = dataclasses.replace(point.counts, seconds=0.0)
    return dataclasses.replace(point, counts=counts, peak_memory_bytes=0)
