from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from harness.core import extras
from harness.core.errors import InstallError

ROOT = Path(__file__).resolve().parents[2]
FIX = "pip install -e '.[measure]', in the checkout of forgetting-harness"


@pytest.mark.parametrize("extra", extras.PACKAGES)
def test_an_extra_is_what_pyproject_says(extra: extras.Extra) -> None:
    """Packages whose absence is reported are those that the extra installs."""
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    required = [*optional[extra], *(optional["measure"] if extra == "train" else [])]
    names = {Requirement(text).name for text in required} - {"forgetting-harness"}
    assert set(extras.PACKAGES[extra].values()) == names


def test_one_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the command, the package and the fix, in one line."""
    monkeypatch.setitem(extras.PACKAGES, "measure", {"json": "json", "no_such_module": "no-such"})
    with pytest.raises(InstallError) as error:
        extras.require("prompt", "measure")
    assert str(error.value) == f"prompt: needs no-such, which is not installed; fix: {FIX}"


def test_nothing_is_said_where_all_is_installed() -> None:
    """This environment has the extra `train`."""
    extras.require("run", "train")
