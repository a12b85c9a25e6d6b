"""Weight files: their list, their integrity, and hashes of files and of live models."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import paths
from harness.core import json_text
from harness.core.errors import ModelError, explain
from harness.models import anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
"""Settings of a PEFT adapter, which make a folder one."""

SAFE = "safetensors only: loading a pickled .bin can run any code"
UNQUANTISED = "the model that was quantised, or save it dequantised"
QUANTISED = re.compile(r"\.(SCB|absmax|nested_absmax|quant_map|quant_state|qweight|qzeros|weight_scale|weight_scale_inv)(\.|$)")
"""Names of tensors that quantisation leaves next to weights (bitsandbytes, GPTQ, AWQ, fp8)."""


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model, by name.

    Raises ModelError without any, where some of several are missing, and for files of two models.
    """
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    single = [WEIGHTS] if (folder / WEIGHTS).is_file() else []
    if not (folder / INDEX).is_file() and not single:
        got, fix = without_weights(folder, WEIGHTS)
        raise ModelError(explain(f"model {folder}", got=got, allowed=SAFE, fix=fix))
    names = _indexed(folder) if (folder / INDEX).is_file() else single
    if strays := sorted({*single, *shards} - {*names}):
        got = f"weights of two models: {names[0]}{' and others of its index' if len(names) > 1 else ''}, and {strays[0]}"
        raise ModelError(explain(f"model {folder}", got=got, allowed="one model", fix="delete the files of the other one"))
    if missing := [name for name in names if not (folder / name).is_file()]:
        got = f"{len(missing)} of {len(names)} weight files missing, the first is {missing[0]}"
        raise ModelError(explain("model", got=got, allowed="all of them", fix="fetch the model again"))
    return [folder / name for name in names]


