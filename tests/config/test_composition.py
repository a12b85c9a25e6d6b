"""Yaml and overrides to RunConfig, and the mistakes that users make there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import composition, overrides, paths
from harness.config.yaml_files import load_yaml
from harness.core.errors import HarnessError
from harness.sweep import axes


def test_the_bare_configuration_is_the_embedded_default() -> None:
    """Without overrides, `harness run` tunes a nursery model on tinyworld-people."""
    config = composition.compose([])
    assert (config.labels.model, config.labels.tuning, config.labels.data) == ("nursery-s", "full", "tinyworld-people")
    assert config.name == "adhoc"
    assert config.anchor is None


@pytest.mark.parametrize("group", sorted(overrides.PACKAGES))
def test_every_member_of_every_group_is_a_class_of_its_package(group: str) -> None:
    """Each yaml builds; those that need a value are given one."""
    for name, path in paths.members(overrides.folder_of(group)).items():
        values = load_yaml(path)
        needs: dict[str, object] = {}
        if path.stem.startswith("files"):
            needs = {"train": "x.jsonl"}
        if (overrides.folder_of(group), name) == ("conf/model", "hf"):
            needs = {"name": "x"}
        built = composition.instantiate(group, values | needs, f"{group}={name}")
        assert type(built).__module__.startswith(overrides.PACKAGES[group])


def test_overrides_reach_fields_that_no_yaml_lists() -> None:
    """Defaults are in the dataclasses, and any of them can be overridden."""
    config = composition.compose(["tuning=lora", "tuning.rank=4", "data.volumes=[16,64]", "training.learning_rate=1e-4", "name=x"])
    assert config.tuning.rank == 4  # type: ignore[attr-defined]
    assert config.data.volumes == (16, 64)
    assert config.training.learning_rate == 1e-4
    assert config.labels.tuning == "lora[rank=4]"
    assert config.name == "x"


def test_of_two_overrides_of_a_key_the_last_counts() -> None:
    """A script can append overrides to its arguments."""
    config = composition.compose(["seed=1", "tuning=lora", "mitigation=l2", "seed=2", "tuning=rslora", "mitigation=l2"])
    assert (config.seed, config.labels.tuning, config.labels.mitigation) == (2, "rslora", "l2")


def test_a_digit_only_revision_stays_text() -> None:
    """7012345 and 12e45678 are revisions, not numbers."""
    for revision in ["7012345", "12e45678", "1_000"]:
        config = composition.compose(["model=hf", "model.name=org/some-model", f"model.revision={revision}"])
        assert config.model.revision == revision  # type: ignore[attr-defined]
        assert config.labels.model == f"org/some-model[revision={revision}]"


def test_the_target_suite_follows_the_data_where_none_is_given() -> None:
    """Tinyworld's data have suites of their name; for other data, a suite must be named."""
    assert composition.compose([]).target_suites == ("tinyworld-people",)
    assert composition.compose(["data=tinyworld-skill"]).target_suites == ("tinyworld-skill",)
    assert composition.compose(["data=gsm8k"]).target_suites == ()
    assert composition.compose(["data=gsm8k", "target_suites=[math_nll]"]).target_suites == ("math_nll",)


def test_values_set_by_an_experiment_are_part_of_the_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank set by an experiment is in the label; its name is its file's."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\n# mine\ndefaults:\n  - override /tuning: lora\ntuning:\n  rank: 4\n"
    (folder / "mine.yaml").write_text(text)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    (asked,) = axes.expand(["experiment=mine"]).asked
    assert (asked.config.labels.tuning, asked.config.name) == ("lora[rank=4]", "mine")


def test_a_label_shows_long_texts_and_pairs_in_brief() -> None:
    """A template is cut; pairs of models are shown by their names."""
    config = composition.compose(["mitigation=sdft", "mitigation.template='{prompt} the answer is : {answer} . say it again'"])
    assert config.labels.mitigation == "sdft[template={prompt} the answer …]"
    config = composition.compose(["mitigation=chat_vector", "mitigation.vectors=[{chat: nursery-m-chat, base: nursery-m}]"])
    assert config.labels.mitigation == "chat_vector[vectors=nursery-m-chat/nursery-m]"


def test_anchors_are_any_data_yaml() -> None:
    """The members of the anchor group are those of data."""
    config = composition.compose(["mitigation=replay", "anchor=tinyworld-base"])
    assert config.labels.anchor == "tinyworld-base"
    assert config.anchor is not None


def test_every_override_has_a_form_that_hydra_takes() -> None:
    """Keys that no yaml lists are forced in; an anchor is data of another package."""
    given = ["tuning=lora", "tuning.rank=4", "anchor=tinyworld-base", "mitigation=replay", "seed=3", "+name=x", "experiment=null"]
    hydra = [one for text in given for one in overrides.for_hydra(text)]
    assert hydra == [
        "tuning=lora",
        "++tuning.rank=4",
        "data@anchor=tinyworld-base",
        "mitigation=replay",
        "++seed=3",
        "++name=x",
        "~experiment",
    ]
    assert composition.compose(hydra) == composition.compose(given)
    assert overrides.for_hydra("anchor=null,tinyworld-base") == ["data@anchor=null,tinyworld-base"]


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
        (["mitigation=l2", "mitigation=kl"], ["mitigation: got l2 and kl", "mitigation=l2,kl"]),
        (["seed=0,1", "seed=2,3"], ["seed: got 0,1 and 2,3", "one axis"]),
        (["seed=0", "seed=1,2"], ["seed: got 1,2 and 0", "a value or an axis"]),
        (["loud"], ["override", "key=value"]),
        (["seed=soon"], ["seed", "'soon'", "an integer"]),
        (["save_weights=some"], ["save_weights", "none, last, all"]),
        (["model.class=os.system"], ["model.class", "harness.models"]),
    ],
)
def test_a_wrong_override_is_an_error_of_one_line(overrides: list[str], words: list[str]) -> None:
    """The message names what is wrong, what is allowed and how to fix it."""
    with pytest.raises(HarnessError) as caught:
        composition.compose(overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
