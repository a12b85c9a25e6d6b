"""Combinations of choices that are rejected, and configurations that are several runs."""

from __future__ import annotations

import pytest

from harness.config import combinations, composition
from harness.core.errors import ConfigError


def test_independent_volumes_are_runs_of_their_own() -> None:
    """A shared trajectory is one run."""
    config = composition.compose(["trajectory=independent", "data.volumes=[64,128]"])
    assert [run.data.volumes for run in combinations.runs_of(config)] == [(64,), (128,)]
    shared = composition.compose(["data.volumes=[64,128]"])
    assert combinations.runs_of(shared) == [shared]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["declared.margin=0"], "declared.margin: got 0.0; allowed: greater than 0"),
        (["declared.margins={tinyworld: -1}"], "declared.margins.tinyworld: got -1.0; allowed: greater than 0"),
        (["declared.margins={tinywrld: 0.1}"], "declared.margins: got 'tinywrld'; .*did you mean 'tinyworld'"),
        (["declared.headline=blimp"], "declared.headline: got 'blimp'; allowed: one of probe_suites: tinyworld; fix: declared.headline="),
        (["declared.law=powr"], "declared.law: got 'powr'; allowed: hill, injection, kl, linear, "),
        (["declared.law=powr"], "fix: did you mean 'power'?"),
        (["declared.headline=tinyworld-people"], "declared.headline: got 'tinyworld-people'"),
        (["declared.control={dat: tinyworld-base}"], "declared.control: got 'dat'; allowed: model, .* did you mean 'data'"),
        (["declared.margn=0.1"], "declared.margn: got an unknown key"),
    ],
)
def test_an_invalid_declaration_is_rejected(overrides: list[str], message: str) -> None:
    """The error is one line, before anything starts."""
    with pytest.raises(ConfigError, match=message) as caught:
        composition.compose(overrides)
    assert "\n" not in str(caught.value)


def test_a_search_without_probes_keeps_its_experiment_s_declarations() -> None:
    """A search of learning rates sets ``probe_suites=[]`` and gives no verdict."""
    config = composition.compose(["declared.headline=tinyworld", "probe_suites=[]"])
    assert config.declared.headline == "tinyworld"


@pytest.mark.parametrize(("mitigation", "fix"), [("merge", "one mitigation.coefficient"), ("early_stop", "no mitigation=early_stop")])
def test_nothing_is_selected_on_the_targets_of_stages(mitigation: str, fix: str) -> None:
    """Earlier targets may be forgotten; a given coefficient needs no selection."""
    stages = ["data=sequence", "data.stages=[tinyworld-people,tinyworld-skill]", "data.stage_rows=[64]", f"mitigation={mitigation}"]
    with pytest.raises(ConfigError, match=f"got a sequence of stages, whose earlier targets may be forgotten; .*fix: {fix}"):
        combinations.check(composition.compose(stages))
    if mitigation == "merge":
        combinations.check(composition.compose([*stages, "mitigation.coefficient=0.4"]))
