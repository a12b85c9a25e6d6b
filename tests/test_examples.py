"""Each example, run as examples/README.md shows it: its command, and the output one sees."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.cli import app, new
from harness.evaluation import task_index
from tests.support import notebook

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TEXT = (EXAMPLES / "README.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^## (\w+)\n.*?```sh\n(.*?```\n\n```\n.*?)```", TEXT, flags=re.DOTALL | re.MULTILINE))
"""Example → its command and the output, divided by fences."""

CODES = {"gate": 1}
"""Example → exit code of its command, where it is not 0."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a checkout, whose results are none yet."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("examples", "harness"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", [*sys.path])
    task_index._ours.cache_clear()
    yield
    task_index._ours.cache_clear()


def executed(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command as a shell would, in this process but for a sweep."""
    words = shlex.split(command.replace("\\\n", " "))
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    program, *arguments = words
    if program == "harness" and arguments[0] == "sweep":  # workers of this process may be older than its environment
        done = subprocess.run([sys.executable, "-m", "harness", *arguments], check=False, capture_output=True, text=True)
        sys.stdout.write(done.stdout)
        return done.returncode
    if program == "harness":
        return app.main(arguments)
    assert program == "python"
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


def without_numbers(text: str) -> list[str]:
    """Return the lines; numbers, which differ between machines, are one sign, and so is space."""
    return [" ".join(re.sub(r"[-+]?\d[\d.,]*", "#", line).split()) for line in text.splitlines()]


@pytest.mark.model
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_the_readme_shows(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line of it, but for the numbers; read_results reads the results of own_sweep."""
    command, _, output = SHOWN[name].partition("```\n\n```\n")
    if name == "read_results" and not Path("results/own_sweep").exists():
        executed(SHOWN["own_sweep"].partition("```")[0], monkeypatch)
    assert executed(command, monkeypatch) == CODES.get(name, 0)
    printed = without_numbers("\n".join(capsys.readouterr()).replace("\r", "\n"))
    assert [line for line in without_numbers(output) if line not in printed] == []


def test_every_folder_is_an_example_that_is_shown() -> None:
    assert set(SHOWN) == {path.name for path in EXAMPLES.iterdir() if path.is_dir()}


@pytest.mark.parametrize(("kind", "name", "folder"), [("suite", "sums", "own_task"), ("mitigation", "own_l1", "own_mitigation")])
def test_skeletons_are_what_the_command_writes(kind: str, name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`harness new` makes the example, so there is one text of each."""
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)  # imported by the run of the example
    assert new.new_command(kind, name, lambda _: None) == 0
    made, shown = ({path.relative_to(top): path.read_bytes() for path in files(top)} for top in (tmp_path, EXAMPLES / folder))
    assert made == shown


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_the_notebook_has_the_cells_of_the_script() -> None:
    """``python -m tests.support.notebook`` writes it again."""
    assert notebook.NOTEBOOK.read_text(encoding="utf-8") == notebook.made()


def test_the_workflow_of_the_gate_gates_these_logs() -> None:
    """Its inputs are those of the action, and its limit that of the command."""
    (job,) = yaml.safe_load((EXAMPLES / "gate" / "workflow.yml").read_text(encoding="utf-8"))["jobs"].values()
    given = job["steps"][-1]["with"]
    assert set(given) <= set(yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"])
    assert f"harness compare {given['before']} {given['after']} --max-loss {given['max-loss']}\n" in SHOWN["gate"]
