"""The GitHub action: its own steps, executed on this machine as a runner executes them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import lm_eval_logs

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
"""What ``shell: bash`` means on a runner."""

HARNESS = f"""#!/bin/sh
exec "{sys.executable}" -m harness "$@"
"""

RECORDER = """#!/bin/sh
for word; do echo "$word"; done > words.txt
for word; do case "$word" in --summary=*) echo "### Forgetting gate: undecided" > "${word#--summary=}";; esac; done
exit 3
"""


@dataclass(frozen=True)
class Step:
    """What a step did.

    Attributes:
        code: its exit code.
        log: what it printed.
        outputs: what it wrote into ``$GITHUB_OUTPUT``.
        summary: what it wrote into ``$GITHUB_STEP_SUMMARY``.
    """

    code: int
    log: str
    outputs: dict[str, str]
    summary: str


def executed(folder: Path, step: int, *, path: str = "", **inputs: str) -> Step:
    """Execute a step of the action in a folder, with inputs whose ``-`` is written ``_``."""
    given = {name: inputs.get(name.replace("-", "_"), values.get("default", "")) for name, values in ACTION["inputs"].items()}
    values = {f"inputs.{name}": value for name, value in given.items()} | {"github.action_path": "the action"}
    found: dict[str, Any] = ACTION["runs"]["steps"][step]
    assert found["shell"] == "bash"
    env = {name: re.sub(r"\$\{\{ (\S+) \}\}", lambda match: values[match[1]], text) for name, text in found["env"].items()}
    files = {name: folder / f".{name.lower()}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{folder / 'bin'}:{path or os.environ['PATH']}"} | env
    environment |= {name: str(file) for name, file in files.items()}
    (folder / "step.sh").write_text(found["run"])
    done = subprocess.run(
        [*BASH, "step.sh"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return Step(done.returncode, done.stdout, outputs, files["GITHUB_STEP_SUMMARY"].read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with logs of two models, of which the second has lost 5 points, and a harness."""
    lm_eval_logs.planted(tmp_path)
    program(tmp_path, "harness", HARNESS)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(text)
    (folder / "bin" / name).chmod(0o755)


@pytest.mark.model
def test_a_loss_fails_the_step_after_everything_is_written(folder: Path) -> None:
    """Outputs, summary of the job, summary for a comment, JUnit, page; and an annotation."""
    step = executed(folder, 1, before="before", after="after", max_loss="0.02")
    assert step.code == 1, step.log
    assert step.outputs == {
        "verdict": "fail",
        "exit-code": "1",
        "summary": "forgetting-gate/summary.md",
        "junit": "forgetting-gate/junit.xml",
        "page": "forgetting-gate/page/index.html",
    }
    assert step.summary.startswith("### Forgetting gate: fail\n")
    assert step.summary == (folder / step.outputs["summary"]).read_text()
    assert all((folder / step.outputs[name]).is_file() for name in ("junit", "page"))
    assert step.log.endswith("::error title=Forgetting gate::fail, exit code 1\n")
    assert set(step.outputs) == set(ACTION["outputs"])


@pytest.mark.model
def test_a_gate_that_passes_ends_with_0_and_limits_are_lines(folder: Path) -> None:
    step = executed(folder, 1, before="before", after="after", max_loss="0.2\n  colours=0.1 \n", output="out")
    assert (step.code, step.outputs["verdict"], step.outputs["summary"]) == (0, "pass", "out/summary.md")
    assert "gate at --max-loss 0.2, colours=0.1" in step.log
    assert "::error" not in step.log


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        pytest.param(
            {"before": "before", "after": "nowhere/at/all", "max_loss": "0.02"},
            "nowhere/at/all: got a path that does not exist",
            marks=pytest.mark.model,
        ),
        ({"before": "before", "after": "after"}, "max-loss: got nothing"),
        ({"before": "before", "max_loss": "0.02"}, "after: got nothing"),
        ({"after": "after", "max_loss": "0.02"}, "before: got nothing"),
        ({"before": "before", "after": "after", "max_loss": "0.02", "output": "a\nverdict=pass"}, "output: got no name or several lines"),
    ],
)
def test_an_error_is_no_verdict_and_says_why(folder: Path, inputs: dict[str, str], said: str) -> None:
    """Exit code 2, the reason in the summary and in an annotation; required inputs are checked."""
    step = executed(folder, 1, **inputs)
    assert (step.code, step.outputs["verdict"], step.outputs["junit"]) == (2, "error", "")
    assert said in step.log.splitlines()[-1]
    assert step.summary.startswith("### Forgetting gate: error\n")
    assert said in step.summary


def test_inputs_are_no_code(folder: Path) -> None:
    """Neither in an expression of the workflow nor in the shell."""
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]
    program(folder, "harness", RECORDER)
    executed(folder, 1, before="$(touch made)", after="`touch made`; touch made", max_loss="0.02")
    assert (folder / "words.txt").read_text().endswith("--\n$(touch made)\n`touch made`; touch made\n")
    assert not (folder / "made").exists()


