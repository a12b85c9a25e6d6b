"""constraints.txt pins all that is required; constraints-lowest.txt has the lower bounds."""

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
OPTIONAL = PROJECT["optional-dependencies"]
OWN = "forgetting-harness"
"""An extra that contains another one names this package."""


def required(*texts: str) -> list[Requirement]:
    """Return requirements of pyproject.toml, without this package."""
    return [found for found in map(Requirement, texts) if found.name != OWN]


def pinned(file: str) -> dict[str, str]:
    """Return package → its version in a file of constraints."""
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


DIRECT = required(*PROJECT["dependencies"], *OPTIONAL["measure"], *OPTIONAL["train"], *OPTIONAL["dev"])
PINS = pinned("constraints.txt")
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
    """pyproject.toml allows the version that the tests run with."""
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_lower_bounds_are_the_versions_that_were_tried() -> None:
    """`make test-install` runs with those of constraints-lowest.txt; torch alone has none there."""
    reading = required(*PROJECT["dependencies"], *OPTIONAL["measure"])
    bounds = {canonicalize_name(one.name): part.version for one in reading for part in one.specifier if part.operator == ">="}
    assert pinned("constraints-lowest.txt") == {name: version for name, version in bounds.items() if name != "torch"}
    assert len(bounds) == len(reading)


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
    assert [str(requirement) for requirement in DIRECT if requirement.name == "torch"] == ["torch>=2.6"]


def test_the_wheel_needs_no_cuda_package() -> None:
    """CUDA comes with the machine's build of torch."""
    assert [name for name in PINS if name.startswith(CUDA)] == []


def test_the_version_has_one_source() -> None:
    """pyproject.toml reads it from harness/__init__.py."""
    assert "version" in PROJECT["dynamic"]
    assert __version__.count(".") == 2


def test_the_environment_of_ray_has_the_same_pins() -> None:
    """Except for two packages whose versions Ray's launcher does not allow."""
    theirs = pinned("constraints-ray.txt")
    other = {name for name in theirs.keys() & PINS.keys() if theirs[name] != PINS[name]}
    assert other == {"cloudpickle", "joblib"}
    extra = required(*OPTIONAL["ray"])
    assert all(requirement.specifier.contains(theirs[canonicalize_name(requirement.name)]) for requirement in extra)


@pytest.mark.parametrize("extra", ["train", "ray", "slurm"])
def test_an_extra_that_trains_has_what_measuring_needs(extra: str) -> None:
    """One extra is enough for a command."""
    assert OPTIONAL[extra][0] == f"{OWN}[{'measure' if extra == 'train' else 'train'}]"


def test_the_base_has_no_model_library() -> None:
    """Reading results installs neither torch nor what brings it."""
    base, others = required(*PROJECT["dependencies"]), required(*OPTIONAL["measure"], *OPTIONAL["train"])
    assert {one.name for one in base}.isdisjoint(one.name for one in others)
