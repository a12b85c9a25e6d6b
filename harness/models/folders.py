"""Folders of models: on this machine, or fetched from the hub at a revision."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.config import paths
from harness.core import json_text
from harness.core.errors import ConfigError, ModelError, did_you_mean, explain, once_online
from harness.models.quiet import quiet
from harness.models.weights import ADAPTER, INDEX, file_sha256, first_line, without_weights

log = logging.getLogger(__name__)

CONFIG = "config.json"
SETTINGS = (CONFIG, "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""At least one of these makes a tokenizer."""

NEEDED = {"num_attention_heads", "num_key_value_heads", "num_heads", "n_head", "hidden_size", "n_embd", "vocab_size"}
"""Numbers of a config.json that are not 0, or else something is divided by it."""

MOST = {re.compile(r"(layer|block)s?$"): 4096, re.compile(r"(expert|label)s?$"): 65_536}
"""Largest number of parts that a config.json may ask for, by its key: transformers makes lists of
that length as it reads the file, and as many modules, before sizes are compared. Experts may be
rows of one weight."""


def split(name: str) -> tuple[str, str | None]:
    """Return the two parts of ``name@revision``; a path that exists is a name without a revision.

    Raises ConfigError for an empty part.
    """
    if "@" not in name or paths.expanded(name).exists():
        return name, None
    place, _, revision = name.rpartition("@")
    if not place or not revision:
        raise ConfigError(explain("model", got=f"'{name}'", allowed="NAME@REVISION, such as EleutherAI/pythia-160m@step1000"))
    return place, revision


def is_path(name: str) -> bool:
    """Return whether a name can only be a path: hub names have at most one slash."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def find(name: str, revision: str | None, *, weights: bool, code: bool) -> Path:
    """Return the folder with a model's or adapter's files, fetched from the hub if need be.

    Args:
        name: a folder or a hub name, without ``@revision``.
        revision: of the hub; None is the default branch.
        weights: whether weights are needed too.
        code: whether Python files are needed too.

    Raises:
        ModelError: if there is none, or it is neither a model nor an adapter.
    """
    local = paths.expanded(name)
    if local.is_dir():
        if revision is not None:
            raise ModelError(explain("model.revision", got=f"{revision} of the folder {name}", allowed="revisions of hub models"))
        if not _is_model(local):
            got, fix = without_weights(local, CONFIG)
            raise ModelError(explain("model.name", got=f"'{name}', {got}", allowed="a folder as save_pretrained writes it", fix=fix))
        _require_countable(name, local)
        return local
    if is_path(name):
        fix = "check the path; a relative one starts from the current directory"
        raise ModelError(explain("model.name", got=f"'{name}', not a directory", allowed="a folder or a hub name", fix=fix))
    patterns = [*SETTINGS, *TOKENIZER, ADAPTER, *([INDEX, "model*.safetensors", "adapter_*.safetensors"] if weights else [])]
    return _snapshot(name, revision, patterns + (["*.py"] if code else []))


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the folder of a hub model; its damaged files are fetched again.

    Raises ModelError.
    """
    from huggingface_hub import constants

    folder = _fetched(name, revision, patterns)
    if damaged := _damaged(folder, patterns):
        if not constants.HF_HUB_OFFLINE:
            for blob in damaged:
                log.warning("model %s: %s is damaged; fetched again", name, blob)
                blob.unlink()
            folder = _fetched(name, revision, patterns)
            damaged = _damaged(folder, patterns)
        if damaged:
            got, fix = f"{damaged[0]}, damaged since it was fetched", "delete that file and fetch it again, with the network"
            raise ModelError(explain(f"model {name}", got=got, allowed="files with the hub's hashes", fix=fix))
    if not _is_model(folder):
        raise ModelError(explain("model.name", got=f"'{name}' without {CONFIG}", allowed="a transformers model or a PEFT adapter"))
    _require_countable(name, folder)
    return folder


def _damaged(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of a snapshot whose content has another hash than their name in the cache.

    The hub's cache names large files by SHA-256, small ones by git's SHA-1. Files that are not
    links to such a name cannot be checked.
    """
    links = sorted(path for path in folder.glob("*") if path.is_symlink() and any(path.match(pattern) for pattern in patterns))
    return [blob for blob in (path.resolve() for path in links) if blob.is_file() and _hash_like(blob) not in {"", blob.name}]


def _hash_like(blob: Path) -> str:
    """Return the hash of a file of the kind that its name is; empty for another name."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return ""
    if len(blob.name) == 64:
        return file_sha256(blob)
    content = blob.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _fetched(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the folder of a snapshot with the files of these patterns. Raises ModelError."""
    with quiet():
        import huggingface_hub
        from huggingface_hub import constants

        offline = constants.HF_HUB_OFFLINE
        try:
            folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
        except (OSError, ValueError) as error:
            near = "" if "/" in name else did_you_mean(name, paths.members("conf/model"))
            fix = "check model.name and model.revision"
            fix = once_online(fix) if offline else f"{fix}, the network, and `hf auth login` for gated models"
            allowed = "a folder, or a hub model that is cached or can be fetched"
            reason = "not in the hub's cache" if offline else first_line(error)
            got, fix = f"'{name}'{f' at {revision}' if revision else ''} ({reason})", near or fix
            raise ModelError(explain("model.name", got=got, allowed=allowed, fix=fix)) from error
    return Path(folder)


def _require_countable(name: str, folder: Path) -> None:
    """Raise ModelError for a config.json that asks for no part, or for more than any model has.

    A file that cannot be read is reported where it is used.
    """
    try:
        values = json_text.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for key, value in _settings(values):
        allowed = "greater than 0" if key in NEEDED and value == 0 else ""
        most = next((number for pattern, number in MOST.items() if pattern.search(key)), math.inf)
        if isinstance(value, int | float) and value > most:
            allowed = f"at most {most}"
        if allowed:
            fix = "the config.json that its weights were saved with"
            raise ModelError(explain(f"model {name}: config.json: {key}", got=str(value)[:20], allowed=allowed, fix=fix))


def _settings(values: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a mapping, and of those inside it, each with its value."""
    waiting = [values]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting += found.values()


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / ADAPTER).is_file()


def small_files(folder: Path, *, code: bool) -> list[Path]:
    """Return the files other than weights that decide a model's outputs."""
    found = sorted(folder.glob("*.py")) if code else []
    return [folder / name for name in [*SETTINGS, *TOKENIZER] if (folder / name).is_file()] + found
