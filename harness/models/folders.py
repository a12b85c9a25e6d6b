"""Folders of models: on this machine, or fetched from the hub at a revision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.config import paths
from harness.core.errors import ConfigError, ModelError, explain
from harness.models.quiet import quiet
from harness.models.weights import ADAPTER, INDEX, first_line, without_weights

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
        return local
    if is_path(name):
        fix = "check the path; a relative one starts from the current directory"
        raise ModelError(explain("model.name", got=f"'{name}', not a directory", allowed="a folder or a hub name", fix=fix))
    patterns = [*SETTINGS, *TOKENIZER, ADAPTER, *([INDEX, "model*.safetensors", "adapter_*.safetensors"] if weights else [])]
    return _snapshot(name, revision, patterns + (["*.py"] if code else []))


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    with quiet():
        import huggingface_hub
        from huggingface_hub import constants

        offline = constants.HF_HUB_OFFLINE
        try:
            folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
        except (OSError, ValueError) as error:
            fix = "check model.name and model.revision"
            fix += ", or fetch it first: HF_HUB_OFFLINE is set" if offline else ", the network, and `hf auth login` for gated models"
            allowed = "a folder, or a hub model that is cached or can be fetched"
            got = f"'{name}'{f' at {revision}' if revision else ''} ({first_line(error)})"
            raise ModelError(explain("model.name", got=got, allowed=allowed, fix=fix)) from error
    if not _is_model(Path(folder)):
        raise ModelError(explain("model.name", got=f"'{name}' without {CONFIG}", allowed="a transformers model or a PEFT adapter"))
    return Path(folder)


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / ADAPTER).is_file()


def small_files(folder: Path, *, code: bool) -> list[Path]:
    """Return the files other than weights that decide a model's outputs."""
    found = sorted(folder.glob("*.py")) if code else []
    return [folder / name for name in [*SETTINGS, *TOKENIZER] if (folder / name).is_file()] + found
