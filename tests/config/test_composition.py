"""Yaml and overrides to RunConfig, and the mistakes that users make there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import composition, overrides, paths
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, HarnessError
from harness.data.sources import Files
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
        if path.stem.startswith("files") or path.stem == overrides.PATH_MEMBER:
            needs = {"train": "x.jsonl"}
        if (overrides.folder_of(group), name) in {("conf/model", "hf"), ("conf/data", overrides.HUB_MEMBER)}:
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


@pytest.mark.parametrize("seed", ["9223372036854775808", "4294967296", "-1"])
def test_seeds_of_more_than_32_bits_are_rejected(seed: str) -> None:
    """Libraries seed their generators with 32 bits; a table holds 63."""
    with pytest.raises(ConfigError, match=f"^seed: got {seed}; allowed: a whole number from 0 to 4294967295$"):
        composition.compose([f"seed={seed}"])
    with pytest.raises(ConfigError, match=f"^model.seed: got {seed}; allowed: "):
        composition.compose([f"+model.seed={seed}"])
    assert composition.compose(["seed=4294967295"]).seed == 4294967295


def test_data_and_anchor_may_be_files(tmp_path: Path) -> None:
    """A path, also with a space, a quote or a pattern, stands for the member that reads it."""
    for name in ("rows.jsonl", "it's mine.jsonl"):
        path = tmp_path / name
        path.write_text('{"prompt": "a", "completion": "b"}')
        quoted = "'" + str(path).replace("'", "\\'") + "'"
        config = composition.compose([f"data={quoted}", f"anchor={quoted}", "probe_suites=[tinyworld]"])
        assert config.data == config.anchor == Files(train=str(path))
        assert config.labels.data == config.labels.anchor == str(path)
    found = overrides.parse([f"data={tmp_path}/*.jsonl", "data.volumes=[8]"])
    assert (found.choices, found.values) == ({"data": "path"}, {"data.train": f"'{tmp_path}/*.jsonl'", "data.volumes": "[8]"})
    assert composition.member("data", str(tmp_path / "rows.jsonl")) == Files(train=str(tmp_path / "rows.jsonl"))


def test_an_axis_of_files_is_one_point_each(tmp_path: Path) -> None:
    """A sweep over files, next to a member."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}')
    found = axes.expand([f"data={tmp_path}/a.jsonl,tinyworld-skill,{tmp_path}/b.jsonl", "probe_suites=[tinyworld]", "name=x"])
    assert [one.config.labels.data for one in found.asked] == [f"{tmp_path}/a.jsonl", "tinyworld-skill", f"{tmp_path}/b.jsonl"]
    assert [composition.compose(list(one.overrides)) for one in found.asked] == [one.config for one in found.asked]


def test_data_may_be_a_name_of_the_hub() -> None:
    """ORG/NAME that is no file."""
    found = overrides.parse(["data=org/rows", "anchor=org/old"])
    assert found.choices == {"data": "hub", "anchor": "hub"}
    assert found.values == {"data.name": "'org/rows'", "anchor.name": "'org/old'"}


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nothing.jsonl", "does not exist"),
        ("./nothing", "does not exist"),
        ("parts/*.csv", "does not exist"),
        ("tests", "a directory"),
        ("gms8k", "did you mean 'gsm8k'"),
    ],
)
def test_data_that_does_not_exist_is_rejected_at_once(named: str, words: str) -> None:
    """A path says that the file is missing, a name suggests a member."""
    with pytest.raises(ConfigError, match=f"data: got '{named.replace('*', '[*]')}'.*{words}"):
        composition.compose([f"data={named}"])


def test_a_typed_line_break_in_a_template_is_one(tmp_path: Path) -> None:
    r"""``\\n`` is a line break in a field, alone or in a mapping; ``\\n`` is not."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "a", "a": "b"}')
    for typed in (
        [r"data.fields={prompt: 'Q: {{ q }}\nA:', completion: a}"],
        ["data.fields={prompt: q, completion: a}", r"data.fields.prompt='Q: {{ q }}\nA:'"],
    ):
        config = composition.compose([f"data={path}", *typed, "probe_suites=[tinyworld]"])
        assert config.data.fields["prompt"] == "Q: {{ q }}\nA:"  # type: ignore[attr-defined]
    assert r"\\nabla" in overrides.parse([r"data.fields.prompt='\\nabla {{ q }}'"]).values["data.fields.prompt"]


@pytest.mark.parametrize("line", ["override /tuning: ${oc.env:HUE}", "/mitigation: ${oc.env:'HUE'}", "/data/${oc.env:HUE}"])
def test_a_variable_that_a_yaml_reads_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Hydra's message on a member that does not exist would have its value."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "env.yaml").write_text(f"# @package _global_\ndefaults:\n  - {line}\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    monkeypatch.setenv("HUE", "mauve-hidden")
    with pytest.raises(ConfigError, match=r"configuration: got .*\*\*\*") as caught:
        composition.compose(["experiment=env"])
    assert "mauve" not in str(caught.value)


def test_a_variable_of_one_letter_leaves_an_error_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value is masked as a word alone."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "env.yaml").write_text("# ${oc.env:DEBUGX}\ndefaults:\n  - /data/palette\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    monkeypatch.setenv("DEBUGX", "a")
    with pytest.raises(ConfigError, match=r"configuration: got .*palette.*; fix: check the overrides and the yaml they name"):
        composition.compose(["experiment=env"])
