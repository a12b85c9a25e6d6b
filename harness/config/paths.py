"""Folders of configuration and benchmarks, shipped and the user's own, and of the caches."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core.errors import ConfigError, explain

TRUST_TASKS = "HARNESS_TRUST_TASKS"
"""Variable that is 1 if task files from anywhere are trusted, as with ``--trust-tasks``."""

_PACKAGE = Path(__file__).resolve().parent.parent


def expanded(path: str | Path) -> Path:
    """Return a path with the home directory in place of ``~`` or ``~user``. Raises ConfigError."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        got, fix = "a user without a known home directory", "write the whole path"
        raise ConfigError(explain(f"path '{path}'", got=got, allowed="~ or ~USER of this machine", fix=fix)) from error


def roots() -> list[Path]:
    """Return the folders that contain ``conf/`` and ``benchmarks/``, in search order.

    First those of ``$HARNESS_PATH`` (separated as in ``$PATH``), then the shipped one: inside the
    installed package, or next to it in a checkout.
    """
    own = [expanded(part).resolve() for part in os.environ.get("HARNESS_PATH", "").split(os.pathsep) if part]
    for folder in own:
        if not folder.is_dir():
            raise ConfigError(
                explain("HARNESS_PATH", got=f"'{folder}', not a directory", allowed="folders with conf/, benchmarks/ or modules")
            )
    return [*own, _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent]


def folders(kind: str) -> list[Path]:
    """Return the existing folders of a kind (such as ``conf/model``), the user's own first."""
    return [root / kind for root in roots() if (root / kind).is_dir()]


def members(kind: str) -> dict[str, Path]:
    """Return the yaml files in all folders of a kind, by their path inside, such as ``tiny``.

    Those of a subfolder are named with it, as Hydra names them: ``claims/size``. A user's file
    hides a shipped one of the same name.
    """
    found: dict[str, Path] = {}
    for folder in reversed(folders(kind)):
        found.update({path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")})
    return dict(sorted(found.items()))


def not_on_path(kind: str, name: str) -> str:
    """Return advice if the working folder has a member that HARNESS_PATH does not name.

    Args:
        kind: such as ``conf/model``; empty for a Python module.
        name: of the member or module.
    """
    found = (Path(kind, f"{name}.yaml"),) if kind else (Path(f"{name}.py"), Path(name, "__init__.py"))
    return "HARNESS_PATH=. in front of the command" if any(path.is_file() for path in found) and Path.cwd() not in roots() else ""


def cache() -> Path:
    """Return the cache folder.

    It is ``$HARNESS_CACHE``, else ``forgetting-harness`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if own := os.environ.get("HARNESS_CACHE"):
        return expanded(own).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (expanded(base) / "forgetting-harness").resolve()
