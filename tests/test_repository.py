"""README, file map, file sizes and yaml comments are right; no file names a machine."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.support import file_map

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FILES = sorted((ROOT / "harness").rglob("*.py"))
GROUP_FILES = sorted(ROOT.glob("conf/*/*.yaml"))
FOLDERS = ("", "docs/", "examples/", "benchmarks/**/", "results/reference/")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}*.md"))
LONGEST_FILE = 400
LONGEST_README = 160

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|opt|mnt|srv|tmp)/[A-Za-z0-9._-]+")
"""An absolute path in a folder of somebody's machine."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def committed_files() -> list[Path]:
    """Every file that is or could be committed.

    In an unpacked archive without git, the folders that hold sources.
    """
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = [ROOT / name for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()]
    else:
        folders = ("harness", "conf", "benchmarks", "tests")
        listed = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return [path for path in listed if path.is_file()]


def test_the_file_map_names_every_file_of_the_package() -> None:
    """It is made of docstrings; ``python -m tests.support.file_map`` writes it again."""
    text = file_map.DOCUMENT.read_text(encoding="utf-8")
    found = file_map.BLOCK.search(text)
    assert found
    assert found[0] == found[1] + file_map.made() + found[2]


def test_the_architecture_names_places_that_exist() -> None:
    """Outside the package it names every configuration group, and nothing that does not exist."""
    _, found, text = file_map.DOCUMENT.read_text(encoding="utf-8").rpartition("Outside the package:")
    assert found
    places = {line.split()[0] for line in text.splitlines() if line and not line.startswith("`")}
    assert {f"conf/{path.name}/" for path in (ROOT / "conf").iterdir() if path.is_dir()} <= places
    for place in places - {"results/"}:  # output only: absent in a clean clone
        path = ROOT / place
        assert path.is_dir() if place.endswith("/") else path.is_file(), place


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_make_target_that_is_shown_exists(path: Path) -> None:
    """Documents show no command that does not exist."""
    shown = set(re.findall(r"(?:^|`)\$?\s*make ([a-z][a-z-]*)", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert shown - targets == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_link_inside_the_repository_is_valid(path: Path) -> None:
    """Files and headings that documents link to exist, pictures included."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", text) if not link.startswith(("http:", "https:", "mailto:"))]
    broken = []
    for link in links:
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (heading and target.suffix == ".md" and heading not in headings(target)):
            broken.append(link)
    assert broken == []


def headings(path: Path) -> set[str]:
    """Anchors of a document, as GitHub makes them."""
    lines = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines()
    titles = [re.sub(r"^#+ ", "", line).strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def test_the_readme_is_short_and_every_page_is_listed() -> None:
    """Details are in docs/, whose README lists each page."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README
    listed = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_every_make_target_is_explained() -> None:
    """`make help` prints the text after ## of a target's line."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    explained = re.findall(r"^([a-z][a-z-]*):.*## \S", makefile, flags=re.MULTILINE)
    assert sorted(phony.split()) == sorted(explained)


def test_no_committed_file_names_a_machine() -> None:
    """A public repository has no paths of somebody's machine."""
    found = []
    for path in committed_files():
        content = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{relative(path)}: {word}" for word in MACHINE_PATH.findall(content)]
    assert found == []


def test_the_names_of_files_are_portable() -> None:
    """There are no spaces, and no two names that differ only in case."""
    names = [relative(path) for path in committed_files()]
    assert [name for name in names if re.search(r"[^A-Za-z0-9._/@+-]", name)] == []
    assert len({name.lower() for name in names}) == len(set(names))


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_modules_stay_short(path: Path) -> None:
    """A module can be read in one sitting."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", GROUP_FILES, ids=relative)
def test_group_members_say_what_they_are(path: Path) -> None:
    """The first line, not counting @package, is the sentence that `harness list` prints."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    assert re.match(r"# \S.*[.:?]$", lines[0])


@pytest.mark.parametrize("path", GROUP_FILES, ids=relative)
def test_group_members_are_yaml(path: Path) -> None:
    """Each is a mapping, and names its class unless it is an experiment."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    assert path.parent.name == "experiment" or re.fullmatch(r"[\w.]+\.[A-Z]\w*", str(values["class"]))
