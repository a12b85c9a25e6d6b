from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from harness.core.errors import ConfigError, DataError
from harness.core.seeds import derive
from harness.methods.mitigation import ewc
from harness.methods.mitigation.ewc import Ewc, drawn, information
from harness.methods.objective.sft import Sft
from harness.methods.tuning.frozen import Frozen
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.models import forward
from tests.support import tensor_bytes, tiny
from tests.support.losses import context, heavy, made, moved, number, one, rows

HEAD = "lm_head.weight"


def head_of(model: PreTrainedModel, examples: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states before the head, and probabilities, at supervised positions.

    Of shapes (N, H) and (N, V), row by row.
    """
    hidden = []
    with torch.no_grad():
        for row in examples:
            states = model.model(input_ids=torch.tensor([row.input_ids])).last_hidden_state[0, :-1]
            hidden.append(states[torch.tensor(row.supervised[1:])].double().numpy())
    x = np.concatenate(hidden)
    scores = x @ model.get_output_embeddings().weight.detach().double().numpy().T
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return x, p / p.sum(axis=1, keepdims=True)


def test_the_empirical_fisher_of_a_softmax_is_the_one_computed_by_hand() -> None:
    """For logits W·x: ∂ log p(y)/∂W = (onehot(y) − p) xᵀ.

    Summed over a row's tokens, squared, summed over rows, divided by all tokens.
    """
    model = tiny.llama(tied=False)
    examples = [tiny.example(1, 7, 8, 9, supervised=[2, 3]), tiny.example(1, 20, 12, supervised=[2])]
    found = information(model, {HEAD: model.get_output_embeddings().weight}, examples, "empirical", 0)[HEAD]
    x, p = head_of(model, examples)
    said = np.eye(tiny.VOCABULARY)[[8, 9, 12]]
    each = (said - p)[:, :, None] * x[:, None, :]
    expected = ((each[0] + each[1]) ** 2 + each[2] ** 2) / 3
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-8)


def test_the_sampled_fisher_is_of_tokens_that_the_model_draws() -> None:
    """The same formula with tokens from ``drawn`` in place of the row's.

    Other seeds give others.
    """
    model = tiny.llama(tied=False)
    examples = [tiny.example(1, 7, 8, 9, supervised=[1, 2, 3])]
    weights = {HEAD: model.get_output_embeddings().weight}
    x, p = head_of(model, examples)
    with torch.no_grad():
        said = drawn(forward.logits(model, examples, half=False), derive(4, "fisher", "0"))
    each = (np.eye(tiny.VOCABULARY)[said] - p)[:, :, None] * x[:, None, :]
    found = information(model, weights, examples, "sampled", 4)[HEAD]
    np.testing.assert_allclose(found.numpy(), each.sum(axis=0) ** 2 / 3, rtol=1e-3, atol=1e-8)
    assert not torch.equal(information(model, weights, examples, "sampled", 5)[HEAD], found)


def test_two_equal_rows_draw_by_different_numbers() -> None:
    """By their positions: F is the mean of two draws' squares, not twice one of them."""
    model = tiny.llama(tied=False)
    row = tiny.example(1, 7, 8, 9, 10, 11, supervised=[1, 2, 3, 4, 5])
    weights = {HEAD: model.get_output_embeddings().weight}
    x, p = head_of(model, [row])
    with torch.no_grad():
        scores = forward.logits(model, [row], half=False)
    first, second = (drawn(scores, derive(4, "fisher", place)) for place in ("0", "1"))
    assert not torch.equal(first, second)
    each = [((np.eye(tiny.VOCABULARY)[said] - p).T @ x) ** 2 for said in (first, second)]
    found = information(model, weights, [row, row], "sampled", 4)[HEAD]
    np.testing.assert_allclose(found.numpy(), (each[0] + each[1]) / 10, rtol=1e-3, atol=1e-8)


def test_what_is_drawn_follows_the_softmax() -> None:
    """Of 4000 draws from (¾, ¼, 0), three quarters are the first and none the last."""
    said = drawn(torch.tensor([[np.log(3.0), 0.0, -1e9]]).expand(4000, 3), 1)
    assert float((said == 0).double().mean()) == pytest.approx(0.75, abs=0.03)
    assert not bool((said == 2).any())


def test_the_penalty_is_half_of_lambda_times_the_weighted_squares() -> None:
    """Every weight moved by ½: λ/2 · Σ F · ¼; its gradient is λ · F · ½."""
    anchor = rows(4, seed=1, origin="anchor")
    model, given = context(tiny.llama(), anchor=anchor)
    found = information(model, dict(model.named_parameters()), anchor, "empirical", 0)
    penalty = made(Ewc(weight=6.0, fisher="empirical", fisher_rows=4), given)
    assert number(penalty(model, one([]))) == 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    value = penalty(model, one([]))
    value.backward()
    assert number(value) == pytest.approx(3 * 0.25 * float(sum(f.double().sum() for f in found.values())), rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 3 * found[name], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt_neox], ids=["llama", "gpt_neox"])
