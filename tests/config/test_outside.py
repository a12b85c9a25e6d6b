"""Users' own classes, and identities without module paths."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.config import composition, outside, paths
from harness.config.overrides import PACKAGES, folder_of
from harness.config.strict import identifying, plain
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError
from harness.run.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]

IDENTITIES = """
from harness.config import composition
from harness.run.generated.data import recipe
from harness.run.generated.store import Store
from harness.run.preparation import prepare
from harness.run.workspace import Workspace

workspace = Workspace()
for given in (["mitigation=l2"], ["mitigation=paraphrase", "mitigation.template='{prompt} {answer}'", "seed=3"]):
    prepared = prepare(composition.compose(["model=nursery-smoke-a", *given]), workspace)
    print(prepared.run_id, sorted(prepared.evaluation_ids.items()))
print(Store(recipe(prepared, prepared.config.mitigation)).folder.name)
"""


def printed(script: str, root: Path, **environment: str) -> str:
    """Return the output of a script that imports the harness of a folder."""
    known = {**os.environ, "PYTHONPATH": str(root), **environment}
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=known, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model  # it starts processes
def test_a_method_that_moves_keeps_every_id(tmp_path: Path) -> None:
    """Run ids, evaluation ids and keys of generated rows contain no module path."""
    for folder in ("harness", "conf", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "speed"))
    before = printed(IDENTITIES, tmp_path)
    methods, members = tmp_path / "harness" / "methods" / "mitigation", tmp_path / "conf" / "mitigation"
    (methods / "elsewhere").mkdir()
    for name, new in {"l2": "elsewhere/pull", "paraphrase": "restating"}.items():
        (methods / f"{name}.py").rename(methods / f"{new}.py")
        text = (members / f"{name}.yaml").read_text()
        (members / f"{name}.yaml").write_text(text.replace(f"class: {name}.", f"class: {new.replace('/', '.')}."))
    assert printed(IDENTITIES, tmp_path) == before


@pytest.mark.parametrize("group", sorted({*PACKAGES} - {"anchor", "reference"}))
def test_a_class_name_is_unique_in_its_group(group: str) -> None:
    """In an identity, methods differ only in the name of their class."""
    named = {load_yaml(path)["class"] for path in paths.members(folder_of(group)).values()}
    counts = Counter(name.rpartition(".")[2] for name in named)
    assert counts
    assert max(counts.values()) == 1


def test_our_classes_are_identified_by_their_names() -> None:
    """Neither module path nor source is part of the identity."""
    assert identifying(composition.member("mitigation", "l2"))["class"] == "L2"
    assert "source" not in identifying(composition.member("mitigation", "l2"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in HARNESS_PATH whose mitigation imports another module of the package."""
    package = tmp_path / "ownpackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "strengths.py").write_text("STRENGTH = 0.5\n")
    (package / "unrelated.py").write_text("OTHER = 1\n")
    (package / "pull.py").write_text(
        "from dataclasses import dataclass\n"
        "from harness.core.methods import Mitigation\n"
        "from .strengths import STRENGTH\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Pull(Mitigation):\n"
        "    weight: float = STRENGTH\n"
    )
    (tmp_path / "conf" / "mitigation").mkdir(parents=True)
    (tmp_path / "conf" / "mitigation" / "pull.yaml").write_text("# mine\nclass: ownpackage.pull:Pull\nweight: 0.25\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownpackage"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    outside.source_digest.cache_clear()


def source_of(cls: str) -> str:
    outside.source_digest.cache_clear()
    found = composition.find_class(cls, "harness.methods.mitigation", "mitigation")
    return outside.source_digest(found)  # type: ignore[arg-type] # a class is hashable


def test_a_class_of_a_users_own_is_found_and_identified_by_its_source(own: Path) -> None:
    """An edit of its module, or of one that it imports, makes it another method."""
    config = composition.compose(["mitigation=pull"])
    assert plain(config.mitigation) == {"class": "Pull", "weight": 0.25}
    first = source_of("ownpackage.pull:Pull")
    assert identifying(config.mitigation) == {"class": "Pull", "source": first, "weight": 0.25}
    (own / "unrelated.py").write_text("OTHER = 2\n")
    assert source_of("ownpackage.pull:Pull") == first
    (own / "strengths.py").write_text("STRENGTH = 0.5  # edited\n")
    second = source_of("ownpackage.pull:Pull")
    assert second != first
    (own / "pull.py").write_text((own / "pull.py").read_text() + "\n")
    assert source_of("ownpackage.pull:Pull") not in {first, second}


def test_two_classes_of_one_name_are_two_methods(own: Path) -> None:
    """Also where the same modules are reached from both."""
    (own / "__init__.py").write_text("from . import first, second\n")
    for name, value in {"first": 1.0, "second": 2.0}.items():
        (own / f"{name}.py").write_text((own / "pull.py").read_text().replace("= STRENGTH", f"= {value}"))
    first, second = (composition.instantiate("mitigation", {"class": f"ownpackage.{name}:Pull"}, "") for name in ("first", "second"))
    outside.source_digest.cache_clear()
    sources = {identifying(one)["source"] for one in (first, second)}
    assert len(sources) == 2
    before = source_of("ownpackage.first:Pull")
    (own / "__init__.py").write_text("from . import first, second\nX = 1\n")
    assert source_of("ownpackage.first:Pull") != before


def test_two_data_sets_of_one_class_name_keep_their_rows(own: Path) -> None:
    """In one process, where each data set is read once."""
    for name in ("first", "second"):
        (own / f"{name}.py").write_text(
            "from dataclasses import dataclass\n"
            "from harness.core.sources import Source\n\n"
            "@dataclass(frozen=True, kw_only=True)\n"
            "class Rows(Source):\n"
            "    volumes: tuple[int, ...] = (8,)\n"
            "    kind: str = 'text'\n"
            "    def rows(self, split):\n"
            f"        return ['{name}']\n"
        )
    workspace = Workspace()
    found = [workspace.rows_of(composition.instantiate("data", {"class": f"ownpackage.{name}:Rows"}, "")) for name in ("first", "second")]
    assert [list(rows) for rows in found] == [["first"], ["second"]]  # type: ignore[comparison-overlap] # texts for rows


def test_installed_packages_are_no_users_source(own: Path) -> None:
    """A virtual environment inside a folder of HARNESS_PATH counts as little as one elsewhere.

    No module is imported to find this out.
    """
    installed = own.parent / ".venv" / "site-packages"
    (installed / "librarypackage").mkdir(parents=True)
    (installed / "librarypackage" / "__init__.py").write_text("raise OSError('a broken library')\n")
    (own.parent / "besides.py").write_text("A = 1\n")
    (own / "pull.py").write_text(
        (own / "pull.py").read_text() + "\ndef later(self):\n    from librarypackage import inner\n    import besides\n"
    )
    sys.path.append(str(installed))
    first = source_of("ownpackage.pull:Pull")
    assert "librarypackage" not in sys.modules
    (installed / "librarypackage" / "__init__.py").write_text("B = 2\n")
    assert source_of("ownpackage.pull:Pull") == first
    (own.parent / "besides.py").write_text("A = 2\n")
    assert source_of("ownpackage.pull:Pull") != first


def test_a_users_module_may_have_a_name_of_the_standard_library(own: Path) -> None:
    """A folder of PYTHONPATH comes before the standard library."""
    package = own.parent / "this"
    package.mkdir()
    (package / "__init__.py").write_text("A = 1\n")
    sys.path.insert(0, str(own.parent))
    typed = type("Typed", (), {"__module__": "this"})
    first = outside.source_digest(typed)
    (package / "__init__.py").write_text("A = 2\n")
    outside.source_digest.cache_clear()
    assert outside.source_digest(typed) != first


def test_a_class_without_a_file_has_no_identity(own: Path) -> None:
    """One of a notebook, whose edits nobody would see; a file that is no Python likewise."""
    typed = type("Typed", (), {"__module__": "__main__x"})
    with pytest.raises(ConfigError, match="class Typed: got module __main__x without a file; .* fix: move the class"):
        outside.source_digest(typed)
    (own / "strengths.py").write_text("STRENGTH = 0.5\n")
    composition.instantiate("mitigation", {"class": "ownpackage.pull:Pull"}, "")
    (own / "strengths.py").write_text("STRENGTH = = 1\n")
    with pytest.raises(ConfigError, match=r"class Pull: module ownpackage.strengths: got a source that is not Python"):
        source_of("ownpackage.pull:Pull")


def test_a_field_may_not_have_the_name_of_a_class_variable(own: Path) -> None:
    """``Mitigation.strength`` names the field that switches a mitigation off."""
    (own / "pull.py").write_text((own / "pull.py").read_text().replace("weight", "strength"))
    with pytest.raises(
        ConfigError, match=r"^mitigation.class: got Pull with a field strength; .*Mitigation.strength is a class variable; fix: rename"
    ):
        composition.compose(["mitigation=pull"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os.system", "got 'os.system'; allowed: module.Class of a dataclass in harness.methods.mitigation"),
        ("os:system", "got 'os:system'"),
        ("no.such:Thing", "got module no.such, which cannot be imported"),
        ("ownpackage.pull:Missing", "got 'ownpackage.pull:Missing'"),
        ("harness.methods.tuning.full:Full", "got Full; allowed: a subclass of harness.core.Mitigation"),
        ("", "got ''"),
    ],
)
def test_a_class_that_is_not_of_the_group_is_an_error_of_one_line(own: Path, name: str, words: str) -> None:
    """The message names the class and what is allowed."""
    with pytest.raises(ConfigError, match=r"^mitigation\.class: got [^\n]*$") as raised:
        composition.instantiate("mitigation", {"class": name}, "mitigation")
    assert words in str(raised.value)