@pytest.mark.parametrize("sides", [{"before": "base", "after": "-delete"}, {"before": "-delete", "after": "tuned"}])
def test_inputs_are_no_options(folder: Path, sides: dict[str, str]) -> None:
    (folder / "checkpoint-8").write_text("kept")
    program(folder, "harness", RECORDER)
    for step in (0, 1):
        (folder / "-delete").mkdir(exist_ok=True)
        done = executed(folder, step, max_loss="0.02", install="nothing" if step else "", **sides)
    assert (done.code, done.outputs["verdict"]) == (2, "error")
    assert (folder / "checkpoint-8").read_text() == "kept"


@pytest.mark.parametrize("after", ["one\ntwo\n", "trained"])
def test_checkpoints_are_measured(folder: Path, after: str) -> None:
    """Several lines, or a trainer's output folder; an exit code of 3 is undecided."""
    (folder / "trained" / "checkpoint-8").mkdir(parents=True)
    program(folder, "harness", RECORDER)
    step = executed(folder, 1, before="base", after=after, max_loss="0.02", suites="a,b", limit="50", overrides="evaluation.dtype=bfloat16")
    assert (step.code, step.outputs["verdict"], step.outputs["page"]) == (3, "undecided", "")
    options = ["--max-loss=0.02", "--summary=forgetting-gate/summary.md", "--junit=forgetting-gate/junit.xml", "--suites=a,b", "--limit=50"]
    assert (folder / "words.txt").read_text().split() == ["measure", *options, "--", "base", *after.split(), "evaluation.dtype=bfloat16"]


def test_an_exit_code_without_a_summary_is_an_error(folder: Path) -> None:
    """A command that was killed, or that does not exist, has decided nothing."""
    program(folder, "harness", "#!/bin/sh\necho broken at 5% >&2\nexit 1\n")
    step = executed(folder, 1, before="before", after="after", max_loss="0.02")
    assert (step.code, step.outputs["verdict"]) == (2, "error")
    assert "broken at 5%\n" in step.summary
    assert step.log.endswith("::error title=Forgetting gate::error, exit code 2: broken at 5%25\n")


@pytest.mark.parametrize(
    ("before", "install", "expected"),
    [
        ("before", "", "the action"),
        ("hub/model", "", "the action[measure]"),
        ("model", "", "the action[measure]"),
        ("logs", "", "the action[inspect]"),
        ("hub/model", "a-package==1", "a-package==1"),
    ],
)
def test_what_its_sides_need_is_installed_where_there_is_no_harness(folder: Path, before: str, install: str, expected: str) -> None:
    for name in ("model/config.json", "logs/one.eval"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{}")
    assert executed(folder, 0, before=before, install=install).log == ""
    (folder / "bin" / "harness").unlink()
    program(folder, "python", '#!/bin/sh\nfor word; do echo "$word"; done\n')
    step = executed(folder, 0, path="/usr/bin:/bin", before=before, install=install)
    assert step.log.splitlines() == ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", expected]


GH = """#!/bin/sh
echo "$*" >> calls.txt
case "$*" in *--paginate*) printf "%s" "$FOUND";; esac
"""


@pytest.mark.parametrize(
    ("found", "call"), [("", "api repos/o/r/issues/7/comments"), ("4\n9\n", "api -X PATCH repos/o/r/issues/comments/9")]
)
def test_the_example_edits_its_own_comment_or_makes_one(tmp_path: Path, found: str, call: str) -> None:
    """GitHub is asked for comments with the heading of a summary."""
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[0])["jobs"].values()
    (step,) = [one for one in job["steps"] if "PULL" in one.get("env", {})]
    program(tmp_path, "gh", GH)
    names = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "o/r", "PULL": "7", "SUMMARY": "s.md", "FOUND": found}
    subprocess.run([*BASH, "-c", step["run"]], cwd=tmp_path, env=os.environ | names, check=True)
    first, second = (tmp_path / "calls.txt").read_text().splitlines()
    assert 'startswith("### Forgetting gate")' in first
    assert second == f"{call} -F body=@s.md --silent"


def test_the_example_workflow_uses_inputs_and_outputs_that_exist() -> None:
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    workflow = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[0])
    (job,) = workflow["jobs"].values()
    (gate,) = [step for step in job["steps"] if step.get("id") == "gate"]
    assert set(gate["with"]) <= set(ACTION["inputs"])
    assert {name for name, values in ACTION["inputs"].items() if values.get("required")} <= set(gate["with"])
    used = re.findall(r"steps\.gate\.outputs\.([\w-]+)", text)
    assert used
    assert set(used) <= set(ACTION["outputs"])