def _indexed(folder: Path) -> list[str]:
    """Return the names of the files of an index. Raises ModelError."""
    try:
        mapping: Mapping[str, str] = json_text.loads((folder / INDEX).read_text())["weight_map"]
        names = sorted({str(name) for name in mapping.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = explain(str(folder / INDEX), got=first_line(error), allowed="a safetensors index", fix="fetch it again")
        raise ModelError(message) from error
    if not names:
        raise ModelError(explain(str(folder / INDEX), got="no weights", allowed="a safetensors index", fix="fetch it again"))
    return names


def without_weights(folder: Path, lacks: str) -> tuple[str, str]:
    """Return what a folder that lacks a file of a model holds in its place, and advice.

    Args:
        folder: as a trainer may leave it.
        lacks: the file.
    """
    if any(folder.glob("*.distcp")) or any(folder.glob("*/*.distcp")):
        return (
            f"an FSDP checkpoint in shards (.distcp), without {lacks}",
            "accelerate merge-weights, next to its config.json",
        )
    if any(folder.glob("global_step*")):
        return f"a DeepSpeed checkpoint in shards, without {lacks}", "its zero_to_fp32.py with --safe_serialization"
    if found := checkpoints(folder):
        return f"a directory without {lacks}, of {len(found)} checkpoints", f"name one of them, such as {found[-1]}"
    if any(folder.glob("model-*-of-*.safetensors")):
        return f"shards of a model without {INDEX}", "save or copy it again: trainers write the index last"
    if any(folder.glob("adapter_model.*")) and not (folder / ADAPTER).is_file():
        return f"an adapter without {ADAPTER}", "save or copy it again: PEFT writes this file last"
    others = sorted(path.name for path in folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".gguf", ".safetensors"})
    got = f"a directory without {lacks}" + (f", only {', '.join(others[:3])}" if others else "")
    return got, "convert with save_pretrained, which writes safetensors" if others else "check the path"


def checkpoints(folder: Path) -> list[str]:
    """Return the checkpoints of a trainer's output folder, the newest last."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name.partition("-")[2].isdigit()]
    return [str(path) for path in sorted(found, key=lambda path: int(path.name.partition("-")[2]))]


def check_safetensors(file: Path) -> Mapping[str, Any]:
    """Return the tensors of a safetensors file, by name: dtype, shape, data_offsets.

    Format: 8 bytes little-endian header length N, N bytes of JSON (name → dtype, shape,
    data_offsets), then the tensors' bytes.

    Raises ModelError for a broken header, another size, and quantised weights.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json_text.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        quantised = [name for name, entry in header.items() if _is_quantised(name, str(entry["dtype"]))]
        if not end:
            raise ValueError("it holds no weights")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        got = f"a broken safetensors file ({first_line(error)})"
        raise ModelError(explain(str(file), got=got, allowed="a complete one", fix="fetch or save it again")) from error
    if (size := file.stat().st_size) != (expected := 8 + length + end):
        got = f"{size} bytes: the file was cut off or damaged"
        raise ModelError(explain(str(file), got=got, allowed=f"{expected} bytes, by its header", fix="fetch or save it again"))
    if quantised:
        got = f"{len(quantised)} quantised tensors, the first is {quantised[0]}"
        raise ModelError(explain(str(file), got=got, allowed="weights as floating point", fix=UNQUANTISED))
    return header


def _is_quantised(name: str, dtype: str) -> bool:
    """Return whether a tensor is a weight of few bits, or belongs to one."""
    return QUANTISED.search(name) is not None or (name.endswith(".weight") and dtype in {"I8", "U8", "I32"})


def file_sha256(file: Path) -> str:
    """Return a file's SHA-256, cached: hashing gigabytes at every start would take minutes.

    Key of the cache: path, size, inode and times of change.
    """
    real = file.resolve()
    status = real.stat()
    key, state = str(real), [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    store = paths.cache() / "hashes.json"
    known = _read_hashes(store)
    if known.get(key, {}).get("state") == state:
        return str(known[key]["sha256"])
    with real.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _write_hashes(store, {**_read_hashes(store), key: {"state": state, "sha256": digest}})
    return digest


def state_sha256(model: PreTrainedModel) -> str:
    """Return the SHA-256 of a live model's weights and buffers, with their names and shapes.

    It takes about half a second per gigabyte.
    """
    import torch

    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sizes(described_by: Mapping[str, str], build: Callable[[], PreTrainedModel]) -> dict[str, Any]:
    """Return the sizes of a model that ``ModelFacts`` takes, cached.

    They are ``params_total``, ``linear``, ``parts``, ``blocks`` and ``embeddings``. Cached, since
    importing a model's code takes seconds.

    Args:
        described_by: hashes of the files that decide its shape.
        build: makes it on the meta device, where nothing is allocated.
    """
    described = json.dumps([dict(described_by), importlib.metadata.version("transformers"), "with blocks"], sort_keys=True)
    key = hashlib.sha256(described.encode()).hexdigest()
    store = paths.cache() / "sizes.json"
    known = _read_hashes(store).get(key)
    if known is None:
        model = build()
        known = {"params_total": sum(parameter.numel() for parameter in model.parameters()), **anatomy.described(model)}
        _write_hashes(store, {**_read_hashes(store), key: known})
    return known | {"blocks": tuple(known["blocks"])}


def _read_hashes(store: Path) -> dict[str, dict[str, Any]]:
    try:
        values = json_text.loads(store.read_text())
    except (OSError, ValueError):  # absent or damaged: it is only a cache
        return {}
    return values if isinstance(values, dict) else {}


def _write_hashes(store: Path, values: Mapping[str, Any]) -> None:
    temporary = store.with_name(f"{store.name}.{os.getpid()}.tmp")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(values, indent=1, sort_keys=True))
        temporary.replace(store)
    except OSError as error:
        log.warning("the cache of %s cannot be written: %s", store.stem, error)


def first_line(error: Exception) -> str:
    """Return a library's error as one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
