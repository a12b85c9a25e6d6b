"""Mutated copies of input files: accepted, or rejected in one line; `make fuzz` tries more."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import mutations

CASES = {"logs": 16, "points": 16, "tasks": 8, "configuration": 16}
"""Of a kind; 4 of each other one."""


@pytest.mark.model
@pytest.mark.parametrize("name", mutations.KINDS)
def test_a_mutated_file_is_read_or_rejected_in_one_line(name: str, tmp_path: Path) -> None:
    """No command raises, prints a traceback, or rejects a file without a reason."""
    faults = []
    for number in range(CASES.get(name, 4)):
        (tmp_path / str(number)).mkdir()
        found = mutations.tried(name, number, tmp_path / str(number))
        faults += [f"{described}\n{outcome.fault}" for described, outcome in found if outcome.fault]
    assert faults == []


@pytest.mark.model
@pytest.mark.parametrize("number", range(10))
def test_a_real_command_rejects_as_one_in_this_process_does(number: int, tmp_path: Path) -> None:
    """Exit code and standard error are the same, of commands that need no model."""
    name = ("logs", "points")[number % 2]
    ((described, expected), *_) = mutations.tried(name, number, tmp_path)
    command = described.partition(": harness ")[2].replace("@", str(tmp_path)).split()
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command], env={**os.environ}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (expected.code, expected.err)


def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error without a message for users is reported with its case."""

    def broken(_: object) -> int:
        raise KeyError("roles")

    monkeypatch.setattr(mutations, "main", broken)
    ((described, found),) = mutations.tried("logs", 0, tmp_path)
    assert described.startswith("logs 0: ")
    assert "KeyError" in found.fault


@pytest.mark.parametrize("name", ["logs", "points", "configuration"])
def test_a_case_is_the_same_each_time(name: str, tmp_path: Path) -> None:
    """Its number decides the file and the change, of which there is one."""
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two", tmp_path / "right"):
        folder.mkdir()
        mutations.KINDS[name].write(folder)
        if folder.name != "right":
            mutations.mutate(sorted(path for path in folder.rglob("*") if path.is_file())[-1], random.Random(1))
        contents.append({file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()})
    assert contents[0] == contents[1]
    assert len([file for file, content in contents[2].items() if contents[0][file] != content]) == 1
