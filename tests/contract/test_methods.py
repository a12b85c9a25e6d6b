"""Every shipped method keeps the contract; a new yaml needs no edit here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import harness.methods
from harness.config import composition, paths
from harness.config.yaml_files import load_yaml
from harness.methods.contract.case import GROUPS, Case, pairs, rejection, shipped
from harness.methods.contract.checks import CHECKS, Check, can_be_switched_off, is_a_value
from tests.support import tiny

CASES = pairs()
METHODS = [(group, name) for group in GROUPS for name in shipped(group)]


def checked(cases: Sequence[Case]) -> list[Any]:
    """Every check with every case that it applies to."""
    found = [(check, case) for check in CHECKS for case in cases if check.applies(case)]
    return [pytest.param(check, case, id=f"{check.name}: {case.id}") for check, case in found]


@pytest.mark.parametrize(("check", "case"), checked(CASES))
def test_every_pair_of_methods_keeps_the_contract(check: Check, case: Case) -> None:
    """The checks are those of `harness check-method`."""
    check.run(case)


def test_every_check_applies_to_a_case() -> None:
    """A check that no case reaches would pass unnoticed; so would a model."""
    assert all(any(check.applies(case) for case in CASES) for check in CHECKS)
    assert {case.model for case in CASES} == set(tiny.MODELS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_methods_yaml_and_its_code_have_the_same_path(group: str) -> None:
    """conf/GROUP/x.yaml names a class of methods/GROUP/x.py, and every such file has its yaml."""
    folder = Path(harness.methods.__file__).parent / group
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    named = {name: load_yaml(path)["class"] for name, path in paths.members(f"conf/{group}").items()}
    assert {name: cls.rsplit(".", 1)[0] for name, cls in named.items()} == {name: name for name in modules}
    assert shipped(group).keys() == named.keys()


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_a_method_is_a_frozen_value(group: str, name: str) -> None:
    """Built from its yaml twice, it is equal, frozen and hashable, as an identity needs."""
    is_a_value(composition.member(group, name), composition.member(group, name))


@pytest.mark.parametrize("name", shipped("mitigation"))
def test_a_mitigation_declares_how_it_is_switched_off(name: str) -> None:
    """By the name of a field, or by values."""
    can_be_switched_off(composition.member("mitigation", name))


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_a_method_combines_with_another(group: str, name: str) -> None:
    """A method alone is never the reason of a rejection."""
    own = type(shipped(group)[name])
    assert any(isinstance(getattr(case, group), own) and not rejection(case) for case in CASES)
