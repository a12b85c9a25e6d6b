from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.config import paths
from harness.config.composition import compose, limited_yaml
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError

SCALARS = """
numbers: [1e-4, 1E+3, 1e5, 1.5e3, -2e-1, 0.5, .5, 1_000, 1_0.5e2, 0x1f, -.inf, 12e45678]
texts: ["1e-4", 2024-05-01, 1e, e5, 1.2.3, a: b, "1e-4 nats", "{{ x }}", "${seed}"]
others: [null, ~, true, no, "yes"]
"""


def by_hydra(path: Path) -> object:
    """Return what OmegaConf, and so Hydra, reads."""
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


def test_scalars_are_read_as_hydra_reads_them(tmp_path: Path) -> None:
    """Numbers with an exponent are numbers, dates are text."""
    (tmp_path / "scalars.yaml").write_text(SCALARS)
    assert load_yaml(tmp_path / "scalars.yaml") == by_hydra(tmp_path / "scalars.yaml")


def test_shipped_files_are_read_as_hydra_reads_them() -> None:
    """Suites and members of groups have the same values with and without Hydra."""
    folders = ["benchmarks/suites", *(f"conf/{group}" for group in ("model", "data", "tuning", "objective", "mitigation", "launcher"))]
    files = [file for folder in folders for file in paths.members(folder).values()]
    assert len(files) > 50
    for file in files:
        assert load_yaml(file) == by_hydra(file)


@pytest.mark.parametrize(
    ("text", "got"),
    [("a: [", "not yaml"), ("a: 1\nb: 2\na: 3", "not yaml (found duplicate key a"), ("- a", "list; allowed: a mapping")],
)
def test_other_files_are_rejected_in_one_line(tmp_path: Path, text: str, got: str) -> None:
    """The message names the file."""
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match="wrong.yaml") as error:
        load_yaml(tmp_path / "wrong.yaml")
    assert got in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    """As for Hydra, comments alone are no values."""
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}


def bomb(levels: int, width: int = 9, merged: bool = False) -> str:
    """A file of few lines whose last value stands for ``width ** levels`` values."""
    lines = ["a0: &a0 {k: 1}"] if merged else ["a0: &a0 [x]"]
    for i in range(1, levels):
        items = ", ".join([f"*a{i - 1}"] * width)
        lines.append(f"a{i}: &a{i} {{<<: [{items}]}}" if merged else f"a{i}: &a{i} [{items}]")
    return "\n".join(lines)


TOO_MUCH: dict[str, tuple[str | bytes, str]] = {
    "aliases of aliases": (bomb(12), "20,000 values"),
    "merged aliases": (bomb(12, merged=True), "20,000 values"),
    "many values": ("a: [" + "1, " * 20_001 + "1]", "20,000 values"),
    "a list inside itself": ("a: &a [*a]", "inside itself"),
    "a mapping inside itself": ("a: &a {b: {c: *a}}", "inside itself"),
    "deep lists": ("a: " + "[" * 51 + "]" * 51, "50 nested levels"),
    "deeper than Python reads": ("a: " + "[" * 5000 + "]" * 5000, "50 nested levels"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(150)), "50 nested levels"),
    "Latin-1": ("a: café".encode("latin-1"), "0xe9"),
    "UTF-16": ("a: 1".encode("utf-16"), "0xff"),
    "a null byte": ("a: \0", "#x0000"),
    "a number of 5,000 digits": ("a: " + "1" * 5000, "4300 digits"),
    "a tag that does not fit": ("a: !!int x", "an invalid value"),
    "a time that is none": ("a: !!timestamp x", "an invalid value"),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_what_is_too_deep_too_large_or_not_text_is_rejected_at_once(tmp_path: Path, kind: str) -> None:
    """By our reader and by the one of Hydra, with the name of the file."""
    text, got = TOO_MUCH[kind]
    file = tmp_path / "conf" / "tuning" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=re.escape(str(file))) as error:
        load_yaml(file)
    assert got in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_PATH", str(tmp_path))
        with pytest.raises(ConfigError, match=re.escape(str(file))) as error:
            compose(["tuning=mine"])
    assert "\n" not in str(error.value)


def test_nested_and_repeated_values_within_the_limits_are_read(tmp_path: Path) -> None:
    """Fifty levels, and aliases that repeat a few values."""
    file = tmp_path / "fine.yaml"
    file.write_text("a: " + "[" * 48 + "1" + "]" * 48 + "\n" + bomb(4).replace("a0: &a0", "b: &a0"))
    values = load_yaml(file)
    assert values["a1"] == [["x"]] * 9
    assert values == by_hydra(file)


def test_limits_may_be_set_within_limits() -> None:
    """Hydra's own command line sets them around a run, which composes."""
    with limited_yaml():
        assert compose(["tuning=full"]).labels.tuning == "full"
