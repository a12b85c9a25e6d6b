"""Output folders of trainers elsewhere, without a training: small files of the right form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FLOATS = 4


def safetensors(value: int = 0, name: str = "w") -> bytes:
    """The bytes of a safetensors file with one float32 tensor, all bytes of it ``value``."""
    header = json.dumps({name: {"dtype": "F32", "shape": [FLOATS], "data_offsets": [0, 4 * FLOATS]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([value]) * 4 * FLOATS


def state(step: int, planned: int = 30, **more: Any) -> str:
    """A trainer_state.json, as transformers 5 writes it."""
    control = {"args": {"should_training_stop": step >= planned}, "attributes": {}}
    fields: dict[str, Any] = {
        "global_step": step,
        "max_steps": planned,
        "train_batch_size": 4,
        "num_input_tokens_seen": 0,
        "log_history": [{"step": step, "loss": 2.5, "num_tokens": 100.0 * step}],
        "stateful_callbacks": {"TrainerControl": control},
    }
    return json.dumps(fields | more)


def checkpoint(root: Path, step: int, *, kind: str = "model", value: int = 0, with_state: bool = True, **more: Any) -> Path:
    """Write checkpoint-STEP in the trainer's order: settings, weights, index, ..., state last.

    Args:
        root: the output folder.
        step: of the checkpoint.
        kind: model, shards or adapter.
        value: every byte of its weights.
        with_state: whether trainer_state.json is written.
        more: fields of trainer_state.json.
    """
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    weights(folder, kind, value)
    (folder / "training_args.bin").write_bytes(b"a pickle, never loaded")
    (folder / "rng_state.pth").write_bytes(b"random")
    if with_state:
        (folder / "trainer_state.json").write_text(state(step, **more))
    return folder


def weights(folder: Path, kind: str = "model", value: int = 0) -> None:
    """Write settings and weights of a model, a model in two shards, or an adapter."""
    if kind == "adapter":
        (folder / "adapter_model.safetensors").write_bytes(safetensors(value))
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
        return
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    if kind == "model":
        (folder / "model.safetensors").write_bytes(safetensors(value))
        return
    names = [f"model-0000{one}-of-00002.safetensors" for one in (1, 2)]
    for one, name in enumerate(names):
        (folder / name).write_bytes(safetensors(value, f"w{one}"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {f"w{one}": name for one, name in enumerate(names)}}))
