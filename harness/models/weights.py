"""Weight files: their list, their integrity, and hashes of files and of live models."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import paths
from harness.core.errors import ModelError, explain
from harness.models import anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model, by name.

    Raises ModelError without any, or where some of several are missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".gguf", ".safetensors"})
        got = f"no {WEIGHTS} in {folder}" + (f", only {', '.join(others[:3])}" if others else "")
        fix = "convert with save_pretrained, which writes safetensors"
        raise ModelError(explain("model", got=got, allowed="safetensors only: loading a pickled .bin can run any code", fix=fix))
    try:
        mapping: Mapping[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
        files = [folder / name for name in sorted(set(mapping.values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = explain(str(folder / INDEX), got=first_line(error), allowed="a safetensors index", fix="fetch it again")
        raise ModelError(message) from error
    if missing := [file.name for file in files if not file.is_file()]:
        got = f"{len(missing)} of {len(files)} weight files missing, the first is {missing[0]}"
        raise ModelError(explain("model", got=got, allowed="all of them", fix="fetch the model again"))
    return files


def check_safetensors(file: Path) -> None:
    """Raise ModelError for a safetensors file with a broken header or another size.

    Format: 8 bytes little-endian header length N, N bytes of JSON (name → dtype, shape,
    data_offsets), then the tensors' bytes.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        end = max((int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0)
        if not end:
            raise ValueError("it holds no weights")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        got = f"a broken safetensors file ({first_line(error)})"
        raise ModelError(explain(str(file), got=got, allowed="a complete one", fix="fetch or save it again")) from error
    if (size := file.stat().st_size) != (expected := 8 + length + end):
        got = f"{size} bytes: the file was cut off or damaged"
        raise ModelError(explain(str(file), got=got, allowed=f"{expected} bytes, by its header", fix="fetch or save it again"))


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
        values = json.loads(store.read_text())
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
