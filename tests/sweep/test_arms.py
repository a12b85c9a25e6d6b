"""Arms: named sets of overrides as one axis."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config import composition
from harness.core.errors import ConfigError
from harness.sweep.axes import Asked, expand

Written = Any

ANCHOR = "defaults:\n  - override /data@anchor: tinyworld-base"
ARMS = """
arms:
  none: {mitigation: none}
  replay: {mitigation: replay, mitigation.fraction: 0.2, training.learning_rate: 1e-3}
  kl: {mitigation: kl, mitigation.inputs: anchor}
params: {tuning: "full,lora", seed: "0,1"}
"""


def points(*overrides: str) -> list[Asked]:
    return expand(overrides).asked


def labels(*overrides: str) -> list[tuple[str, str]]:
    return [(asked.arm, asked.config.labels.mitigation) for asked in points(*overrides)]


def test_arms_multiply_with_the_other_axes(write: Written) -> None:
    """Three arms, two tunings, two seeds.

    A point's overrides compose to its configuration without the arm's name.
    """
    found = points(*write(ARMS, ANCHOR))
    assert len(found) == 3 * 2 * 2
    assert {(one.arm, one.config.labels.mitigation) for one in found} == {
        ("none", "none"),
        ("replay", "replay[fraction=0.2]"),
        ("kl", "kl[inputs=anchor]"),
    }
    assert {(one.config.labels.tuning, one.config.seed) for one in found if one.arm == "kl"} == {
        (tuning, seed) for tuning in ("full", "lora") for seed in (0, 1)
    }
    for one in found[:3]:
        assert composition.compose(one.overrides) == one.config
        assert not any(text.startswith("arm") for text in one.overrides)


def test_arms_give_the_points_of_the_zip_that_they_replace(write: Written) -> None:
    """The same configurations from lists with tildes."""
    named = points(*write(ARMS, ANCHOR), "seed=0", "tuning=full")
    zipped = """
zip:
  - mitigation: none,replay,kl
    mitigation.fraction: ~,0.2,~
    training.learning_rate: ~,1e-3,~
    mitigation.inputs: ~,~,anchor
