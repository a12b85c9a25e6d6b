"""The wheel, built and run in an environment and a folder independent of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*command: str | Path, folder: Path) -> str:
    """Run a command without environment variables that point to the checkout."""
    environment = {
        name: value for name, value in os.environ.items() if name == "HARNESS_CACHE" or not name.startswith(("PYTHON", "HARNESS_"))
    }
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a new environment with the wheel and this one's dependencies.

    A line in a .pth file adds the folder of the dependencies to the path, after its own. The .pth
    files there are not read, so an editable installation of the checkout has no effect.
    """
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    binaries = folder / "bin"
    run(sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return binaries


def shipped(folder: str) -> set[str]:
    """Return the files of a folder of the checkout that belong in the wheel."""
    paths = [path for path in (ROOT / folder).rglob("[!.]*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix() for path in paths if not path.match("benchmarks/speed/*.json")}


def test_the_wheel_carries_code_configuration_and_benchmarks(wheel: Path) -> None:
    """It has harness/, conf/ and benchmarks/ (inside the package), hydra_plugins/, nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    content = {name for name in names if ".dist-info/" not in name}
    code = shipped("harness") | shipped("hydra_plugins")
    assert content == code | {f"harness/{name}" for folder in ("conf", "benchmarks") for name in shipped(folder)}
    assert {"harness/py.typed", "harness/conf/run.yaml", "hydra_plugins/harness_sweep/__init__.py"} <= content
    assert "hydra_plugins/__init__.py" not in content  # a namespace package, which other plugins share
    assert any(name.startswith("harness/benchmarks/suites/") for name in content)


def test_the_wheel_holds_the_licence_and_the_command(wheel: Path) -> None:
    """Metadata that installers and lawyers read."""
    archive = zipfile.ZipFile(wheel)
    by_end = {name.partition(".dist-info/")[2]: name for name in archive.namelist()}
    assert "licenses/LICENSE" in by_end
    assert "harness = harness.cli.app:main" in archive.read(by_end["entry_points.txt"]).decode()
    needed = [line for line in archive.read(by_end["METADATA"]).decode().splitlines() if line.startswith("Requires-Dist: torch>=")]
    assert set(needed) == {f"Requires-Dist: torch>=2.6; extra == '{extra}'" for extra in ("measure", "train", "quantized", "ray", "slurm")}


def test_the_installed_command_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """`harness` prints its help and lists the members of its installed configuration."""
    assert "usage: harness" in run(installed / "harness", "--help", folder=tmp_path)
    for group in ("model", "data", "suites", "experiment"):
        folder = ROOT / {"suites": "benchmarks/suites"}.get(group, f"conf/{group}")
        listed = {line.split()[0] for line in run(installed / "harness", "list", group, folder=tmp_path).splitlines()}
        assert listed - {"Any"} == {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    assert list(tmp_path.iterdir()) == []


def test_the_installed_package_reads_nothing_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    """Code, configuration and benchmarks come from the environment of the wheel."""
    script = "from harness.config import composition, paths; composition.compose([]); print(*paths.roots(), sep='\\n')"
    roots = run(installed / "python", "-c", script, folder=tmp_path).splitlines()
    assert [Path(root).is_relative_to(installed.parent.resolve()) for root in roots] == [True]


def test_the_installed_command_measures_forgetting(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run and a Hydra sweep work from the wheel, without a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    printed = run(installed / "harness", "run", "model=nursery-smoke-a", "data.volumes=[8]", folder=tmp_path)
    assert "nursery-smoke-a" in printed
    assert (tmp_path / "results" / "adhoc" / "report" / "index.html").is_file()
    sweep = ["-m", "harness.cli.hydra_app", "-m", "experiment=smoke", "model=nursery-smoke-a", "tuning=full", "seed=0", "data.volumes=[8]"]
    assert "nursery-smoke-a" in run(installed / "python", *sweep, folder=tmp_path)
    assert (tmp_path / "results" / "smoke" / "report" / "index.html").is_file()
