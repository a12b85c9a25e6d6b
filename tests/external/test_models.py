"""`harness compare` on tiny live models, and on lm-eval's own output of them."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from harness.cli import app
from harness.config import composition
from harness.core.errors import ConfigError, ModelError
from harness.core.progress import Silent
from harness.core.seeds import seed_torch, untouched_global_streams
from harness.external import models
from harness.methods.tuning.lora import Lora
from harness.models.hub import HubModel
from tests.support import tiny

TASKS = ["tinyworld_arithmetic", "tinyworld_grammar"]


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    """The nursery's tokenizer."""
    found: PreTrainedTokenizerBase = composition.member("model", "nursery-smoke-a").tokenizer()
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, words: PreTrainedTokenizerBase) -> Path:
    """Three folders of models.

    base/ is random, other/ the same with noise on its weights, adapter/ LoRA on base with B ≠ 0.
    """
    folder = tmp_path_factory.mktemp("models")
    model = _llama(words)
    _save(model, words, folder / "base")
    with untouched_global_streams():
        seed_torch(1)
        _save_adapter(AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32), folder / "adapter")
        other = _llama(words)
        with torch.no_grad():
            for weight in other.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        _save(other, words, folder / "other")
    suites = folder / "own" / "benchmarks" / "suites"
    suites.mkdir(parents=True)
    (suites / "short.yaml").write_text(f"# Some items.\nkind: lm_eval\ntasks: [{', '.join(TASKS)}]\nmetric: acc\nreport: 40\n")
    return folder


def _llama(words: PreTrainedTokenizerBase) -> PreTrainedModel:
    return tiny.llama(vocab_size=len(words), max_position_embeddings=64)


