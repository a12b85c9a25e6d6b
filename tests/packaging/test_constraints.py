"""constraints.txt pins everything that pyproject.toml requires."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness import __version__

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
PINS = {
    canonicalize_name(name): version
    for name, version in (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#")
}
CUDA = ("nvidia-", "cuda-", "triton")
"""Dependencies of a CUDA build of torch, which pins their versions."""


def needed(requirement: Requirement, seen: set[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    """Yield the names of all packages that a requirement installs here, itself included."""
    key = (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
    if key in seen or key[0].startswith(CUDA):
        return
    seen.add(key)
    yield key[0]
    for text in importlib.metadata.requires(requirement.name) or []:
        further = Requirement(text)
        if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""})):
            yield from needed(further, seen)


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_a_pin_satisfies_its_bound(requirement: Requirement) -> None:
    """pyproject.toml allows the tested version, and its lower bound is that version."""
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin)
    lower = next(part.version for part in requirement.specifier if part.operator == ">=")
    assert pin == lower or pin.startswith(f"{lower}.")


def test_all_that_is_installed_is_pinned() -> None:
    """No version of an installation depends on its date."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    names = {name for requirement in DIRECT for name in needed(requirement, seen)}
    assert names - PINS.keys() == set()


def test_the_pins_hold_nothing_else() -> None:
    """Every pin is needed."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    names = {name for requirement in DIRECT for name in needed(requirement, seen)}
    assert PINS.keys() - names == set()


def test_torch_is_pinned_to_no_build() -> None:
    """`torch==2.13.0` takes the CPU build from an index that offers one; no bound forces either."""
    assert "+" not in PINS[canonicalize_name("torch")]
    assert [str(requirement) for requirement in DIRECT if requirement.name == "torch"] == ["torch>=2.13"]


def test_the_wheel_needs_no_cuda_package() -> None:
    """CUDA comes with the machine's build of torch."""
    assert [name for name in PINS if name.startswith(CUDA)] == []


def test_the_version_has_one_source() -> None:
    """pyproject.toml reads it from harness/__init__.py."""
    assert "version" in PROJECT["dynamic"]
    assert __version__.count(".") == 2


def test_the_environment_of_ray_has_the_same_pins() -> None:
    """Except for two packages whose versions Ray's launcher does not allow."""
    lines = [line for line in (ROOT / "constraints-ray.txt").read_text().splitlines() if line and line[0] != "#"]
    theirs = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    other = {name for name in theirs.keys() & PINS.keys() if theirs[name] != PINS[name]}
    assert other == {"cloudpickle", "joblib"}
    extra = [Requirement(text) for text in PROJECT["optional-dependencies"]["ray"]]
    assert all(requirement.specifier.contains(theirs[canonicalize_name(requirement.name)]) for requirement in extra)
