"""Commands of the base installation, with the packages of every extra blocked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.cli import app
from harness.core.extras import PACKAGES
from tests.support import base_commands

BLOCKED = {*PACKAGES["train"], "huggingface_hub"}

SCRIPT = """
import contextlib, io, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from harness.cli import app

found = {{}}
for name, arguments in {commands!r}.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = app.main(arguments)
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = repr(error)
    found[name] = code, out.getvalue(), err.getvalue()
print(json.dumps(found))
"""

MISSING = {
    "run": ["run"],
    "sweep": ["sweep", "experiment=tiny"],
    "mix": ["mix", "data=new.jsonl", "anchor=old.jsonl"],
    "plan": ["plan", "experiment=tiny"],
    "prefetch": ["prefetch", "experiment=tiny"],
    "show-data": ["show-data", "mitigation=self_output"],
    "check-method": ["check-method", "l2.L2"],
    "prompt": ["prompt", "tinyworld"],
    "measure": ["measure", "nursery-s", "out"],
    "watch": ["watch", "nursery-s", "out"],
    "compare of two models": ["compare", "nursery-s", "nursery-m", "--suites", "tinyworld"],
}

Outcome = tuple[int | str, str, str]
"""Exit code or exception, standard output, standard error."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What every command did, in one process."""
    folder = tmp_path_factory.mktemp("base")
    base_commands.inputs(folder)
    script = SCRIPT.format(blocked=BLOCKED, commands={"help": ["--help"], **base_commands.COMMANDS, **MISSING})
    environment = {**os.environ, "PYTHONPATH": str(Path(harness.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["help", *base_commands.COMMANDS])
def test_a_command_that_reads_needs_no_extra(outcomes: dict[str, Outcome], name: str) -> None:
    """It ends with 0, without a warning, and prints what it found."""
    code, out, err = outcomes[name]
    assert code == 0, (code, err)
    assert base_commands.WRITTEN.get(name, "") in out
    assert "Warning" not in err


@pytest.mark.parametrize("name", MISSING)
def test_a_command_without_its_extra_says_what_to_install(outcomes: dict[str, Outcome], name: str) -> None:
    """One line, exit code 2, with the extra of the command."""
    code, out, err = outcomes[name]
    assert (code, out, err.count("\n")) == (2, "", 1)
    extra = app.EXTRAS.get(name, "measure")
    assert err.startswith(f"harness: {name}: needs torch, transformers, ")
    assert err.endswith(f"which are not installed; fix: pip install -e '.[{extra}]', in the checkout of forgetting-harness\n")
    assert ("trl" in err) == (extra == "train")


def test_every_command_is_run_here() -> None:
    """A new command is sorted: it needs an extra, or works without."""
    assert {*app.EXTRAS, *(arguments[0] for arguments in base_commands.COMMANDS.values())} == set(app.COMMANDS)
    assert {*app.EXTRAS, "compare of two models"} == set(MISSING)
