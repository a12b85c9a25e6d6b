from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.config import paths
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
