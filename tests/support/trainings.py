"""Output folders of trainers elsewhere, without a training: small files of the right form."""

from __future__ import annotations

import json
import shutil
import sys
import time
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


def rotate(out: Path, template: Path, saves: int, gap: float = 0.0) -> None:
    """Save checkpoints as fast as possible and delete the one before, as save_total_limit=1 does.

    Args:
        out: the output folder.
        template: a complete checkpoint, whose files are written again, weights with another value.
        saves: number of checkpoints, 10 steps apart.
        gap: seconds between two saves.

    Raises:
        AssertionError: where a deletion leaves anything, or something else wrote into the folder.
    """
    order = sorted(template.iterdir(), key=lambda file: (file.name == "trainer_state.json", "safetensors" in file.name, file.name))
    for save in range(1, saves + 1):
        folder = out / f"checkpoint-{10 * save}"
        folder.mkdir(parents=True)
        for file in order:
            content = state(10 * save, 10 * saves).encode() if file.name == "trainer_state.json" else file.read_bytes()
            if file.suffix == ".safetensors":  # of the last weight, the byte that matters least
                content = content[:-4] + bytes([save % 256]) + content[-3:]
            (folder / file.name).write_bytes(content)
        for old in out.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        assert sorted(path.name for path in out.iterdir()) == [folder.name]
        assert sorted(path.name for path in folder.iterdir()) == sorted(file.name for file in order)
        time.sleep(gap)


if __name__ == "__main__":
    rotate(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
