from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from harness.core.errors import ConfigError, DataError
from harness.evaluation.divergence import measures
from harness.methods.mitigation import kl
from harness.methods.mitigation.kl import Kl, divergence
from harness.methods.mitigation.none import NoMitigation
from harness.methods.objective.sft import Sft
from harness.methods.tuning.frozen import Frozen
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.models import forward
from harness.training.step import token_mean
from tests.support import tensor_bytes, tiny
from tests.support.losses import context, gradients, heavy, made, moved, number, one, rows

TUNINGS: dict[str, Any] = {"full": Full(), "lora": Lora(rank=2), "frozen": Frozen()}


def test_the_divergence_is_the_one_computed_by_hand() -> None:
    """For p_b = (¾, ¼) and p_t = (½, ½).

    KL(p_b‖p_t) = ¾ log 1.5 + ¼ log 0.5, KL(p_t‖p_b) = ½ log ⅔ + ½ log 2.
    """
    base, tuned = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert float(divergence(base, tuned, "base_tuned", 1.0)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(divergence(base, tuned, "tuned_base", 1.0)) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_temperature_divides_logits_and_its_square_multiplies_the_sum() -> None:
    """Logits 2·log 3 at T = 2 are log 3 at T = 1, times four; two positions are added."""
    base, tuned = torch.tensor([[2 * math.log(3.0), 0.0]] * 2), torch.zeros(2, 2)
    expected = 2 * 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(divergence(base, tuned, "base_tuned", 2.0)) == pytest.approx(expected)


@pytest.mark.parametrize("direction", ["base_tuned", "tuned_base"])
def test_it_is_the_divergence_that_is_measured(direction: Any) -> None:
    """Its directions have the names of evaluation."""
    base, tuned = (torch.randn(5, 11, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected = float(measures(base, tuned)[f"kl_{direction}"].sum())
    assert float(divergence(base, tuned, direction, 1.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_penalty_is_the_mean_over_supervised_positions(tuning: str) -> None:
    """Against the measures of evaluation, row by row.

    Of a plain model with the start weights and one with the tuned ones.
    """
    method, examples = TUNINGS[tuning], rows(5)
    model, given = context(tiny.llama(), method)
    moved(model)
    value = made(Kl(weight=2.0), given)(model, one(examples))
    start, tuned = tiny.llama(), tiny.llama()
    tuned.load_state_dict(method.merged(model), strict=False)
    with torch.no_grad():
        found = torch.cat([measures(*(forward.logits(m, [row], half=False) for m in (start, tuned)))["kl_base_tuned"] for row in examples])
    assert len(found) == sum(row.supervised_tokens for row in examples)
    assert number(value) == pytest.approx(2 * float(found.mean()), rel=1e-4)


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("make", [lambda: tiny.llama(tied=False), tiny.gpt_neox], ids=["llama", "gpt_neox"])
def test_gradients_are_those_of_a_separate_frozen_copy_to_the_last_bit(make: Any, tuning: str) -> None:
    """The loss's forward pass comes first, then the start weights are restored for a while.

    Neither affects the gradient of the other.
    """
    method, examples = TUNINGS[tuning], rows(4)

    def loss(model: Any) -> torch.Tensor:
        batch = Sft().collate(examples, tiny.PAD, tiny.MAX_LENGTH)
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return token_mean(outputs, batch["labels"], 10)

    model, given = context(make(), method)
    moved(model)
    penalty = made(Kl(weight=0.7), given)
    (loss(model) + penalty(model, one(examples))).backward()
    found = gradients(model)

    other, _ = context(make(), method)
    moved(other)
    with torch.no_grad():
        before = forward.logits(copy.deepcopy(make()), next(forward.chunks(examples, tiny.VOCABULARY)), half=False)
    own = loss(other)
    after = forward.logits(other, next(forward.chunks(examples, tiny.VOCABULARY)), half=False)
    (own + 0.7 * divergence(before, after, "base_tuned", 1.0) / len(after)).backward()
    assert tiny.same(found, gradients(other))
    assert any(bool(gradient.abs().max() > 0) for gradient in found.values())


def test_rows_in_several_parts_give_the_same_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradients agree up to rounding when no two rows fit together."""
    examples = rows(6)
    found = []
    for numbers in (2**25, 1):
        monkeypatch.setattr(forward.chunks, "__defaults__", (numbers,))
        model, given = context(tiny.llama())
        value = made(Kl(), given)(moved(model), one(examples))
        value.backward()
        found.append((number(value), gradients(model)))
    (whole, wanted), (parts, got) = found
    assert parts == pytest.approx(whole, rel=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-7)


def test_it_starts_at_zero_and_leaves_the_model_as_it_was() -> None:
    """No distance before the first step; weights, modes, gradients and streams are unchanged."""
    model, given = context(tiny.llama(attention_dropout=0.0))
    model.train()
    penalty = made(Kl(), given)
    state, stream = tiny.copied(model.state_dict()), torch.get_rng_state()
    assert number(penalty(model, one(rows(3)))) == pytest.approx(0.0, abs=1e-6)
    assert tiny.same(model.state_dict(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_start_model_answers_without_dropout(tuning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits are those of a separate copy in evaluation mode, bit for bit, in every step.

    The live model drops.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(base: torch.Tensor, tuned: torch.Tensor, direction: Any, temperature: float) -> torch.Tensor:
        seen.append((base, tuned.detach()))
        return divergence(base, tuned, direction, temperature)

    monkeypatch.setattr(kl, "divergence", watched)
    (examples,) = forward.chunks(rows(3), tiny.VOCABULARY)
    model, given = context(tiny.llama(attention_dropout=0.5), TUNINGS[tuning])
    model.train()
    penalty = made(Kl(), given)
    with torch.random.fork_rng():
        assert number(penalty(model, one(examples))) > 1e-3
        penalty(model, one(examples))
    with torch.no_grad():
        start = forward.logits(tiny.llama(attention_dropout=0.5).eval(), examples, half=False)
    (first, dropped), (second, again) = seen
    assert torch.equal(first, start)
    assert torch.equal(second, start)
    assert not torch.equal(dropped, start)
    assert not torch.equal(dropped, again)


def test_under_autocast_the_divergence_stays_float32() -> None:
    """Close to that of float32.

    No weight cast for one model serves the other: it is 0 only at the start.
    """
    model, given = context(tiny.llama())
    exact = number(made(Kl(), given)(moved(model), one(rows(4))))
    model, given = context(tiny.llama(), half=True)
    penalty = made(Kl(), given)
    assert number(penalty(model, one(rows(4)))) == 0.0
    value = penalty(moved(model), one(rows(4)))
    assert value.dtype == torch.float32
    assert number(value) == pytest.approx(exact, rel=0.1)


def test_anchor_rows_come_in_their_order_by_the_number_of_the_step() -> None:
    """Two rows a step of five: 0 1, 2 3, 4 0, ….

    Independent of the rows of the step and of earlier steps.
    """
    anchor = rows(5, seed=1, origin="anchor")
    model, given = context(tiny.llama(), anchor=anchor)
    moved(model)
    penalty = made(Kl(inputs="anchor", anchor_batch=2), given)
    third = number(penalty(model, one([], number=2)))
    own = made(Kl(), given)
    assert third == number(own(model, one([anchor[4], anchor[0]])))
    assert number(penalty(model, one([], number=0))) == number(own(model, one(anchor[:2])))
    assert number(penalty(model, one(rows(3), number=2))) == third


def test_rows_without_a_supervised_token_cost_nothing() -> None:
    """A step of such rows has a penalty of 0, and they are not counted."""
    silent, spoken = tiny.example(1, 5, 6, supervised=[]), tiny.example(1, 5, 6, 7, supervised=[2, 3])
    model, given = context(tiny.llama())
    penalty = made(Kl(), given)
    assert number(penalty(moved(model), one([silent]))) == 0.0
    assert number(penalty(model, one([silent, spoken]))) == number(penalty(model, one([spoken])))
    assert Kl().extra_tokens([[silent, spoken], [silent]], []) == 2 * 4


def test_extra_tokens_are_two_passes_over_what_is_read() -> None:
    """By hand: rows of 3, 4 and 5 tokens; of the anchor 6, 7, 8 tokens, two rows a step."""
    steps = [[tiny.example(1, 2, 3), tiny.example(1, 2, 3, 4)], [tiny.example(1, 2, 3, 4, 5)]]
    anchor = [tiny.example(*range(size), origin="anchor") for size in (6, 7, 8)]
    assert Kl().extra_tokens(steps, anchor) == 2 * (3 + 4 + 5)
    assert Kl(inputs="anchor", anchor_batch=2).extra_tokens(steps, anchor) == 2 * (6 + 7 + 8 + 6)
    assert Kl(weight=0.0).extra_tokens(steps, anchor) == 0


def test_at_weight_zero_there_is_no_penalty() -> None:
    """And no anchor: it is ``none``."""
    _, given = context(tiny.llama())
    off = Kl(weight=0.0, inputs="anchor")
    assert off.penalty(given) is None
    assert not off.needs_anchor
    assert off.anchor_rows(100) == NoMitigation().anchor_rows(100) == 0


def test_invalid_combinations_are_rejected() -> None:
    """New rows without tokens to learn; an anchor of too few rows."""

    class Pairs(Sft):
        learns = "pairs"

    assert Kl().rejects(Sft(), Full(), None) == ""  # type: ignore[arg-type]
    assert "inputs=anchor is compatible" in Kl().rejects(Pairs(), Full(), None)  # type: ignore[arg-type]
    method = Kl(inputs="anchor", anchor_batch=4)
    assert method.rejects(Pairs(), Full(), None) == ""  # type: ignore[arg-type]
    assert (method.needs_anchor, method.trains_on_anchor, method.anchor_rows(1000)) == (True, False, 4)
    with pytest.raises(DataError, match=r"^anchor: got 3 rows; allowed: at least mitigation.anchor_batch = 4; fix: "):
        method.penalty(context(tiny.llama(), anchor=rows(3))[1])


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"temperature": 0.0}, {"anchor_batch": 0}])
def test_values_out_of_range_are_rejected(wrong: dict[str, Any]) -> None:
    """Each names its key."""
    with pytest.raises(ConfigError, match=rf"^mitigation\.{next(iter(wrong))}: got "):
        Kl(**wrong)


def test_a_strong_penalty_holds_the_model_to_the_start() -> None:
    """After eight steps it is near the start model, and without the penalty it is not."""
    examples = rows(64)
    steps = [examples[i : i + 8] for i in range(0, 64, 8)]
    distances = []
    for weight in (0.0, 1.0, 100.0):
        model, given = context(tiny.llama())
        (stop,) = tiny.run(model, steps, Sft(), penalty=Kl(weight=weight).penalty(given), learning_rate=3e-3)
        assert (stop.counts.train_penalty is None) == (weight == 0)
        distances.append(number(made(Kl(), given)(model, one(examples))))
    assert distances[0] > 1.2 * distances[1] > 5 * distances[2]


def test_gradients_of_parts_are_held_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum so far and those of one part: 2.0 times the weights, before 3.0."""
    own, anchor = forward.chunks, rows(8, seed=1)
    monkeypatch.setattr(forward, "chunks", lambda examples, vocabulary: own(examples, vocabulary, 1))
    model, given = context(heavy(), Full(), anchor)
    penalty, weights = made(Kl(), given), tensor_bytes.held(parameter for _, parameter in model.named_parameters())
    with tensor_bytes.Peak() as peak:
        penalty(model, one(anchor)).backward()
    assert peak.bytes < 2.1 * weights
