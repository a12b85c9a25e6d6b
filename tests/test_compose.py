"""Yaml and overrides to RunConfig, and every mistake a user can make there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import compose, paths
from harness.errors import HarnessError


def test_the_bare_configuration_is_the_embedded_default() -> None:
    """`harness run` alone tunes a nursery model on tinyworld's new people."""
    config = compose.compose([])
    assert (config.labels.model, config.labels.tuning, config.labels.data) == ("nursery-s", "full", "tinyworld-people")
    assert config.name == "adhoc"
    assert config.anchor is None


@pytest.mark.parametrize("name", sorted(paths.members("conf/experiment")))
def test_every_experiment_composes_at_every_point(name: str) -> None:
    """No yaml typo waits in a queue; points differ."""
    configs = compose.sweep([f"experiment={name}"])
    assert configs
    assert all(config.name == name for config in configs)
    assert len({repr(config) for config in configs}) == len(configs)


@pytest.mark.parametrize("group", sorted(compose.PACKAGES))
def test_every_member_of_every_group_is_a_class_of_its_package(group: str) -> None:
    """Each yaml builds, those that need a name given one."""
    for name, path in paths.members(compose.folder_of(group)).items():
        values = compose.load_yaml(path)
        needs: dict[str, object] = {}
        if path.stem.startswith("files"):
            needs = {"train": "x.jsonl"}
        if (group, name) == ("model", "hf"):
            needs = {"name": "x"}
        built = compose.instantiate(group, values | needs, f"{group}={name}")
        assert type(built).__module__.startswith(compose.PACKAGES[group])


def test_overrides_reach_fields_that_no_yaml_lists() -> None:
    """Defaults live in the dataclasses, yet any can be overridden."""
    config = compose.compose(["tuning=lora", "tuning.rank=4", "data.volumes=[16,64]", "training.learning_rate=1e-4", "name=x"])
    assert config.tuning.rank == 4  # type: ignore[attr-defined]
    assert config.data.volumes == (16, 64)
    assert config.training.learning_rate == 1e-4
    assert config.labels.tuning == "lora[rank=4]"
    assert config.name == "x"


def test_a_digit_only_revision_stays_text() -> None:
    """7012345 and 12e45678 are revisions, not numbers."""
    for revision in ["7012345", "12e45678", "1_000"]:
        config = compose.compose(["model=hf", "model.name=org/some-model", f"model.revision={revision}"])
        assert config.model.revision == revision  # type: ignore[attr-defined]
        assert config.labels.model == f"org/some-model[revision={revision}]"


def test_the_target_suite_follows_the_data_where_none_is_given() -> None:
    """Tinyworld's parts have suites of their names; other data have none until one is named."""
    assert compose.compose([]).target_suites == ("tinyworld-people",)
    assert compose.compose(["data=tinyworld-skill"]).target_suites == ("tinyworld-skill",)
    assert compose.compose(["data=gsm8k"]).target_suites == ()
    assert compose.compose(["data=gsm8k", "target_suites=[math_nll]"]).target_suites == ("math_nll",)


def test_values_set_by_an_experiment_are_part_of_the_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 4 is not called plain lora, wherever it was set; an experiment without a name takes its file's."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\n# mine\ndefaults:\n  - override /tuning: lora\ntuning:\n  rank: 4\n"
    (folder / "mine.yaml").write_text(text)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    (config,) = compose.sweep(["experiment=mine"])
    assert (config.labels.tuning, config.name) == ("lora[rank=4]", "mine")


def test_axes_multiply_and_an_override_replaces_an_axis() -> None:
    """The product of the axes, in order; a single value fixes one, several replace it."""
    whole = compose.sweep(["experiment=tiny"])
    assert len(compose.sweep(["experiment=tiny", "tuning=lora"])) == len(whole) / 2
    seeds = compose.sweep(["experiment=tiny", "tuning=lora", "seed=0,1,2"])
    assert {config.seed for config in seeds} == {0, 1, 2}
    assert {config.labels.tuning for config in seeds} == {"lora"}


def test_anchors_are_any_data_yaml() -> None:
    """The anchor group shares the members of data."""
    config = compose.compose(["mitigation=replay", "anchor=tinyworld-base"])
    assert config.labels.anchor == "tinyworld-base"
    assert config.anchor is not None


def test_a_users_experiment_is_found_beside_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HARNESS_PATH adds members to every group."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\n# mine\nname: mine\nhydra:\n  sweeper:\n    params:\n      seed: 1,2\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    assert [config.seed for config in compose.sweep(["experiment=mine"])] == [1, 2]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modle=hf"], ["modle", "did you mean 'model'"]),
        (["model=nursery-z"], ["model", "nursery-z", "nursery-s"]),
        (["tuning=lroa"], ["did you mean 'lora'"]),
        (["tuning=lora", "tuning.rnak=4"], ["tuning.rnak", "did you mean 'rank'"]),
        (["model=hf"], ["model.name", "got nothing"]),
        (["data.volumes=[-8]"], ["data.volumes", "-8"]),
        (["data.volumes=[]"], ["data.volumes"]),
        (["data.volumes=[12]"], ["multiples of training.batch_rows = 8", "8 or 16"]),
        (["data.volumes=64"], ["data.volumes", "a list"]),
        (["data.volumes=[a]"], ["data.volumes[0]", "an integer"]),
        (["training.warmup_rows=32", "data.volumes=[64]"], ["training.warmup_rows", "a quarter"]),
        (["training.decay=cosine"], ["training.decay", "trajectory=independent"]),
        (["training.epochs=2"], ["training.epochs", "trajectory=independent"]),
        (["objective=clm"], ["data=tinyworld-people with objective=clm", "text rows"]),
        (["mitigation=replay"], ["mitigation=replay", "no anchor", "anchor=NAME"]),
        (["target_suites=[]", "probe_suites=[]"], ["got none", "at least one suite"]),
        (["probe_suites=[tinyworld-people]"], ["probe_suites", "tinyworld-people"]),
        (["seed=0,1"], ["seed", "harness sweep"]),
        (["seed=[0"], ["override", "seed=[0"]),
        (["name=.."], ["name", "letters, digits"]),
        (["tuning.rank=4"], ["tuning.rank", "has no settings"]),
        (["training.warmup_rows=1000", "trajectory=independent"], ["training.warmup_rows", "a quarter"]),
        (["loud"], ["override", "key=value"]),
        (["seed=soon"], ["seed", "'soon'", "an integer"]),
        (["save_weights=some"], ["save_weights", "none, last, all"]),
        (["model.class=os.system"], ["model.class", "harness.models"]),
    ],
)
def test_a_wrong_override_gives_one_line(overrides: list[str], words: list[str]) -> None:
    """What, got, allowed, how to fix: on one line, from any mistake."""
    with pytest.raises(HarnessError) as caught:
        compose.compose(overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
