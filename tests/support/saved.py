"""Tiny models and adapters in folders, their logits by plain libraries, and by this project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.core.seeds import seed_torch, untouched_global_streams
from harness.models.hub import HubModel

ROWS = 12

IDS = torch.arange(10)[None]

EVERYTHING: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}


def words(count: int = ROWS, template: str | None = None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({chr(97 + i): i for i in range(count)}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="j", chat_template=template)


def llama(*, tied: bool = True, bias: bool = False, rows: int = ROWS, seed: int = 0) -> Any:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=rows, max_position_embeddings=64, tie_word_embeddings=tied, attention_bias=bias, initializer_range=0.5,
        bos_token_id=None, eos_token_id=9, **sizes,
    )  # fmt: skip
    with untouched_global_streams():
        seed_torch(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():  # biases begin at zero
            for name, weight in model.named_parameters():
                if name.endswith("bias"):
                    weight.normal_()
        return model


def put(model: Any, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    words(model.config.vocab_size).save_pretrained(folder)
    return folder


def plain(folder: Path, base: Path | None = None) -> torch.Tensor:
    """Logits of transformers, or of PEFT's unmerged adapter."""
    model: Any = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32)
    if base:
        model = PeftModel.from_pretrained(model, str(folder))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def ours(folder: Path, **settings: Any) -> torch.Tensor:
    source = HubModel(name=str(folder), **settings)
    facts, model = source.facts(), source.load()
    assert facts.params_total == sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def trained(base: Path, folder: Path, *, rows: int | None = None, dtype: Any = torch.float32, **settings: Any) -> Path:
    """Save an adapter whose every weight has moved."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with untouched_global_streams():
        seed_torch(1)
        if rows:
            model.resize_token_embeddings(rows, mean_resizing=False)
        adapted: Any = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight.add_(0.3 * torch.randn_like(weight))
    adapted.to(dtype).save_pretrained(str(folder))
    return folder


def resized(model: Any, rows: int) -> Any:
    model.resize_token_embeddings(rows)
    return model


def edited(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configured(folder: Path, **values: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | values))
    return folder


def changed(folder: Path, **values: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(json.loads((folder / "adapter_config.json").read_text()) | values))
    return folder
