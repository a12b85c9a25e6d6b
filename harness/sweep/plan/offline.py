"""A context in which the hub's libraries use local files alone and report missing ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that the libraries read when they are imported."""

SETTINGS = {"huggingface_hub.constants": ("HF_HUB_OFFLINE",), "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
"""Module → its variables that keep the setting afterwards."""


@contextmanager
def offline() -> Iterator[None]:
    """Fetch nothing in this block, even if the libraries are imported already."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    kept = _settings()
    _set(dict.fromkeys(kept, True))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        was = (before["HF_HUB_OFFLINE"] or "").upper() in {"1", "ON", "YES", "TRUE"}
        _set({place: kept.get(place, was) for place in _settings()})


def _settings() -> dict[tuple[str, str], bool]:
    """Return the current settings of the imported libraries."""
    there = {module: sys.modules[module] for module in SETTINGS if module in sys.modules}
    return {(name, key): getattr(module, key) for name, module in there.items() for key in SETTINGS[name] if hasattr(module, key)}


def _set(values: dict[tuple[str, str], bool]) -> None:
    for (module, key), value in values.items():
        setattr(sys.modules[module], key, value)
