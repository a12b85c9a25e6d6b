"""The release workflow: the steps of its build, executed as a runner does; nothing is published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import __version__

ROOT = Path(__file__).resolve().parents[2]
JOBS: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
CHECKOUT = ("harness", "hydra_plugins", "conf", "benchmarks", "examples", "pyproject.toml", "README.md", "LICENSE", "constraints.txt")
TAG, BUILD, TRY = (step for step in JOBS["build"]["steps"] if "run" in step)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is made of."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def executed(folder: Path, step: dict[str, Any], **variables: str) -> subprocess.CompletedProcess[str]:
    """Execute a step without an index: what it would install is this environment's.

    ``PYTHONPATH`` finds the dependencies, but not the editable installation of the checkout, since
    .pth files there are not read.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = own | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
    environment |= {"PYTHONPATH": sysconfig.get_paths()["purelib"]} | variables
    command = [*step["shell"].split(), "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_tag_that_is_not_the_version_ends_the_release(checkout: Path) -> None:
    """With what it must be, before anything is built."""
    assert executed(checkout, TAG, TAG=f"v{__version__}").returncode == 0
    wrong = executed(checkout, TAG, TAG="v9.9.9")
    assert wrong.returncode == 1
    assert f"tag: got v9.9.9; allowed: v{__version__}, the version in harness/__init__.py" in wrong.stdout


def test_the_wheel_of_the_sdist_works_in_a_new_environment(checkout: Path) -> None:
    """Its version, its members, and a comparison of the logs of an example."""
    built = executed(checkout, BUILD)
    assert built.returncode == 0, built.stdout + built.stderr
    name = f"forgetting_harness-{__version__}"
    assert {path.name for path in (checkout / "dist").iterdir()} == {f"{name}.tar.gz", f"{name}-py3-none-any.whl"}
    tried = executed(checkout, TRY)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert tried.stdout.startswith(f"harness {__version__}\n")
    assert "nursery-xs" in tried.stdout
    assert tried.stdout.rstrip().endswith("pass, exit code 0")


def test_only_a_job_without_code_of_the_repository_can_publish() -> None:
    """What the index trusts is given to two actions, after the build, and no password exists."""
    publish = JOBS["publish"]
    assert publish["needs"] == "build"
    assert publish["environment"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    assert "permissions" not in JOBS["build"]
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    assert "with" not in publish["steps"][-1]
