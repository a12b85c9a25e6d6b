"""What every tuning, objective and mitigation must do, found by walking conf/: a new yaml is tested with no edit here.

A mitigation names the field that turns it off at 0 in a ClassVar ``strength``, or the values that
do in a ClassVar ``off``.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

import harness.methods
from harness.config import composition, paths
from harness.core.tuning import Tuning
from harness.core.seeds import derive
from tests.support import tiny
from tests.support.pairs import BATCH, GROUPS, STEPS, Case, Outcome, cases, encoded, names, outcome, refusal, target_rows

CASES = cases()
TRAINED = [case for case in CASES if not refusal(case)]
REFUSED = [case for case in CASES if refusal(case)]
WITH_MITIGATION = [
    case for case in TRAINED if case.mitigation != "none" and not composition.member("mitigation", case.mitigation).keeps_best
]
"""But for early stopping, which changes no weights: it chooses among volumes."""


def tuned(tuning_name: str, model_name: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor], Tuning]:
    """A model after two steps, the weights it started from, and its tuning."""
    seen = plainly(tuning_name, model_name)
    return seen.model, seen.base, composition.member("tuning", tuning_name)


def plainly(tuning_name: str, model_name: str) -> Outcome:
    return outcome(Case(tuning_name, "sft", "completion", "none", model_name))


@pytest.mark.parametrize("group", GROUPS)
def test_a_methods_yaml_and_its_code_have_the_same_path(group: str) -> None:
    """conf/mitigation/x.yaml names a class of harness/mitigation/x.py, and every such file has its yaml."""
    folder = Path(harness.methods.__file__).parent / group
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    named = {name: composition.load_yaml(path)["class"] for name, path in paths.members(f"conf/{group}").items()}
    assert {name: cls.rsplit(".", 1)[0] for name, cls in named.items()} == {name: name for name in modules}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in names(group)])
def test_a_method_is_a_frozen_value(group: str, name: str) -> None:
    """Built from its yaml twice, it is equal, cannot be changed, and is hashable, so that it can be part of an identity."""
    first, second = composition.member(group, name), composition.member(group, name)
    assert first == second
    assert hash(first) == hash(second)
    assert type(first).__dataclass_params__.frozen


def ids(found: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case.id) for case in found]


@pytest.mark.parametrize("case", ids(TRAINED))
def test_two_steps_are_finite_and_a_step_lowers_its_own_loss(case: Case) -> None:
    """Every pair that goes together trains, on what it was shown.

    Of pairs and rewards their own tests say what a step does.
    """
    seen = outcome(case)
    assert all(math.isfinite(loss) for loss in seen.losses)
    assert seen.unmutated
    if composition.member("objective", case.objective).learns == "tokens":
        assert seen.losses[0] == pytest.approx(seen.own_loss[0], rel=1e-5)
        assert seen.own_loss[1] < seen.own_loss[0]


@pytest.mark.parametrize("case", ids(REFUSED))
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(case: Case) -> None:
    """In one line that says what, and what to do; and a method alone is never what is refused."""
    reason = refusal(case)
    assert "\n" not in reason
    assert case.mitigation in reason or case.objective in reason
    assert any(one.mitigation == case.mitigation for one in TRAINED)
    assert any(one.objective == case.objective for one in TRAINED)


@pytest.mark.parametrize("case", ids(WITH_MITIGATION))
def test_a_mitigation_acts_and_turned_off_is_none(case: Case) -> None:
    """At its default it changes the weights.

    Turned off, they are those of ``none`` in every bit, and it costs nothing.
    """
    plain = outcome(Case(case.tuning, case.objective, case.kind, "none", case.model))
    off = outcome(case, off=True)
    assert tiny.same(off.weights, plain.weights)
    assert (off.generated, off.extra, off.penalties) == (plain.generated, 0, [None] * STEPS)
    assert not tiny.same(outcome(case).weights, plain.weights)


@pytest.mark.parametrize("case", ids(TRAINED))
def test_what_a_method_costs_is_counted(case: Case) -> None:
    """Tokens of those that write, in training or before it; of a penalty, its share of the loss."""
    seen = outcome(case)
    objective, mitigation = composition.member("objective", case.objective), composition.member("mitigation", case.mitigation)
    assert (seen.generated > 0) == bool(objective.writes or mitigation.writes or objective.learns == "rewards")
    assert all(value is None or value >= 0 for value in seen.penalties)
    assert (seen.penalties[-1] is None) or seen.penalties[-1] > 0  # the first step starts where the start model is


@pytest.mark.parametrize("case", ids([case for case in TRAINED if case.model == "llama"]))
def test_a_seed_decides_every_bit(case: Case) -> None:
    """The same seed gives the same weights; another one does not."""
    first = outcome(case).weights
    assert tiny.same(outcome.__wrapped__(case).weights, first)
    assert not tiny.same(outcome(case, seed=1).weights, first)


@pytest.mark.parametrize("mitigation", names("mitigation"))
def test_smaller_volumes_are_prefixes_of_larger_ones(mitigation: str) -> None:
    """Whatever is mixed in."""
    method, objective = composition.member("mitigation", mitigation), composition.member("objective", "sft")
    rows = encoded(objective, target_rows(Case("full", "sft", "completion", mitigation), 0), "target")
    steps = [rows[:BATCH], rows[BATCH : 2 * BATCH]]
    anchor = encoded(objective, tiny.rows("completion", 16, seed=1), "anchor")
    mixed = method.mix(steps, anchor)
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
    """Both to the last bit, embeddings tied (llama) or not (gpt_neox), also after an error.

    Parameters stay the same objects.
    """
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
    method, objective = composition.member("tuning", tuning), composition.member("objective", "sft")
    model = tiny.MODELS["llama"]()
    base = tiny.copied(model.state_dict())
    model = method.prepare(model, derive(0, "adapter"))

    def ask(_: Any) -> None:
        with method.base_weights(model, base):
            logits(model)

    stops = {step + 1: BATCH * (step + 1) for step in range(STEPS)}
    rows = encoded(objective, target_rows(Case(tuning, "sft", "completion", "none"), 0)[: BATCH * STEPS], "target")
    tiny.run(model, [rows[:BATCH], rows[BATCH:]], objective, stops=stops, on_stop=ask, learning_rate=3e-3)
    assert tiny.same(method.merged(model), plainly(tuning, "llama").weights)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21 asks for it, see harness/methods/tuning/lora.py
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
    """Plain values, among them the number of trainable parameters.

    Its default rate falls with size.
    """
    trained, _, method = tuned(tuning, "llama")
    assert method.facts(trained)["trainable"] == sum(p.numel() for p in trained.parameters() if p.requires_grad)
    assert 0 < method.default_learning_rate(7_000_000_000) < method.default_learning_rate(100_000) < 0.1


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([[tiny.BOS, 7, 8, 9, 10, 11], [tiny.BOS, 20, 12, 30, 9, 7]])
    with torch.no_grad():
        return model(input_ids=ids).logits
