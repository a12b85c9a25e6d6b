"""Weight files: their list, their integrity, and hashes of files and of live models."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import paths
from harness.core import json_text
from harness.core.errors import ModelError, explain
from harness.core.files import write_text
from harness.models import anatomy

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
"""Settings of a PEFT adapter, which make a folder one."""

SAFE = "safetensors only: loading a pickled .bin can run any code"
UNQUANTISED = "model=NAME of the model that was quantised (base_model of its card), or save it dequantised"
QUANTISED = re.compile(r"\.(SCB|absmax|nested_absmax|quant_map|quant_state|qweight|qzeros|weight_scale|weight_scale_inv)(\.|$)")
"""Names of tensors that quantisation leaves next to weights (bitsandbytes, GPTQ, AWQ, fp8)."""

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of a value, by its dtype in a safetensors file."""


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
        mapping: Mapping[str, str] = json_text.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
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
    whole = f"{folder}-merged"
    if shards := [path.parent for path in [*folder.glob("*.distcp"), *folder.glob("*/*.distcp")] if "optimizer" not in path.parent.name]:
        fix = f"accelerate merge-weights {shards[0]} {whole}, and copy its base's config.json there"
        return f"an FSDP checkpoint in shards (.distcp), without {lacks}", fix
    if any(folder.glob("global_step*")):
        fix = f"python {folder}/zero_to_fp32.py {folder} {whole} --safe_serialization, and copy its config.json there"
        return f"a DeepSpeed checkpoint in shards, without {lacks}", fix
    if found := numbered(folder):
        fix = f"name one of them, such as {found[-1]}; or harness measure BASE {folder}, for all"
        return f"a directory without {lacks}, of {len(found)} checkpoints", fix
    if any(folder.glob("model-*-of-*.safetensors")):
        return f"shards of a model without {INDEX}", "save or copy it again: trainers write the index last"
    if any(folder.glob("adapter_model.*")) and not (folder / ADAPTER).is_file():
        return f"an adapter without {ADAPTER}", "save or copy it again: PEFT writes this file last"
    others = sorted(path.name for path in folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".gguf", ".safetensors"})
    got = f"a directory without {lacks}" + (f", only {', '.join(others[:3])}" if others else "")
    if not others:
        return got, "check the path"
    if any(name.endswith(".gguf") for name in others):
        return got, "the safetensors files that it was converted from"
    return got, in_python("AutoModelForCausalLM", str(folder), f"{folder}-safetensors")


def in_python(cls: str, source: str, folder: str) -> str:
    """Return a command that loads with a class of transformers and saves into a folder."""
    return f'python -c "from transformers import {cls} as A; A.from_pretrained({source!r}).save_pretrained({folder!r})"'


NUMBERED = re.compile(r"checkpoint-(\d+)")


