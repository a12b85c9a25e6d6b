"""Extras of the installation: packages that only some commands need."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Literal

from harness.core.errors import InstallError

Extra = Literal["measure", "train", "inspect"]

_MEASURE = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "datasets": "datasets",
    "lm_eval": "lm-eval",
    "peft": "peft",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "filelock": "filelock",
    "rich": "rich",
}

PACKAGES: Mapping[Extra, Mapping[str, str]] = {
    "measure": _MEASURE,
    "train": _MEASURE | {"accelerate": "accelerate", "safetensors": "safetensors", "trl": "trl"},
    "inspect": {"zipfile_zstd": "zipfile-zstd"},
}
"""Extra → module that is imported → package that has it."""

INSTALL = "pip install -e '.[{extra}]', in the checkout of forgetting-harness"
"""What a user types for an extra: no package index has this project."""


def require(command: str, extra: Extra) -> None:
    """Check, without importing anything, that the packages of an extra are installed.

    Args:
        command: name of the command that needs them.
        extra: the extra that has them.

    Raises:
        InstallError: names the missing packages, and how to install them.
    """
    missing = [package for module, package in PACKAGES[extra].items() if not _is_installed(module)]
    if missing:
        names = f"{', '.join(missing[:-1])} and {missing[-1]}, which are" if len(missing) > 1 else f"{missing[0]}, which is"
        raise InstallError(f"{command}: needs {names} not installed; fix: {INSTALL.format(extra=extra)}")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a broken or half-removed package
        return False
