"""Wrong inputs to the real command: one line, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.cli.app import main
from harness.records.store import Experiment

MODEL = "model=nursery-smoke-a"
QUICK = [MODEL, "data.volumes=[8]"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def assert_rejected(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for path in Path().rglob("*"))
    capsys.readouterr()  # what preparing the input printed
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("harness: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert all(word in err for word in words), err
    assert sorted(str(path) for path in Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=hf", "model.name=./absent"], ["./absent"]),
        (["model=hf", "model.name=org/absent-model"], ["org/absent-model"]),
        (["modle=hf"], ["did you mean 'model'"]),
        ([MODEL, "data.volmes=[8]"], ["data.volmes", "did you mean 'volumes'"]),
        ([MODEL, "data.volumes=[-8]"], ["data.volumes"]),
        ([MODEL, "data.volumes=[80000000]"], ["data.volumes", "80000000", "at most"]),
        ([MODEL, "data.volumes=[9]"], ["multiples of training.batch_rows"]),
        ([*QUICK, "probe_suites=[tinywrold]"], ["did you mean 'tinyworld'"]),
        ([*QUICK, "tuning=lora", "tuning.rank=0"], ["tuning.rank"]),
        ([*QUICK, "training.learning_rate=fast"], ["training.learning_rate", "a number"]),
        ([*QUICK, "mitigation=replay"], ["no anchor"]),
        ([*QUICK, "objective=clm"], ["text rows"]),
        ([*QUICK, "seed=1,2"], ["harness sweep"]),
        ([MODEL, "data=files", "data.train=absent.jsonl"], ["absent.jsonl"]),
        (["model.class=os.system"], ["harness.models"]),
        ([*QUICK, "evaluation.items=best"], ["report, select"]),
        ([*QUICK, "evaluation.items=select", "probe_suites=[tinyworld_text]"], ["select"]),
    ],
)
def test_a_wrong_override_is_one_line(overrides: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake on the command line is found before anything is built or written."""
    assert_rejected(["run", *overrides], words, capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tinywrold"], ["did you mean 'tinyworld'"]),
        (["tinyworld", MODEL, "--item", "900"], ["item", "900", "1 to 400"]),
        (["tinyworld", MODEL, "--item", "0"], ["1 to 400"]),
        (["tinyworld", "model=nurse"], ["model", "nursery-s"]),
        (["tinyworld", "modle=hf"], ["did you mean 'model'"]),
        (["tinyworld", MODEL, "evaluation.prompt_format=chat"], ["no chat template", "prompt_format=plain"]),
        (["tinyworld", "model=hf", "model.name=./absent"], ["./absent"]),
        (["drift_anchor", MODEL], ["anchor"]),
    ],
)
def test_a_prompt_that_cannot_be_shown_is_one_line(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The suite, model or item does not exist, or the model has no chat template."""
    assert_rejected(["prompt", *arguments], words, capsys)


def files(*extra: str) -> list[str]:
    return ["run", MODEL, "data=files", "data.volumes=[8]", "data.kind=completion", *extra]


@pytest.mark.parametrize(
    ("content", "fields", "words"),
    [
        ("", "{prompt: q, completion: a}", ["rows.jsonl"]),
        ('{"q": "x", "b": "y"}\n' * 9, "{prompt: q, completion: a}", ["no column 'a'", "q, b"]),
        ('{"q": "x", "a": ""}\n' * 9, "{prompt: q, completion: a}", ["empty"]),
        ('{"q": "x", ', "{prompt: q, completion: a}", ["rows.jsonl"]),
        ('{"q": "x", "a": "y"}\n' * 9, "{prompt: q}", ["completion"]),
    ],
)
def test_broken_data_are_one_line(content: str, fields: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the file, row or columns that are empty, incomplete or damaged."""
    Path("rows.jsonl").write_text(content)
    assert_rejected(files("data.train=rows.jsonl", f"data.fields={fields}"), words, capsys)


@pytest.mark.parametrize("damage", ["cut", "header", "pickle"])
def test_damaged_weights_are_one_line(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are cut or overwritten safetensors, or only a pickle; no model is built."""
    folder = _saved_model(Path("model"))
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "header":
        weights.write_bytes(b"\xff" * 200)
    else:
        weights.rename(folder / "pytorch_model.bin")
    assert_rejected(["run", "model=hf", "model.name=./model", "data.volumes=[8]"], ["safetensors"], capsys)


def _saved_model(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.config import composition

    composition.compose([MODEL]).model.tokenizer().save_pretrained(folder)
    config = LlamaConfig(vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="needs a place that cannot be written")
def test_a_results_folder_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It is found before training, not after."""
    assert_rejected(["run", *QUICK, "results=/proc/results"], ["not writable"], capsys)


def test_an_experiment_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, reports and sweeps name the existing ones."""
    assert_rejected(["table", "absent"], ["absent"], capsys)
    assert_rejected(["report", "absent"], ["absent"], capsys)
    assert_rejected(["sweep", "experiment=absent"], ["absent", "tiny"], capsys)
    assert_rejected(["sweep"], ["neither an experiment nor a name", "tiny"], capsys)
    assert_rejected(["list", "modles"], ["modles", "model"], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["table", "~no-such-user/a"],
        ["status", "a", "--results", "~no-such-user"],
        ["report", "a", "results=~no-such-user/b"],
        ["learning-rates", "~no-such-user/a"],
        ["fit", "~no-such-user/a", "--law", "power"],
        ["compare", "~no-such-user/a", "~no-such-user/b"],
        ["run", MODEL, "results='~no-such-user/a'"],
        ["run", "model='~no-such-user/a'"],
        ["run", "model=hf", "model.name='~no-such-user/a'", "data.volumes=[8]"],
        ["run", MODEL, "data='~no-such-user/a.jsonl'"],
        ["run", MODEL, "data=files", "data.train='~no-such-user/*.jsonl'"],
    ],
)
def test_the_home_of_an_unknown_user_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In every path that may begin with ~."""
    assert_rejected(arguments, ["path '~no-such-user", "without a known home directory"], capsys)


def test_a_record_of_a_newer_schema_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A record that this version cannot read is an error, not read in part."""
    folder = Experiment(Path("results/new")).run_folder("abc")
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"schema_version": 99, "protocol_version": 1}))
    assert_rejected(["table", "new"], ["record.json", "schema_version", "99"], capsys)
    assert_rejected(["report", "new"], ["schema_version"], capsys)