def numbered(folder: Path) -> list[Path]:
    """Return the folders ``checkpoint-N`` of an output folder by number, without links."""
    found = [path for path in folder.iterdir() if NUMBERED.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def check_safetensors(file: Path) -> Mapping[str, Any]:
    """Return the tensors of a safetensors file, by name: dtype, shape, data_offsets.

    Format: 8 bytes little-endian header length N, N bytes of JSON (name → dtype, shape,
    data_offsets), then the tensors' bytes, without gaps.

    Raises ModelError for a broken header, shapes, dtypes or offsets that contradict each other,
    another size, and quantised weights.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json_text.loads(stream.read(length))
        _check_metadata(header.pop("__metadata__", None))
        end = _end_of_tensors(header)
        quantised = [name for name, entry in header.items() if _is_quantised(name, entry["dtype"])]
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


def _check_metadata(values: Any) -> None:
    """Raise ValueError unless the metadata of a safetensors file are texts, or absent."""
    if values is not None and not (isinstance(values, dict) and all(isinstance(value, str) for value in values.values())):
        raise ValueError("__metadata__ is not a mapping of texts")


def _end_of_tensors(header: Mapping[str, Any]) -> int:
    """Return the number of bytes of all tensors.

    Raises ValueError, KeyError or TypeError unless each is as long as its shape and dtype say, and
    begins where the one before it ends.
    """
    end = 0
    for name, entry in sorted(header.items(), key=lambda one: one[1]["data_offsets"]):
        dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in BITS:
            raise ValueError(f"tensor {name} has the unknown dtype {dtype!r}")
        if not isinstance(shape, list) or not all(type(value) is int and value >= 0 for value in (*shape, begin, stop)):
            raise ValueError(f"tensor {name} has a shape or offsets that are not counts")
        if begin != end:
            raise ValueError(f"tensor {name} begins at byte {begin}, where {end} is the end of the one before it")
        if 8 * (stop - begin) != (bits := math.prod(shape) * BITS[dtype]):
            raise ValueError(f"tensor {name} has {stop - begin} bytes, but {dtype} of shape {shape} takes {bits / 8:g}")
        end = stop
    if not end:
        raise ValueError("it holds no weights")
    return end


def _is_quantised(name: str, dtype: str) -> bool:
    """Return whether a tensor is a weight of few bits, or belongs to one."""
    return QUANTISED.search(name) is not None or (name.endswith(".weight") and not dtype.startswith(("F", "BF")))


def file_sha256(file: Path) -> str:
    """Return a file's SHA-256, cached: hashing gigabytes at every start would take minutes.

    Key of the cache: path, size, inode and times of change.
    """
    real = file.resolve()
    status = real.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    def make() -> Any:
        with real.open("rb") as stream:
            return {"state": state, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}

    return str(_cached("hashes", str(real), make, lambda known: known["state"] == state)["sha256"])


def state_sha256(model: PreTrainedModel) -> str:
    """Return the SHA-256 of a live model's weights and buffers, with their names and shapes.

    It takes about half a second per gigabyte.
    """
    return _sha256(model.state_dict(), hashlib.sha256())


def trained_sha256(model: PreTrainedModel, start: str) -> str:
    """Return the SHA-256 of a live model's trainable weights, and of a hash of where they started.

    With an adapter, it reads the adapter alone.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return _sha256(trained, hashlib.sha256(start.encode()))


def _sha256(values: Mapping[str, torch.Tensor], digest: hashlib._Hash) -> str:
    import torch

    for name, value in values.items():
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

    def make() -> dict[str, Any]:
        model = build()
        return {"params_total": sum(parameter.numel() for parameter in model.parameters()), **anatomy.described(model)}

    known: dict[str, Any] = _cached("sizes", key, make)
    return known | {"blocks": tuple(known["blocks"])}


def _cached(name: str, key: str, make: Callable[[], Any], is_current: Callable[[Any], bool] | None = None) -> Any:
    """Return an entry of a file in the cache folder; one that is missing or damaged is made again.

    Args:
        name: of the file, without ``.json``.
        key: of the entry.
        make: returns the entry, in plain values.
        is_current: whether a stored entry is still right; None is always.
    """
    store = paths.cache() / f"{name}.json"
    known = _entries(store).get(key)
    if isinstance(known, list) and len(known) == 2 and known[1] == _digest(known[0]) and (is_current is None or is_current(known[0])):
        return known[0]
    found = make()
    try:
        write_text(store, json.dumps({**_entries(store), key: [found, _digest(found)]}, indent=1, sort_keys=True))
    except OSError as error:
        log.warning("the cache of %s cannot be written: %s", name, error)
    return found


def _entries(store: Path) -> dict[str, Any]:
    try:
        values = json_text.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged: it is only a cache
        return {}
    return values if isinstance(values, dict) else {}


def _digest(entry: Any) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


def first_line(error: Exception) -> str:
    """Return a library's error as one line, of two where the first only announces the second."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