def test_under_lora_it_is_of_the_adapted_weights(make: Any) -> None:
    """The Fisher of the frozen weights equals a plain model's; the squares are of scaling·B·A."""
    tuning, anchor = Lora(rank=2), rows(3, seed=1)
    model, given = context(make(), tuning, anchor)
    penalty = made(Ewc(weight=2.0, fisher_rows=3), given)
    moved(model)
    value = penalty(model, one([]))
    plain = make()
    deltas = {name: delta.detach() for name, delta in tuning.deltas(model, {})}
    weights = {name: parameter for name, parameter in plain.named_parameters() if name in deltas}
    found = information(plain, weights, anchor, "sampled", given.seed)
    assert found.keys() == deltas.keys()
    assert number(value) == pytest.approx(float(sum((found[n] * d.square()).double().sum() for n, d in deltas.items())), rel=1e-4)
    value.backward()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and bool(parameter.grad.abs().max() > 0) for parameter in trainable)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("tuning", [Full(), Lora(rank=2), Frozen()], ids=["full", "lora", "frozen"])
def test_the_model_is_left_as_it_was(tuning: Any, broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainable parameters, modes, weights, gradients and global streams; also after an error."""
    model, given = context(tiny.llama(attention_dropout=0.5), tuning, rows(3, seed=1))
    model.train()
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    state, stream = tiny.copied(model.state_dict()), torch.get_rng_state()
    if broken:
        monkeypatch.setattr(ewc, "drawn", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Ewc(fisher_rows=3).penalty(given)
    else:
        Ewc(fisher_rows=3).penalty(given)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trainable
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert tiny.same(model.state_dict(), state)
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("tuning", [Full(), Lora(rank=2)], ids=["full", "lora"])
def test_the_fisher_needs_the_memory_of_the_weights_once(tuning: Any) -> None:
    """Not also that of all gradients, and of F divided: 1.3 instead of 3 times."""
    model, given = context(heavy(), tuning, rows(4, seed=1))
    weights = tensor_bytes.held(parameter for _, parameter in model.named_parameters())
    with tensor_bytes.Peak() as peak:
        Ewc(fisher_rows=4).penalty(given)
    assert peak.bytes < 1.3 * weights


def test_frozen_weights_have_no_part_in_it() -> None:
    """Moving them changes nothing."""
    model, given = context(tiny.llama(), Frozen(), rows(3, seed=1))
    penalty = made(Ewc(fisher_rows=3), given)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)  # the embedding
    assert number(penalty(model, one([]))) == 0.0


def test_extra_tokens_are_those_of_the_fisher_rows_once() -> None:
    """By hand: the first three of four rows, one of them without a supervised token."""
    anchor = [tiny.example(1, 2, 3), tiny.example(1, 2, 3, 4, supervised=[]), tiny.example(1, 2, 3, 4, 5), tiny.example(1, 2)]
    method = Ewc(fisher_rows=3)
    assert method.extra_tokens([[]], anchor) == method.extra_tokens([[]] * 9, anchor) == 3 + 5
    assert method.extra_tokens([], anchor) == Ewc(weight=0.0).extra_tokens([[]], anchor) == 0


def test_at_weight_zero_there_is_no_penalty_and_an_anchor_too_small_is_rejected() -> None:
    """At weight zero no anchor is needed."""
    _, given = context(tiny.llama(), anchor=rows(3))
    off = Ewc(weight=0.0)
    assert (off.penalty(given), off.needs_anchor, off.anchor_rows(100)) == (None, False, 0)
    assert (Ewc().needs_anchor, Ewc().trains_on_anchor, Ewc(fisher_rows=5).anchor_rows(100)) == (True, False, 5)
    with pytest.raises(DataError, match=r"^anchor: got 3 rows, 3 of them .*; allowed: at least mitigation.fisher_rows = 4 rows; fix: "):
        Ewc(fisher_rows=4).penalty(given)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"fisher_rows": 0}])
def test_values_out_of_range_are_rejected(wrong: dict[str, Any]) -> None:
    """Each names its key."""
    with pytest.raises(ConfigError, match=rf"^mitigation\.{next(iter(wrong))}: got "):
        Ewc(**wrong)


def test_a_strong_penalty_keeps_what_matters_and_frees_what_does_not() -> None:
    """After eight steps, weights with large Fisher information have changed less."""
    examples = rows(64)
    model, given = context(tiny.llama(), anchor=rows(16, seed=1))
    method = Ewc(weight=1e4, fisher_rows=16)
    found = information(model, dict(model.named_parameters()), list(given.anchor), "sampled", given.seed)
    tiny.run(model, [examples[i : i + 8] for i in range(0, 64, 8)], Sft(), penalty=method.penalty(given), learning_rate=3e-3)
    changes = torch.cat([delta.detach().abs().flatten() for _, delta in given.tuning.deltas(model, given.base)])
    matters = torch.cat([value.flatten() for value in found.values()])
    middle = matters.median()
    assert float(changes[matters > middle].mean()) < 0.7 * float(changes[matters < middle].mean())