def _save(model: PreTrainedModel, words: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def _save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Save an adapter that changes the model."""
    tuning = Lora(rank=2, modules=("q_proj", "down_proj"))
    adapted = tuning.prepare(model, seed=0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn_like(weight))
    folder.mkdir()
    tuning.save(adapted, folder)


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with the short suite known."""
    monkeypatch.setenv("HARNESS_PATH", str(place / "own"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_adapter_and_its_base_end_to_end(place: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both models are measured and stored; the second time nothing is measured."""
    arguments = ["compare", str(place / "base"), str(place / "adapter"), "--suites", "short", "--json"]
    assert app.main(arguments) == 0
    out, _err = capsys.readouterr()
    values = json.loads(out)
    (suite,) = values["suites"]
    assert [task["task"] for task in values["tasks"]] == TASKS
    assert [task["n"] for task in values["tasks"]] == [40, 40]
    assert suite["delta"] == pytest.approx(sum(task["delta"] for task in values["tasks"]) / 2)
    assert suite["after"] - suite["before"] == pytest.approx(suite["delta"])
    assert suite["agreement"] < 1
    assert suite["numeric_spread"] is not None
    times = [path.stat().st_mtime_ns for path in sorted(here.rglob("measurement.json"))]
    assert len(times) == 2
    assert app.main([*arguments, "--max-loss", "0.99"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [again["suites"], again["tasks"]] == [values["suites"], values["tasks"]]
    assert [path.stat().st_mtime_ns for path in sorted(here.rglob("measurement.json"))] == times


def test_models_that_differ_and_answer_alike_get_a_note(
    here: Path, words: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of the embedding that no text reads: the gate is undecided. One model has no note."""
    model: Any = tiny.llama(vocab_size=len(words), max_position_embeddings=64, tie_word_embeddings=False)
    _save(model, words, here / "one")
    with torch.no_grad():
        model.get_input_embeddings().weight[tiny.PAD] += 1.0
    _save(model, words, here / "other")
    compared = ["compare", str(here / "one"), str(here / "other"), "--suites", "short", "--max-loss", "0.5"]
    assert app.main(compared) == 3
    out = capsys.readouterr().out
    assert "note: every answer is identical to the last digit: their weights or files differ" in out
    assert "undecided: every log-likelihood is the same on both sides" in out
    assert app.main([*compared[:2], *[str(here / "one")], *compared[3:]]) == 0
    assert "is identical" not in capsys.readouterr().out


def test_a_tokenizer_that_appends_eos_changes_no_score(place: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """lm-eval would score the EOS as every answer: no model would differ from another."""
    found = []
    for appends in (False, True):
        for name in ("base", "other"):
            folder = here / f"{name}-{appends}"
            shutil.copytree(place / name, folder)
            if appends:
                file = folder / "tokenizer.json"
                values = json.loads(file.read_text())
                eos = next(token["id"] for token in values["added_tokens"] if token["content"] == "</s>")
                values["post_processor"]["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
                values["post_processor"]["special_tokens"]["</s>"] = {"id": "</s>", "ids": [eos], "tokens": ["</s>"]}
                file.write_text(json.dumps(values))
        sides = [str(here / f"{name}-{appends}") for name in ("base", "other")]
        assert app.main(["compare", *sides, "--suites", "short", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["tasks"] == found[1]["tasks"]
    assert found[0]["suites"][0]["delta"] != 0


def test_a_merged_adapter_computes_as_peft_does(place: Path) -> None:
    source = HubModel(name=str(place / "adapter"), base=str(place / "base"))
    base = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapted = PeftModel.from_pretrained(base, str(place / "adapter")).eval()
    tokens = torch.arange(12)[None] + 5
    with torch.no_grad():
        assert torch.allclose(source.load()(tokens).logits, adapted(tokens).logits, atol=1e-5)
        plain = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32).eval()
        assert not torch.allclose(source.load()(tokens).logits, plain(tokens).logits, atol=1e-2)


def test_an_adapter_is_identified_by_its_own_bytes_and_its_base(place: Path) -> None:
    source = HubModel(name=str(place / "adapter"), base=str(place / "base"))
    other = HubModel(name=str(place / "adapter"), base=str(place / "other"))
    base = HubModel(name=str(place / "base"))
    assert source.facts().content != base.facts().content
    assert len({source.weights_sha256(), other.weights_sha256(), base.weights_sha256()}) == 3
    assert source.facts().params_total == base.facts().params_total
    assert source.longest_input() == 64


def test_an_adapter_whose_base_moved_is_loaded_onto_before_with_a_note(place: Path, here: Path) -> None:
    moved = here / "moved"
    moved.mkdir()
    for file in (place / "adapter").iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    settings = json.loads((moved / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/nowhere/at/all"}
    (moved / "adapter_config.json").write_text(json.dumps(settings))
    config, notes = models.config_of(str(moved), ["short"], [], fallback=str(place / "base"))
    assert config.model == HubModel(name=str(moved), base=str(place / "base"))
    assert "names the base /nowhere/at/all, but is loaded onto" in config.model.facts().notes[0]
    assert notes == []
    with pytest.raises(ConfigError, match="a base that exists"):
        models.config_of(str(moved), ["short"], [], fallback=None)


def test_adapters_that_cannot_be_used_are_rejected(place: Path, here: Path) -> None:
    """Pickled weights; weights for layers that the base does not have."""
    for name, change in {"pickled": {}, "foreign": {"target_modules": ["no_such_layer"]}}.items():
        folder = here / name
        folder.mkdir()
        settings = json.loads((place / "adapter" / "adapter_config.json").read_text()) | change
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        if name == "foreign":
            (folder / "adapter_model.safetensors").write_bytes((place / "adapter" / "adapter_model.safetensors").read_bytes())
    base = str(place / "base")
    with pytest.raises(ModelError, match=r"a directory without adapter_model\.safetensors"):
        HubModel(name=str(here / "pickled"), base=base).facts()
    with pytest.raises(ModelError, match="allowed: an adapter of this base"):
        HubModel(name=str(here / "foreign"), base=base).load()


class Stages(Silent):
    """Keeps the names of stages."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.names.append(name)


def test_each_side_is_measured_under_its_own_name(place: Path, here: Path) -> None:
    """The second model is not measured "before"."""
    stages = Stages()
    models.measure(str(place / "base"), str(place / "adapter"), ["tinyworld_text"], ["results=stages"], stages)
    measured = [name.removeprefix("evaluate tinyworld_text, ") for name in stages.names if name.startswith("evaluate")]
    assert measured == ["before", "before, again in other batches", "after", "after, again in other batches"]


def test_a_nursery_name_is_a_model(here: Path) -> None:
    config, notes = models.config_of("nursery-smoke-a", ["short"], [], fallback=None)
    assert (config.labels.model, config.name, config.probe_suites, notes) == ("nursery-smoke-a", "compare", ("short",), [])


def test_names_with_quotes_and_commas_pass_hydra(here: Path) -> None:
    config, _ = models.config_of("./it's, a=model", ["short"], ["evaluation.prompt_format=chat"], fallback=None)
    assert config.model == HubModel(name="./it's, a=model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--suites: got no suites for two models; allowed: arc, "),
        (["--suites", "nope"], "suite: got 'nope'"),
        (["--suites", "drift_target"], "suite drift_target of a model without a run: got a suite of kind divergence on data=target"),
    ],
)
def test_suites_must_need_no_run(place: Path, here: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert app.main(["compare", str(place / "base"), str(place / "other"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_overrides_of_the_commands_own_keys_are_rejected(place: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["compare", str(place / "base"), str(place / "other"), "model=nursery-s", "--suites", "short"]) == 2
    assert "compare: model: got 'model=nursery-s'" in capsys.readouterr().err


def test_lm_evals_own_output_is_read(place: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of lm-eval's tracker: counts equal its samples, values equal its results."""
    samples = {side: _evaluated(place / model, here / side) for side, model in {"before": "base", "after": "other"}.items()}
    assert app.main(["compare", str(here / "before"), str(here / "after"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {task["task"] for task in values["tasks"]} == set(TASKS)
    for task in values["tasks"]:
        one, other = ([sample["acc"] for sample in samples[side][task["task"]]] for side in ("before", "after"))
        assert task["lost"] == sum(a > b for a, b in zip(one, other, strict=True))
        assert task["gained"] == sum(a < b for a, b in zip(one, other, strict=True))
        assert (task["before"], task["after"]) == (pytest.approx(sum(one) / 30), pytest.approx(sum(other) / 30))
    assert {"grammar_and_sums"} == {suite["suite"] for suite in values["suites"]}
    assert not any("could not be checked" in note for note in values["notes"])


def _evaluated(model: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Evaluate a model as lm-eval's command line does, with a group, 30 items per task.

    Return the samples that it had in memory.
    """
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tasks = folder.parent / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "group.yaml").write_text(f"group: grammar_and_sums\ntask: [{', '.join(TASKS)}]\n")
    own = Path(__file__).resolve().parents[2] / "benchmarks" / "tasks"
    tracker = EvaluationTracker(output_path=str(folder))
    with untouched_global_streams():
        results: Any = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32"},
            tasks=["grammar_and_sums"],
            task_manager=TaskManager(include_path=[str(own), str(tasks)], include_defaults=False),
            limit=30,
            batch_size=8,
            device="cpu",
            bootstrap_iters=0,
            evaluation_tracker=tracker,
        )
    samples = results.pop("samples")
    copied: dict[str, list[dict[str, Any]]] = {name: [dict(sample) for sample in found] for name, found in samples.items()}
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    return copied


def test_models_with_templates_of_their_own_are_asked_through_them(
    place: Path, here: Path, words: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items are paired by content; an adapter's own template is used, and said."""
    template = "{% for message in messages %} SAID {{ message.content }}{% endfor %} <assistant> "
    for name, own in {"base": template.replace("SAID", "<user>"), "adapter": template.replace("SAID", "<user> <user>")}.items():
        (here / name).mkdir()
        for file in (place / name).iterdir():
            (here / name / file.name).write_bytes(file.read_bytes())
        (here / name / "chat_template.jinja").write_text(own)
    settings = json.loads((here / "adapter" / "adapter_config.json").read_text())
    (here / "adapter" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "./base"}))
    assert app.main(["compare", "./base", "./adapter", "--suites", "short", "--json", "evaluation.prompt_format=chat"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [task["n"] for task in values["tasks"]] == [40, 40]
    assert "./adapter brings its own chat template, in place of those of its base ./base" in values["notes"]
    assert any(note.startswith("the chat templates differ: each model is asked through its own") for note in values["notes"])


def test_a_revision_can_be_said_for_each_side(here: Path) -> None:
    """Of a hub name, and of a member of conf/model."""
    config, _ = models.config_of("org/m@step1", ["short"], [], fallback=None)
    assert (config.model, config.labels.model) == (HubModel(name="org/m@step1"), "org/m@step1")
    config, _ = models.config_of("pythia-14m@step512", ["short"], [], fallback=None)
    assert config.model == HubModel(name="EleutherAI/pythia-14m", revision="step512")


def test_a_trainers_output_folder_names_its_checkpoints(place: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (9, 10):
        (here / "out" / f"checkpoint-{step}").mkdir(parents=True)
    assert app.main(["compare", str(place / "base"), "out", "--suites", "short"]) == 2
    assert "of 2 checkpoints; allowed: a folder as save_pretrained writes it; fix: name one of them, such as out/checkpoint-10" in (
        capsys.readouterr().err
    )


def test_another_base_can_be_named_for_the_adapters_of_both_sides(place: Path, here: Path) -> None:
    """It is left out for a whole model."""
    given = f"model.base='{place / 'other'}'"
    config, _ = models.config_of(str(place / "adapter"), ["short"], [given], fallback=None)
    assert config.model == HubModel(name=str(place / "adapter"), base=str(place / "other"))
    config, _ = models.config_of(str(place / "base"), ["short"], [given], fallback=None)
    assert config.model == HubModel(name=str(place / "base"))
