"""Cost of imports: reading records needs no torch, and help imports the standard library only."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import harness.analysis
import harness.config
import harness.core
import harness.records
import harness.report

HEAVY = ("torch", "transformers", "peft", "lm_eval", "datasets", "accelerate", "tokenizers")
ROOMS = (harness.analysis, harness.config, harness.core, harness.records, harness.report)
READERS = ["harness.cli.app"] + [module.name for room in ROOMS for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]

WITHOUT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module(name)
"""


def python(script: str, folder: Path) -> str:
    """Run a script in a new process and return its output."""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def checkout() -> Path:
    return Path(harness.__file__).resolve().parent.parent


def test_analysis_and_reports_work_without_torch(checkout: Path) -> None:
    """Every module that reads records can be imported without the heavy libraries."""
    python(WITHOUT.format(absent=HEAVY, modules=READERS), checkout)


def test_help_imports_neither_torch_nor_hydra(checkout: Path) -> None:
    """The parser uses the standard library only."""
    absent = (*HEAVY, "hydra", "omegaconf", "pandas", "numpy", "yaml", "matplotlib", "rich")
    python(
        WITHOUT.format(absent=absent, modules=["harness.cli.app"])
        + "\nharness = sys.modules['harness.cli.app']\nharness.parser.parser(harness.COMMANDS).format_help()",
        checkout,
    )


def test_the_package_imports_the_standard_library_alone(checkout: Path) -> None:
    """Its names are imported when they are used; completion shows them."""
    absent = (*HEAVY, "hydra", "omegaconf", "pandas", "numpy", "yaml", "matplotlib", "rich", "scipy")
    script = "\nimport harness\nassert {*harness.__all__} == {*dir(harness)}\nprint(harness.load.__name__, harness.train.__name__)"
    assert python(WITHOUT.format(absent=absent, modules=["harness"]) + script, checkout).split() == ["load", "train"]


def test_composing_imports_nothing_heavy(checkout: Path) -> None:
    """A typo is reported as fast as yaml is read."""
    script = f"import sys; from harness.config.composition import compose; compose([]); print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python(script, checkout).strip() == "['lm_eval']"  # only its registry, in which `prefix` is registered


def test_the_callback_imports_transformers_and_the_standard_library(checkout: Path) -> None:
    """A training's script gets nothing else by importing and making it."""
    script = (
        "import sys\nfrom transformers import TrainerCallback\nbefore = set(sys.modules)\nfrom harness import ForgettingCallback\n"
        "ForgettingCallback(['blimp'], every=10, stop_at={'blimp': 0.05})\n"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    assert python(script, checkout).strip() == "{'harness'}"
