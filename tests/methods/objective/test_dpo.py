"""DPO: the loss by hand, its reference, bits, side effects on the model, rejections."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from harness.config import combinations, composition
from harness.config.run_config import Training
from harness.core.errors import ConfigError, DataError
from harness.core.progress import Interrupted
from harness.core.rows import Example, Row, Turn
from harness.core.tuning import Tuning
from harness.data import fields, tokens
from harness.methods.objective.dpo import Dpo
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training.checkpoint import Checkpoint
from tests.support import tiny

TUNINGS = [pytest.param(Full(), id="full"), pytest.param(Lora(rank=2), id="lora")]
RATE = 3e-3


def pairs(count: int = 16, objective: Dpo | None = None) -> list[Example]:
    learned = objective or Dpo()
    return [learned.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows("preference", count)]


def steps(count: int = 4) -> list[list[Example]]:
    examples = pairs(4 * count)
    return [examples[i : i + 4] for i in range(0, len(examples), 4)]


def log_probability(model: PreTrainedModel, example: Example) -> float:
    """Sum of log p over the answer, float64, from the logits of this one sequence."""
    with torch.no_grad():
        logits: Any = model(input_ids=torch.tensor([example.input_ids])).logits[0].double().numpy()
    logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
    return float(sum(logs[t - 1, token] for t, token in enumerate(example.input_ids) if t and example.supervised[t]))


def by_hand(model: PreTrainedModel, start: PreTrainedModel, examples: list[Example], beta: float) -> float:
    """The mean of -log σ(β[(log π_w - log π_w,ref) - (log π_l - log π_l,ref)])."""
    losses = []
    for example in examples:
        assert example.rejected is not None
        better = log_probability(model, example) - log_probability(start, example)
        worse = log_probability(model, example.rejected) - log_probability(start, example.rejected)
        losses.append(np.log1p(np.exp(-beta * (better - worse))))
    return float(np.mean(losses))


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("micro", [None, 2, 3])
def test_the_loss_is_the_formula(tuning: Tuning, family: str, micro: int | None) -> None:
    """Log 2 before the first step.

    The formula's value before the second, for any split of the pairs.
    """
    model = tuning.prepare(tiny.MODELS[family](), 0)
    both = [pairs(8), pairs(8)]
    expected: list[float] = []

    def look(_: Any) -> None:
        expected.append(by_hand(model, tiny.MODELS[family](), both[1], beta=0.3))

    training = Training(batch_rows=8, micro_batch_rows=micro)
    stops = tiny.run(model, both, Dpo(beta=0.3), training=training, stops={1: 8, 2: 16}, on_stop=look, learning_rate=1e-2)
    assert stops[0].counts.train_loss == pytest.approx(np.log(2), rel=1e-6)
    assert stops[1].counts.train_loss == pytest.approx(expected[0], rel=1e-4)
    assert expected[0] < np.log(2)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_step_moves_the_weights_as_the_formula_says(tuning: Tuning) -> None:
    """The first step's gradient is that of the formula in plain torch.

    Weights move by plain descent, clipped to 1.
    """
    examples = pairs(4)
    model, mine = (tuning.prepare(tiny.llama(), 0) for _ in range(2))
    loss = torch.zeros(())
    for example in examples:
        assert example.rejected is not None
        better, worse = (torch.log_softmax(mine(input_ids=torch.tensor([e.input_ids])).logits[0], -1) for e in (example, example.rejected))
        summed = [
            torch.stack([logs[t - 1, token] for t, token in enumerate(e.input_ids) if t and e.supervised[t]]).sum()
            for logs, e in ((better, example), (worse, example.rejected))
        ]
        margin = 0.1 * ((summed[0] - summed[0].detach()) - (summed[1] - summed[1].detach()))  # the start model is the model itself
        loss = loss - torch.nn.functional.logsigmoid(margin) / len(examples)
    loss.backward()
    gradients = {name: p.grad for name, p in mine.named_parameters() if p.grad is not None}
    seen: dict[str, torch.Tensor] = {}

    def penalty(live: Any, _: Any) -> torch.Tensor:
        for name, parameter in live.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, name=name: seen.setdefault(name, gradient.clone()) * 1)
        return torch.zeros(())

    tiny.run(model, [examples], Dpo(), penalty=penalty)
    assert seen.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_steps_lower_the_loss_of_their_own_pairs(tuning: Tuning) -> None:
    """By the formula, on the pairs of the steps."""
    model, examples = tuning.prepare(tiny.llama(), 0), pairs(8)
    stops = tiny.run(model, [examples] * 3, Dpo(), stops={1: 8, 2: 16, 3: 24}, learning_rate=RATE)
    losses = [stop.counts.train_loss or 0.0 for stop in stops]
    assert losses == sorted(losses, reverse=True)
    assert by_hand(model, tiny.llama(), examples, 0.1) < np.log(2)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_model_is_left_as_a_plain_one(tuning: Tuning) -> None:
    """No further adapter, the same forward and config, every module in its mode."""
    model = tuning.prepare(tiny.llama(), 0)
    before = (sorted(model.state_dict()), model.config.to_dict(), [p.requires_grad for p in model.parameters()], model.forward)
    plain: Any = model
    inner = plain.get_base_model() if hasattr(model, "get_base_model") else model
    seen = []

    def look(_: Any) -> None:
        seen.append(("forward" in vars(inner), model.training))

    tiny.run(model, steps(2), Dpo(), stops={1: 4, 2: 8}, on_stop=look)
    assert (sorted(model.state_dict()), model.config.to_dict(), [p.requires_grad for p in model.parameters()], model.forward) == before
    assert seen == [(False, False)] * 2


def test_the_reference_drops_nothing() -> None:
    """In a model that drops attention weights, before any step.

    The start model's log-probabilities are those of a separate copy in evaluation mode.
    """
    learned = Dpo()
    model, copy = (tiny.llama(attention_dropout=0.5) for _ in range(2))
    model = Full().prepare(model, 0)
    seen: list[tuple[torch.Tensor, Any, torch.Tensor]] = []
    live: list[torch.Tensor] = []
    engine = learned.trainer()
    original = engine.reference  # type: ignore[attr-defined]

    def reference(self: Any, batch: Any, labels: torch.Tensor) -> torch.Tensor:
        assert self.model.training
        found: torch.Tensor = original(self, batch, labels)
        assert self.model.training
        seen.append((found, batch, labels))
        live.append(self.model(**batch, use_cache=False).logits.detach())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "reference", reference)
        tiny.run(model, steps(2), learned, learning_rate=1e-2)
    assert len(seen) == 2
    for (found, batch, labels), dropped in zip(seen, live, strict=True):
        with torch.no_grad():
            logits = copy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        taught = labels[:, 1:] != -100
        logs = torch.log_softmax(logits[:, :-1], -1).gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0]
        torch.testing.assert_close(found[taught], logs[taught], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(dropped, logits, atol=1e-3)  # the model that learns does drop


def test_what_the_reference_reads_is_counted() -> None:
    """Both answers of each pair, prompts included, also after a resumption."""
    run = steps(3)
    read = [sum(one.tokens for one in step) for step in run]
    masks = [int(Dpo().collate(step, tiny.PAD, tiny.MAX_LENGTH)["attention_mask"].sum()) for step in run]
    assert masks == read
    states: list[Checkpoint] = []
    stops = tiny.run(
        Full().prepare(tiny.llama(), 0),
        run,
        Dpo(),
        stops={1: 4, 3: 12},
        on_state=lambda state: states.append(Checkpoint(state.counts, tiny.copied(state.tensors))),
    )
    assert [stop.counts.read_tokens for stop in stops] == [read[0], sum(read)]
    assert (stops[-1].counts.trained_tokens, stops[-1].counts.supervised_tokens) == (0, 0)  # the rows are known without
    again = tiny.run(Full().prepare(tiny.llama(), 0), run, Dpo(), stops={1: 4, 3: 12}, start=states[0])
    assert again[-1].counts.read_tokens == sum(read)


def tuned(tuning: Tuning, **options: Any) -> dict[str, torch.Tensor]:
    model = tuning.prepare(tiny.llama(), 0)
    tiny.run(model, steps(), Dpo(), **{"learning_rate": RATE, **options})
    return tuning.merged(model)


@pytest.mark.parametrize("tuning", [Full(), Lora(rank=2, dropout=0.3)], ids=["full", "lora"])
def test_a_checkpoint_resumes_to_the_same_bits(tuning: Tuning) -> None:
    """Interrupted after two steps and resumed in another model.

    The weights are those of an unbroken run, with dropout of adapters.
    """
    whole, states = tuned(tuning), []
    assert tiny.same(tuned(tuning), whole)
    with pytest.raises(Interrupted):
        tuned(tuning, progress=tiny.Until(2), on_state=lambda state: states.append(Checkpoint(state.counts, tiny.copied(state.tensors))))
    assert tiny.same(tuned(tuning, start=states[-1]), whole)


def test_pairs_share_their_prompt() -> None:
    """Both answers follow the same tokens, in either format.

    The length of a pair is that of both.
    """
    row = Row((Turn("user", "w1 w2"), Turn("assistant", " w3 w4"), Turn("rejected", " w5")), "preference")
    for prompt_format in ("plain", "chat"):
        example = tokens.encode(row, tiny.tokenizer(), prompt_format, 20, "target")
        assert example.rejected is not None
        assert tokens.prompt_of(example) == tokens.prompt_of(example.rejected)
        assert tiny.tokenizer().decode(list(example.input_ids[len(tokens.prompt_of(example)) :])) == "w3 w4 <eos>"
        assert tiny.tokenizer().decode(list(example.rejected.input_ids[len(tokens.prompt_of(example)) :])) == "w5 <eos>"
        assert example.tokens == len(example.input_ids) + len(example.rejected.input_ids)
        assert example.row_id == row.id
        assert not example.truncated
    assert tokens.encode(row, tiny.tokenizer(), "plain", 4, "target").truncated


def test_columns_become_pairs() -> None:
    """Fields prompt, chosen, rejected and an optional system; an empty answer is no pair."""
    form = fields.Form("fields", "preference", {"prompt": "q", "chosen": "good", "rejected": "bad"})
    records = [{"q": "a? ", "good": " b", "bad": " c"}]
    rows = fields.to_rows(records, form, ["q", "good", "bad"], where="here", drop_empty=False)
    assert rows == [Row((Turn("user", "a?"), Turn("assistant", " b"), Turn("rejected", " c")), "preference")]
    with pytest.raises(DataError, match="empty"):
        fields.to_rows([{"q": "a", "good": "b", "bad": ""}], form, ["q", "good", "bad"], where="here", drop_empty=False)
    with pytest.raises(ConfigError, match="rejected"):
        fields.check_fields("preference", {"prompt": "q", "chosen": "good"})


def test_what_is_invalid_is_rejected() -> None:
    """β of 0; rows that are no pairs; replay."""
    with pytest.raises(ConfigError, match="greater than 0"):
        Dpo(beta=0.0)
    for rejected, why in {
        "data=tinyworld-skill": "completion rows",
        "mitigation=replay": "learns pairs",
    }.items():
        chosen = [] if rejected.startswith("data") else ["data=tinyworld-preferences"]
        with pytest.raises(ConfigError, match=why):
            combinations.check(composition.compose([*chosen, "objective=dpo", "anchor=tinyworld-base", rejected]))


def test_the_values_of_a_pair_are_its_own() -> None:
    """Another beta is another objective and another class of trainer."""
    assert Dpo().trainer() is Dpo().trainer()
    assert Dpo().trainer() is not dataclasses.replace(Dpo(), beta=0.2).trainer()
