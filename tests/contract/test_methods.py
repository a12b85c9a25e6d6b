"""What every tuning, objective and mitigation must do, found by walking conf/: a new yaml is tested with no edit here.

A mitigation names the field that turns it off at 0 in a ClassVar ``strength``.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness import compose, paths
from harness.interfaces import Example, Mitigation, Objective, PenaltyContext, Row, RowKind, Tuning
from harness.seeds import derive, permutation
from harness.training_step import token_mean
from tests.contract import tiny

GROUPS = ["tuning", "objective", "mitigation"]
BATCH, STEPS, ANCHOR = 8, 2, 16

KINDS: dict[RowKind, str] = {"text": "plain", "completion": "plain", "chat": "chat"}
"""Row kind → the prompt format it is learned in here."""


def names(group: str) -> list[str]:
    return list(paths.members(f"conf/{group}"))


LEARNED = [(name, kind) for name in names("objective") for kind in KINDS if kind in compose.member("objective", name).needs]
"""Every objective with every kind of rows it takes."""

METHODS = [
    pytest.param(tuning, objective, kind, mitigation, model, id=f"{model}-{tuning}-{objective}-{kind}-{mitigation}")
    for tuning in names("tuning")
    for objective, kind in LEARNED
    for mitigation in names("mitigation")
    for model in tiny.MODELS
]


@dataclass
class Outcome:
    """What was seen of one short run; ``model`` is kept of the runs that the tests of a tuning look at."""

    weights: dict[str, torch.Tensor]
    losses: list[float]
    own_loss: tuple[float, float]
    base: dict[str, torch.Tensor]
    model: PreTrainedModel | None


def batches(objective: Objective, kind: RowKind, seed: int) -> list[list[Example]]:
    learned: list[Row] = tiny.rows(kind, BATCH * STEPS)
    order = permutation(seed, len(learned), "data-order")
    examples = [objective.encode(learned[i], tiny.tokenizer(), tiny.MAX_LENGTH, "target") for i in order]
    return [examples[i : i + BATCH] for i in range(0, len(examples), BATCH)]


def loss_of(model: PreTrainedModel, objective: Objective, examples: Sequence[Example]) -> float:
    batch = objective.collate(examples, tiny.PAD, tiny.MAX_LENGTH)
    targets = int((batch["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        outputs: Any = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return float(token_mean(outputs, batch["labels"], targets))


@cache
def outcome(
    tuning_name: str, objective_name: str, kind: RowKind, mitigation_name: str, model_name: str, seed: int = 0, off: bool = False
) -> Outcome:
    """Train two steps. Cached: several tests look at the same run."""
    tuning: Tuning = compose.member("tuning", tuning_name)
    objective = dataclasses.replace(compose.member("objective", objective_name), prompt_format=KINDS[kind])
    mitigation: Mitigation = compose.member("mitigation", mitigation_name)
    if off:
        mitigation = dataclasses.replace(mitigation, **{type(mitigation).strength: 0.0})  # type: ignore[attr-defined, type-var]
    model = tiny.MODELS[model_name]()
    base = tiny.copied(model.state_dict())
    target = batches(objective, kind, seed)
    anchor = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "anchor") for row in tiny.rows(kind, ANCHOR, seed=1)]
    steps = mitigation.mix(target, anchor)
    model = tuning.prepare(model, derive(seed, "adapter"))
    penalty = mitigation.penalty(PenaltyContext(model, base, anchor, tuning, derive(seed, "penalty")))
    before, after = loss_of(model, objective, steps[0]), math.nan

    def look(stop: Any) -> None:
        nonlocal after
        after = loss_of(model, objective, steps[0]) if stop.step == 1 else after

    stops = {step + 1: BATCH * (step + 1) for step in range(STEPS)}
    reached = tiny.run(model, steps, objective, penalty=penalty, stops=stops, on_stop=look, seed=seed, learning_rate=3e-3)
    merged = tuning.merged(model)
    losses = [stop.train_loss or math.nan for stop in reached]
    looked_at = (objective_name, kind, mitigation_name, seed) == ("sft", "completion", "none", 0)
    return Outcome(merged, losses, (before, after), base, model if looked_at else None)


def tuned(tuning_name: str, model_name: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor], Tuning]:
    """A model after two steps, the weights it started from, and its tuning."""
    seen = outcome(tuning_name, "sft", "completion", "none", model_name)
    assert seen.model is not None
    return seen.model, seen.base, compose.member("tuning", tuning_name)


@pytest.mark.parametrize("group", GROUPS)
def test_a_methods_yaml_and_its_code_have_the_same_path(group: str) -> None:
    """conf/mitigation/x.yaml names a class of harness/mitigation/x.py, and every such file has its yaml."""
    folder = Path(compose.__file__).parent / group
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    named = {name: compose.load_yaml(path)["class"] for name, path in paths.members(f"conf/{group}").items()}
    assert {name: cls.rsplit(".", 1)[0] for name, cls in named.items()} == {name: f"harness.{group}.{name}" for name in modules}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in names(group)])
def test_a_method_is_a_frozen_value(group: str, name: str) -> None:
    """Built from its yaml twice, it is equal, cannot be changed, and is hashable, so that it can be part of an identity."""
    first, second = compose.member(group, name), compose.member(group, name)
    assert first == second
    assert hash(first) == hash(second)
    assert type(first).__dataclass_params__.frozen


@pytest.mark.parametrize(("tuning", "objective", "kind", "mitigation", "model"), METHODS)
def test_two_steps_are_finite_and_a_step_lowers_its_own_loss(
    tuning: str, objective: str, kind: RowKind, mitigation: str, model: str
) -> None:
    """Every compatible combination trains, on what it was shown."""
    seen = outcome(tuning, objective, kind, mitigation, model)
    assert all(math.isfinite(loss) for loss in seen.losses)
    assert seen.losses[0] == pytest.approx(seen.own_loss[0], rel=1e-5)
    assert seen.own_loss[1] < seen.own_loss[0]


@pytest.mark.parametrize(("tuning", "objective", "kind", "mitigation", "model"), [p for p in METHODS if "none" not in p.values])
def test_a_mitigation_acts_and_at_zero_strength_is_none(tuning: str, objective: str, kind: RowKind, mitigation: str, model: str) -> None:
    """At its default it changes the weights; turned off, they are those of ``none`` in every bit."""
    plain = outcome(tuning, objective, kind, "none", model).weights
    assert not tiny.same(outcome(tuning, objective, kind, mitigation, model).weights, plain)
    assert tiny.same(outcome(tuning, objective, kind, mitigation, model, off=True).weights, plain)


@pytest.mark.parametrize(("tuning", "objective", "kind", "mitigation", "model"), [p for p in METHODS if "llama" in p.values])
def test_a_seed_decides_every_bit(tuning: str, objective: str, kind: RowKind, mitigation: str, model: str) -> None:
    """The same seed gives the same weights; another one does not."""
    first = outcome(tuning, objective, kind, mitigation, model).weights
    assert tiny.same(outcome.__wrapped__(tuning, objective, kind, mitigation, model).weights, first)
    assert not tiny.same(outcome(tuning, objective, kind, mitigation, model, seed=1).weights, first)


@pytest.mark.parametrize("mitigation", names("mitigation"))
def test_a_mitigation_leaves_its_inputs_alone(mitigation: str) -> None:
    """Steps, anchor and weights are as before, and smaller volumes are prefixes of larger ones."""
    method: Mitigation = compose.member("mitigation", mitigation)
    objective: Objective = compose.member("objective", "sft")
    steps = batches(objective, "completion", 0)
    anchor = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "anchor") for row in tiny.rows("completion", ANCHOR, seed=1)]
    kept = copy.deepcopy((steps, anchor))
    mixed = method.mix(steps, anchor)
    assert (steps, anchor) == kept
    assert len(mixed) == len(steps)
    assert method.mix(steps[:1], anchor) == mixed[:1]
    assert sum(example.origin == "anchor" for step in mixed for example in step) <= len(anchor)


@pytest.mark.parametrize("model", tiny.MODELS)
@pytest.mark.parametrize("tuning", names("tuning"))
def test_deltas_are_merged_minus_base_by_plain_names(tuning: str, model: str) -> None:
    """Whatever the tuning: names of the plain model, differentiable, and nothing moved that deltas does not name."""
    trained, base, method = tuned(tuning, model)
    deltas = dict(method.deltas(trained, base))
    merged = method.merged(trained)
    assert deltas.keys() <= merged.keys() <= base.keys()
    assert all(delta.requires_grad for delta in deltas.values())
    for name, value in merged.items():
        moved = deltas[name].detach() if name in deltas else torch.zeros_like(value)
        torch.testing.assert_close(base[name] + moved, value, rtol=0, atol=1e-6)
    assert any(bool(delta.abs().max() > 0) for delta in deltas.values())


@pytest.mark.parametrize("model", tiny.MODELS)
@pytest.mark.parametrize("tuning", names("tuning"))
def test_merged_weights_in_a_plain_model_speak_as_the_tuned_one(tuning: str, model: str) -> None:
    """Logits agree within 1e-5, and merging has not changed the tuned model."""
    trained, _, method = tuned(tuning, model)
    before = logits(trained)
    plain = tiny.MODELS[model]()
    missing, unexpected = plain.load_state_dict(method.merged(trained), strict=False)
    plain.tie_weights()
    assert unexpected == []
    assert all(plain.state_dict()[name].data_ptr() in {p.data_ptr() for p in plain.parameters()} for name in missing), missing
    torch.testing.assert_close(logits(plain), before, rtol=0, atol=1e-5)
    assert torch.equal(logits(trained), before)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("model", tiny.MODELS)
@pytest.mark.parametrize("tuning", names("tuning"))
def test_a_tuned_model_computes_as_its_base_and_then_as_before(tuning: str, model: str, broken: bool) -> None:
    """Both to the last bit, embeddings tied (llama) or not (gpt_neox), also after an error; parameters stay the same objects."""
    trained, base, method = tuned(tuning, model)
    before, state = logits(trained), tiny.copied(trained.state_dict())
    parameters = {name: (parameter, parameter.requires_grad) for name, parameter in trained.named_parameters()}
    with contextlib.suppress(RuntimeError), method.base_weights(trained, base):
        assert torch.equal(logits(trained), logits(tiny.MODELS[model]()))
        if broken:
            raise RuntimeError
    assert torch.equal(logits(trained), before)
    assert tiny.same(trained.state_dict(), state)
    assert all(parameters[name] == (parameter, parameter.requires_grad) for name, parameter in trained.named_parameters())
    assert tiny.same(tiny.copied(tiny.MODELS[model]().state_dict()), base)


@pytest.mark.parametrize("tuning", names("tuning"))
def test_computing_as_the_base_leaves_training_alone(tuning: str) -> None:
    """Two steps with the base asked between them give the weights of two steps."""
    method, objective = compose.member("tuning", tuning), compose.member("objective", "sft")
    model = tiny.MODELS["llama"]()
    base = tiny.copied(model.state_dict())
    model = method.prepare(model, derive(0, "adapter"))

    def ask(_: Any) -> None:
        with method.base_weights(model, base):
            logits(model)

    stops = {step + 1: BATCH * (step + 1) for step in range(STEPS)}
    tiny.run(model, batches(objective, "completion", 0), objective, stops=stops, on_stop=ask, learning_rate=3e-3)
    assert tiny.same(method.merged(model), outcome(tuning, "sft", "completion", "none", "llama").weights)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21 asks for it, see harness/tuning/lora.py
@pytest.mark.parametrize("model", tiny.MODELS)
@pytest.mark.parametrize("tuning", names("tuning"))
def test_saved_weights_speak_as_the_tuned_model(tuning: str, model: str, tmp_path: Path) -> None:
    """Loaded again, logits agree; nothing is pickled."""
    trained, _, method = tuned(tuning, model)
    method.save(trained, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json"}
    if (tmp_path / "adapter_config.json").exists():
        loaded: Any = PeftModel.from_pretrained(tiny.MODELS[model](), str(tmp_path))
    else:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded.eval()), logits(trained), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tuning", names("tuning"))
def test_a_tuning_reports_what_it_resolved(tuning: str) -> None:
    """Plain values, among them the number of trainable parameters; its default rate falls with size."""
    trained, _, method = tuned(tuning, "llama")
    assert method.facts(trained)["trainable"] == sum(p.numel() for p in trained.parameters() if p.requires_grad)
    assert 0 < method.default_learning_rate(7_000_000_000) < method.default_learning_rate(100_000) < 0.1


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([[tiny.BOS, 7, 8, 9, 10, 11], [tiny.BOS, 20, 12, 30, 9, 7]])
    with torch.no_grad():
        return model(input_ids=ids).logits
