"""Members of conf/model, loaded by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from harness.core.errors import ConfigError
from harness.models import loading
from harness.models.hub import HubModel
from harness.models.loading import load_member, member
from tests.support import tiny


def test_a_member_comes_with_its_tokenizer_and_context() -> None:
    """In float32, in evaluation mode, on the device asked for."""
    found = load_member("nursery-smoke-a", "cpu")
    assert found.source == member("nursery-smoke-a")
    assert not found.model.training
    assert (found.model.device, found.model.dtype) == (torch.device("cpu"), torch.float32)
    assert len(found.tokenizer) == found.model.config.vocab_size
    assert found.longest_input == found.source.longest_input()


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (["nursery-s"], "model: got 'nursery-smoke-a'; allowed: nursery-s; fix: add nursery-smoke-a to the method's models"),
        ([], "allowed: none but the start model"),
    ],
)
def test_a_model_that_the_method_does_not_name_is_rejected(allowed: list[str], message: str) -> None:
    """One line, with the names that are allowed."""
    with pytest.raises(ConfigError, match=message):
        load_member("nursery-smoke-a", allowed=allowed)


def test_a_model_that_is_not_in_conf_is_rejected() -> None:
    """Before anything is loaded."""
    with pytest.raises(ConfigError, match="nursery-smoke-a"):
        member("nursery-smoke-z")


def test_a_file_that_is_overwritten_leaves_the_loaded_model_as_it_is(tmp_path: Path) -> None:
    """Transformers maps files into memory: one saved again in place would replace live weights."""
    saved = tiny.llama()
    saved.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = loading.load(HubModel(name=str(tmp_path)))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)
    before = [value.detach().clone() for value in model.parameters()]
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes())
    assert all(torch.equal(value, expected) for value, expected in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(("device", "mapped"), [("cuda", [{"": "cuda"}]), ("cpu", [None])])
def test_weights_go_from_their_file_straight_onto_a_gpu(
    device: str, mapped: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers is asked for it. The CPU takes the part of the GPU here: CUDA was not run."""
    tiny.llama().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    source, asked = HubModel(name=str(tmp_path)), list[Any]()
    expected = source.load()
    real: Any = AutoModelForCausalLM.from_pretrained

    def onto_the_cpu(*given: Any, **named: Any) -> Any:
        asked.append(named.pop("device_map", None))
        return real(*given, **named, **({"device_map": {"": "cpu"}} if asked[-1] else {}))

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", onto_the_cpu)
    monkeypatch.setattr(LlamaForCausalLM, "to", lambda self, place: self)
    found = loading.load(source, device)
    assert asked == mapped
    for name in ("named_parameters", "named_buffers"):
        assert tiny.same(dict(getattr(found, name)()), dict(getattr(expected, name)()))