"""
    assert [one.config for one in named] == [one.config for one in points(*write(zipped, ANCHOR), "seed=0", "tuning=full")]


def test_the_command_line_selects_arms(write: Written) -> None:
    """One, or several; in the order of the experiment."""
    mine = [*write(ARMS, ANCHOR), "tuning=full", "seed=0"]
    assert [arm for arm, _ in labels(*mine, "arms=kl")] == ["kl"]
    assert [arm for arm, _ in labels(*mine, "arms=kl,none")] == ["none", "kl"]


def test_a_value_on_the_command_line_replaces_the_arms_value(write: Written) -> None:
    """A member's setting holds for the arms that set it, other values for all.

    Several values are an axis in each of these arms.
    """
    mine = [*write(ARMS, ANCHOR), "tuning=full", "seed=0"]
    changed = labels(*mine, "mitigation.fraction=0.5")
    assert changed == [("none", "none"), ("replay", "replay[fraction=0.5]"), ("kl", "kl[inputs=anchor]")]
    assert [one.config.training.learning_rate for one in points(*mine)] == [None, 1e-3, None]
    assert [one.config.training.learning_rate for one in points(*mine, "training.learning_rate=0.5")] == [0.5] * 3
    assert [arm for arm, _ in labels(*mine, "mitigation.fraction=0.1,0.5")] == ["none", "replay", "replay", "kl"]


def test_a_setting_holds_for_the_arms_whose_members_have_it(write: Written) -> None:
    """Volumes, and settings of a group that no arm chooses from, hold for all."""
    mine = write("arms:\n  few: {mitigation: none, data.volumes: '[8]'}\n  all: {mitigation: l2}")
    assert [one.config.data.volumes for one in points(*mine, "data.volumes=[16]")] == [(16,), (16,)]
    mixed = write("arms:\n  plain: {tuning: lora}\n  replay: {mitigation: replay, mitigation.fraction: 0.2}", ANCHOR)
    assert labels(*mixed, "mitigation.fraction=0.5") == [("plain", "none"), ("replay", "replay[fraction=0.5]")]
    own = write("arms:\n  a: {data: tinyworld-skill}\n  b: {data: tinyworld-base, data.volumes: '[8]'}")
    assert [one.config.data.volumes for one in points(*own, "data.volumes=[16]")] == [(16,), (16,)]


def test_a_member_on_the_command_line_keeps_the_arms_that_have_it(write: Written) -> None:
    """An arm that does not choose the group takes the member too."""
    mine = write(ARMS, ANCHOR)
    assert {arm for arm, _ in labels(*mine, "mitigation=none,kl")} == {"none", "kl"}
    mixed = write("arms:\n  plain: {tuning: full}\n  low: {tuning: lora}\n  slow: {training.learning_rate: 1e-5}")
    assert [(one.arm, one.config.labels.tuning) for one in points(*mixed, "tuning=lora")] == [("low", "lora"), ("slow", "lora")]


def test_a_value_with_commas_is_an_axis_within_its_arm(write: Written) -> None:
    """Each tuning has learning rates of its own."""
    found = points(*write("arms:\n  full: {tuning: full, training.learning_rate: '1e-5,3e-5'}\n  lora: {tuning: lora}"))
    assert [(one.arm, one.config.training.learning_rate) for one in found] == [("full", 1e-5), ("full", 3e-5), ("lora", None)]


def test_hydras_name_of_a_group_is_accepted(write: Written) -> None:
    """As in params, and in the defaults of an experiment."""
    found = points(*write("arms:\n  a: {data@anchor: tinyworld-base, mitigation: replay}\n  b: {mitigation: none}"))
    assert [one.config.labels.anchor for one in found] == ["tinyworld-base", None]
    axis = write("params: {data@anchor: 'tinyworld-base,tinyworld-skill', seed: '0,1'}\nexclude: [{data@anchor: tinyworld-skill, seed: 1}]")
    assert len(points(*axis)) == 3
    assert {one.config.labels.anchor for one in points(*axis, "anchor=tinyworld-base")} == {"tinyworld-base"}


def test_an_exclusion_may_name_an_arm(write: Written) -> None:
    """It matches nothing, and is accepted, when other arms are selected."""
    mine = write(f"{ARMS}exclude: [{{arm: kl, tuning: lora}}, {{mitigation.inputs: anchor, seed: 1}}]", ANCHOR)
    assert [(one.config.labels.tuning, one.config.seed) for one in points(*mine) if one.arm == "kl"] == [("full", 0)]
    assert len(points(*mine, "arms=none")) == 4
    assert len(points(*mine, "mitigation=none")) == 4


@pytest.mark.parametrize(
    ("sweeper", "given", "words"),
    [
        (ARMS, "arms=kll", ["arms: got 'kll'", "none, replay, kl", "did you mean 'kl'"]),
        ("params: {seed: '0,1'}", "arms=kl", ["arms: got 'kl'", "the experiment has no arms"]),
        (ARMS, "mitigation=ewc", ["mitigation: got 'ewc'", "none, replay, kl, as in the experiment's arms", "fix: add an arm"]),
        ("arms: {kl: {mitigaton: kl}}", "", ["mitigaton", "did you mean 'mitigation'", "at arm=kl"]),
        ("arms: {kl: {mitigation: kll}}", "", ["mitigation: got 'kll'", "did you mean 'kl'"]),
        ("arms: {kl: {mitigation: kl, mitigation.inptus: anchor}}", "", ["mitigation.inptus", "did you mean 'inputs'"]),
        ("arms: {kl: {}}", "", ["hydra.sweeper.arms.kl: got no overrides"]),
        ("arms: {kl: 3}", "", ["hydra.sweeper.arms.kl: got 3"]),
        ("arms: {'20% replay': {seed: 0}}", "", ["got an arm named '20% replay'", "letters, digits"]),
        ("arms: {a: {seed: 0}}\nparams: {seed: '0,1'}", "", ["hydra.sweeper: seed", "two axes", "arms"]),
        ("arms: {a: {seed: 0}}\nzip: [{seed: '0,1'}]", "", ["hydra.sweeper: seed", "two axes"]),
        ("arms: {a: {labels.mitigation: x}}", "", ["labels: got a value"]),
        (
            "arms: {a: {tuning: full, mitigation: l2}, b: {tuning: lora, mitigation: none}}",
            "tuning=full mitigation=none",
            ["arms: got no arm with tuning=full mitigation=none", "a, b"],
        ),
        ("arms: {a: {seed: 0}, b: {seed: 1}}", "seed=range(3,3)", ["seed: got range(3,3), without a value"]),
        ("params: {data@anchor: tinyworld-skill}\narms: {a: {anchor: tinyworld-base}}", "", ["anchor", "two axes"]),
    ],
)
def test_a_wrong_arm_gives_one_line(write: Written, sweeper: str, given: str, words: list[str]) -> None:
    """Before anything runs."""
    with pytest.raises(ConfigError) as caught:
        expand([*write(sweeper, ANCHOR), *given.split()])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
