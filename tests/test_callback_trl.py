"""The callback in TRL's trainers; also run with older releases of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from harness import ForgettingCallback
from harness.core.seeds import seed_torch
from tests.support import callbacks
from tests.support.callbacks import SUITE, TEXTS, assert_same, train

trl = pytest.importorskip("trl")

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

ADAPTER: dict[str, Any] = {"r": 2, "lora_dropout": 0.2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
ROWS = {
    "sft": [{"text": f"{text} ."} for text in TEXTS],
    "dpo": [{"prompt": "the cat sees", "chosen": f" {text}", "rejected": " a"} for text in TEXTS],
    "grpo": [{"prompt": text} for text in TEXTS],
}
COMMON: dict[str, Any] = {
    "output_dir": "out",
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "seed": 3,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model in a folder: DPO loads its reference from there."""
    folder = tmp_path_factory.mktemp("model")
    callbacks.model_of().save_pretrained(folder)
    callbacks.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return callbacks.own_folder(tmp_path, monkeypatch)


def trainer_of(kind: str, weights: str, folder: Path, words: PreTrainedTokenizerBase, **settings: Any) -> Any:
    """A trainer on full weights, with the settings of an adapter, or with a model that has one."""
    seed_torch(0)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train()
    given: dict[str, Any] = {"model": model, "train_dataset": Dataset.from_list(ROWS[kind]), "processing_class": words}
    if weights == "a PeftModel":
        given["model"] = get_peft_model(model, LoraConfig(**ADAPTER))
    elif weights == "peft_config":
        given["peft_config"] = LoraConfig(**ADAPTER)
    if kind == "sft":
        return trl.SFTTrainer(args=trl.SFTConfig(**COMMON | settings, max_length=16), **given)
    if kind == "dpo":
        return trl.DPOTrainer(args=trl.DPOConfig(**COMMON, max_length=16), **given)
    args = trl.GRPOConfig(**COMMON, num_generations=2, max_completion_length=4)
    return trl.GRPOTrainer(args=args, reward_funcs=_length, **given)


def _length(completions: list[str], **_: Any) -> list[float]:
    """A reward: as different as the answers are long."""
    return [float(len(text)) for text in completions]


CASES = [
    ("sft", "full"),
    ("sft", "peft_config"),
    ("dpo", "full"),
    ("dpo", "peft_config"),
    ("dpo", "a PeftModel"),
    ("grpo", "full"),
    ("grpo", "peft_config"),
]


@pytest.mark.parametrize(("kind", "weights"), CASES)
def test_a_training_is_the_same_to_the_bit(kind: str, weights: str, saved: Path) -> None:
    """Losses, metrics of TRL, weights, optimizer, adapters; measured at 0, 2 and 4."""
    without, with_it = (trainer_of(kind, weights, saved, callbacks.tokenizer()) for _ in range(2))
    ForgettingCallback([SUITE], every=2).attach(with_it)
    trained = {name: one.requires_grad for name, one in with_it.model.named_parameters()}
    adapter = getattr(with_it.model, "active_adapter", None)
    for trainer in (without, with_it):
        train(trainer)
    assert [entry["step"] for entry in with_it.state.log_history if f"eval_forgetting_{SUITE}" in entry] == [0, 2, 4]
    assert_same(without, with_it)
    assert {name: one.requires_grad for name, one in with_it.model.named_parameters()} == trained
    assert getattr(with_it.model, "active_adapter", None) == adapter
    logged = [[sorted(entry) for entry in trainer.state.log_history if "loss" in entry] for trainer in (without, with_it)]
    assert logged[0] == logged[1]


@pytest.mark.parametrize("weights", ["full", "peft_config"])
def test_with_checkpointed_activations_and_half_precision_too(weights: str, saved: Path) -> None:
    """Forward passes are in bfloat16 inside the model; what its layers keep is computed again."""
    settings = {"gradient_checkpointing": True, "bf16": True}
    without, with_it = (trainer_of("sft", weights, saved, callbacks.tokenizer(), **settings) for _ in range(2))
    ForgettingCallback([SUITE], every=2).attach(with_it)
    for trainer in (without, with_it):
        train(trainer)
    assert_same(without, with_it)
