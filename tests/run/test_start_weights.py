"""The start weights of a run: a second copy in memory only where something reads it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import composition
from harness.core.errors import ModelError
from harness.core.progress import Silent
from harness.methods.tuning.lora import Lora
from harness.models.hub import HubModel
from harness.models.loading import StartWeights, load, member
from harness.run import execution, preparation
from harness.run.workspace import Workspace
from harness.training.step import StepTrainer
from tests.support import tensor_bytes, tiny

LOSS = "kind: likelihood\nmetric: nats_per_token\nreport: 4\nhigher_is_better: false\ndata: tinyworld-people\nsplit: test\n"


def bytes_in_steps(folder: Path, patch: pytest.MonkeyPatch, *overrides: str) -> list[int]:
    """Bytes of all tensors as each step begins, of a nursery model with a likelihood suite."""
    (folder / "benchmarks" / "suites").mkdir(parents=True)
    (folder / "benchmarks" / "suites" / "loss.yaml").write_text(LOSS)
    patch.chdir(folder)
    patch.setenv("HARNESS_PATH", str(folder))
    fixed = ["model=nursery-smoke-a", "data.volumes=[8,16]", "target_suites=[loss]", "probe_suites=[]", "name=a"]
    prepared = preparation.prepare(composition.compose([*fixed, "training.learning_rate=0.001", *overrides]), Workspace())
    found: list[int] = []
    step = StepTrainer.training_step

    def counted(*arguments: Any) -> Any:
        gc.collect()
        found.append(tensor_bytes.held(value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)))
        return step(*arguments)

    patch.setattr(StepTrainer, "training_step", counted)
    assert execution.execute(prepared, Silent()) == "done"
    return found


@pytest.mark.parametrize(
    ("tuning", "mitigation", "copies"),
    [("full", "none", 0), ("full", "l2", 1), ("lora", "none", 0), ("lora", "l2", 0)],
)
def test_a_second_copy_is_held_where_steps_read_it(
    tuning: str, mitigation: str, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first stop, which reads the start: one model, two moments, and the copies.

    LoRA trains A and B, and never reads the start. The rest (rows, constants) is below 1%.
    """
    source = member("nursery-smoke-a")
    model = tensor_bytes.held(load(source).state_dict().values())
    trained = 4 * Lora().trainable(source.facts()) if tuning == "lora" else model
    expected = (1 + copies) * model + 2 * trained + trained * (tuning == "lora")
    found = bytes_in_steps(tmp_path, monkeypatch, f"tuning={tuning}", f"mitigation={mitigation}")
    assert found[1] == pytest.approx(expected, rel=0.01)


def test_they_are_read_once_and_freed_unless_they_were_held() -> None:
    """Outside ``briefly`` the first read keeps them."""
    expected = load(member("nursery-smoke-a")).state_dict()
    start = StartWeights(member("nursery-smoke-a"))
    with start.briefly():
        assert tiny.same(dict(start), expected)
        first = start["model.norm.weight"]
        assert start["model.norm.weight"] is first
    held = [start.is_held]
    assert len(start) == len(expected)
    with start.briefly():
        held.append(start.is_held)
    assert [*held, start.is_held] == [False, True, True]


def test_a_step_that_reads_them_first_is_left_alone() -> None:
    """No random number is drawn, and none of them is a tensor of inference mode."""
    load(member("nursery-smoke-a"))
    start, before = StartWeights(member("nursery-smoke-a")), torch.get_rng_state()
    with torch.inference_mode():
        assert not start["model.norm.weight"].is_inference()
    assert torch.equal(torch.get_rng_state(), before)


def test_other_files_than_at_the_start_are_rejected(tmp_path: Path) -> None:
    """A change against other weights would be a wrong number."""
    tiny.llama().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    start = StartWeights(HubModel(name=str(tmp_path)))
    other = tiny.llama()
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="start weights: got other files than when the run started"):
        len(start)
