"""``model=`` and ``reference=``: a member of conf/model, a folder, or a hub name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config import composition, overrides
from harness.core.errors import ConfigError
from harness.models.hub import HubModel
from harness.sweep import axes


def test_a_group_of_models_takes_folders_and_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member first, then a folder, then a hub name; anything else is today's error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    common = ["data=tinyworld-people", "tuning=full"]
    assert composition.compose(["model=./mine", *common]).model == HubModel(name="./mine")
    assert composition.compose(["model=mine", *common]).labels.model == "mine"
    given = composition.compose(["model=nursery-xs", "reference=org/m@old", *common])
    assert (given.reference, given.labels.reference) == (HubModel(name="org/m@old"), "org/m@old")
    (tmp_path / "nursery-xs").mkdir()
    assert composition.compose(["model=nursery-xs", *common]).labels.model == "nursery-xs"
    revised: Any = composition.compose(["model=pythia-14m@step512", *common]).model
    assert (revised.name, revised.revision) == ("EleutherAI/pythia-14m", "step512")
    with pytest.raises(ConfigError, match=r"model: got 'nursery-xz'; .*did you mean 'nursery-xs'"):
        composition.compose(["model=nursery-xz", *common])
    with pytest.raises(ConfigError, match=r"model\.name: got './mine' and other"):
        composition.compose(["model=./mine", "model.name=other", *common])


def test_an_axis_of_models_takes_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    found = axes.expand(["model=nursery-xs,./mine,org/m@old", "data=tinyworld-people", "tuning=full", "seed=0,1"]).asked
    assert [one.config.labels.model for one in found[::2]] == ["nursery-xs", "./mine", "org/m@old"]
    assert [composition.compose(one.overrides) for one in found] == [one.config for one in found]


def test_hydras_command_line_takes_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One override becomes two."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it's").mkdir()
    assert overrides.for_hydra("model=org/m@old") == ["model=hf", "++model.name='org/m@old'"]
    assert overrides.for_hydra("reference=org/m") == ["model@reference=hf", "++reference.name='org/m'"]
    assert composition.compose(["model='it\\'s'", "data=tinyworld-people", "tuning=full"]).model == HubModel(name="it's")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./mine@main", "got './mine@main', a revision of a folder; allowed: revisions of hub models; fix: model=./mine$"),
        ("./mime", "got './mime', a directory that does not exist; allowed: a folder of a model; fix: did you mean 'mine'?"),
        ("./else", "fix: check the path; a relative one starts from the current directory"),
        ("nursery-s@step10", "allowed: nursery-s, which has no revisions; fix: model=nursery-s$"),
    ],
)
def test_a_folder_that_is_misspelt_or_has_a_revision_comes_with_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    """Instead of a list of all models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=message):
        composition.compose([f"model={model}", "data=tinyworld-people", "tuning=full"])


def test_a_word_that_is_a_member_comes_with_its_key() -> None:
    """An experiment with the command that sweeps it."""
    for word, fix in (("tiny", "harness sweep experiment=tiny"), ("lora", "tuning=lora"), ("other", "write key=value; ")):
        with pytest.raises(ConfigError, match=f"override: got '{word}'; allowed: key=value; fix: {fix}"):
            composition.compose([word])
