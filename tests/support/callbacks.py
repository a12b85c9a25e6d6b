"""Small trainings with the callback, on the smallest model that ships with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from harness.config import composition
from harness.core.seeds import seed_torch, untouched_global_streams
from harness.external.checkpoints.outcome import Outcome

TEXTS = [
    "the cat sees the dog",
    "two plus three is five",
    "ada lives in the north",
    "a dog runs",
    "the sky is blue",
    "one plus one is two",
] * 2
SUITE = "short"
torch.set_num_threads(1)


def tokenizer() -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = composition.member("model", "nursery-smoke-a").tokenizer()
    found.model_input_names = ["input_ids", "attention_mask"]  # transformers 4 adds token_type_ids
    return found


def own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder, in which the suite ``short`` of 30 items is known."""
    suites = folder / "own" / "benchmarks" / "suites"
    suites.mkdir(parents=True)
    (suites / f"{SUITE}.yaml").write_text("# Some items.\nkind: lm_eval\ntasks: [tinyworld_arithmetic]\nmetric: acc\nreport: 30\n")
    monkeypatch.setenv("HARNESS_PATH", str(folder / "own"))
    monkeypatch.chdir(folder)
    return folder


def model_of(*, adapter: bool = False) -> Any:
    """The smallest model, which drops attention in training; or with an adapter that drops."""
    seed_torch(0)
    model: Any = composition.member("model", "nursery-smoke-a").load()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2
    model.train()
    if adapter:
        return get_peft_model(model, LoraConfig(r=2, lora_dropout=0.2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    return model


def trainer_of(words: PreTrainedTokenizerBase, *, model: Any = None, held_out: Any = None, **settings: Any) -> Any:
    """A Trainer on rows of the words: 12 rows, batches of 4, two epochs of three steps."""
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in (words.encode(f"{text} .")[:8] for text in TEXTS)])
    given: dict[str, Any] = {"output_dir": "out", "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 3}
    given |= {"report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "use_cpu": True} | settings

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": words.pad_token_id or 0, "labels": -100}
        return {key: torch.tensor([row[key] + [pad] * (longest - len(row[key])) for row in rows]) for key, pad in fill.items()}

    arguments = TrainingArguments(**given)
    return Trainer(model or model_of(), arguments, collate, rows, held_out, processing_class=words)


class Scripted:
    """A run that measures nothing, and says what a test wants."""

    def __init__(self, says: Callable[[int], Outcome] | None = None) -> None:
        self.says = says or (lambda step: Outcome(values={"s": step / 10}, line=f"step {step}: measured"))
        self.steps: list[int] = []

    def measure(self, step: int, model: Any, optimizer: Any, **known: Any) -> Outcome:
        self.steps.append(step)
        return self.says(step)


def losses(trainer: Any) -> list[Any]:
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def train(trainer: Any, **given: Any) -> Any:
    """Train with random streams of their own beginning."""
    with untouched_global_streams():
        seed_torch(7)
        trainer.train(**given)
    return trainer


def assert_same(one: Any, other: Any) -> None:
    """Two trainings had the same losses, weights, optimizer and random streams."""
    assert losses(one) == losses(other)
    assert same(one.model.state_dict(), other.model.state_dict())
    optimizers: list[Any] = [one.optimizer, other.optimizer]
    assert same(*(optimizer.state_dict() for optimizer in optimizers))
