"""GRPO: rewards, advantages and loss by hand, bits, costs, rejections."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import combinations, composition
from harness.config.run_config import Training
from harness.core.contexts import LearningContext, Rollouts, Step
from harness.core.errors import ConfigError, TrainingError
from harness.core.progress import Interrupted
from harness.core.rows import Example, Row, Turn
from harness.core.tuning import Tuning
from harness.methods import rewards
from harness.methods.judge import Judge
from harness.methods.objective.grpo import Grpo
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training.checkpoint import Checkpoint
from harness.training.job import Stop
from harness.training.trl import advantages_of
from tests.support import tiny

TUNINGS = [pytest.param(Full(), id="full"), pytest.param(Lora(rank=2), id="lora")]
SAYS_W1 = Grpo(reward=("format",), pattern=r".*\bw1\b.*", samples=4, max_new_tokens=5)
"""Rewards answers in which the word w1 stands."""


def examples(count: int = 8, objective: Grpo = SAYS_W1) -> list[Example]:
    return [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows("completion", count)]


def steps(count: int) -> list[list[Example]]:
    rows = examples(4 * count)
    return [rows[i : i + 4] for i in range(0, len(rows), 4)]


def log_probabilities(model: Any, ids: Sequence[int], temperature: float) -> Any:
    """Log p of each token after the first, float64, from its own logits."""
    with torch.no_grad():
        logits: Any = model(input_ids=torch.tensor([ids])).logits[0].double().numpy() / temperature
    logs = logits - logits.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    return np.array([logs[t - 1, ids[t]] for t in range(1, len(ids))])


def test_an_arithmetic_answer_is_right_in_every_step() -> None:
    """Its last number is gold's, and every written step is true, products before sums."""
    right = ["7", "3 + 4 = 7", "<<3*4=12>>so 12 - 5 = 7", "1 + 2 × 3 = 7", "1,007 - 1,000 = 7", "14 / 2 = 7.0", "2.5 + 4.5 = 7"]
    right += [
        "(1+2)+3+4=10 - 3 = 7",
        "(1+2)+3+4=10, minus 3 is 7",
        "2 x 3 + 4 = 10; so 7",
        "10 - 50% * 6 = 7",
        "2 + 5 = 3 + 4 = 7",
        "6/2=3, x7",
    ]
    right += [
        "$2 + $3 + 4 = 9 and $9-$2=$7",
        "10/3=3.33, so 7",
        "20/3 = 6.67; 7",
        "5 apples + 1 + 1 = 7",
        "3/4 = 75% then 7",
        ".5 + 1 = 1.5: 7",
    ]
    wrong = ["8", "3 + 4 = 8 so 7", "1 + 2 + 3 = 7", "6 / 0 = 7", "no number", "7 or 6"]
    wrong += [
        "$3 + $4 = $8 so 7",
        "10/3=3.34, so 7",
        "10/3=3 so 7",
        "20 / 3 = 7",
        "It is. 3 + 4 = 8, or 7",
        "1 + 1 = 3 = 3, 7",
        "(3 + 4 = 8) 7",
    ]
    assert [rewards.arithmetic("", answer, "it is 7") for answer in right] == [1.0] * len(right)
    assert [rewards.arithmetic("", answer, "it is 7") for answer in wrong] == [0.0] * len(wrong)


def test_a_format_is_that_of_the_whole_answer() -> None:
    """Stripped, and over lines."""
    reward = rewards.matching(r"answer = \[ \d+ \]")
    assert [reward("", text, "") for text in (" answer = [ 12 ]\n", "answer = [ 12 ] .", "[ 12 ]")] == [1.0, 0.0, 0.0]
    assert rewards.matching("a.*b")("", "a\nb", "") == 1.0


def test_advantages_are_those_of_a_group() -> None:
    """(r - mean) / (std + 1e-4) with n - 1.

    A group of equal rewards has none; unscaled r - mean.
    """
    found = advantages_of([1, 0, 0, 0, 1, 1, 1, 1], 4, scaled=True)
    deviation = np.std([1, 0, 0, 0], ddof=1)
    assert found[:4] == pytest.approx([0.75 / (deviation + 1e-4), *[-0.25 / (deviation + 1e-4)] * 3], rel=1e-6)
    assert found[4:] == [0.0] * 4
    assert advantages_of([1, 0, 0, 0], 4, scaled=False) == [0.75, -0.25, -0.25, -0.25]
    assert advantages_of([0.7] * 8, 8, scaled=True) == [0.0] * 8  # whose mean in float32 is not 0.7


def test_rewards_add_up_by_their_weights() -> None:
    """Each on the text of the answer, the question and the gold answer."""
    objective = dataclasses.replace(SAYS_W1, reward=("exact", "format"), weights=(1.0, 0.25))
    row = Row((Turn("user", "w5"), Turn("assistant", " w2 w1")), "completion")
    rows = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target")] * 3
    assert objective.worth(rows, ["w2 w1", "w1", "w2"], tiny.learning(tiny.llama(), objective)) == [1.25, 0.25, 0.0]


def surrogate(model: Any, start: Any, found: Rollouts, objective: Grpo) -> float:
    """The loss of rollouts by the formula, at ratio 1: the model has not moved."""
    losses, lengths = [], []
    for ids, attention, labels, advantage in zip(
        *(found.batch[k] for k in ("input_ids", "attention_mask", "labels", "advantages")), strict=True
    ):
        sequence = ids[: int(attention.sum())].tolist()
        answer = (labels[1 : len(sequence)] != -100).numpy()
        own, before = (log_probabilities(one, sequence, objective.temperature)[answer] for one in (model, start))
        difference = before - own
        losses.append(-float(advantage) + objective.beta * (np.exp(difference) - difference - 1))
        lengths.append(int(answer.sum()))
    if objective.loss_type == "grpo":
        return float(np.mean([loss.mean() for loss in losses]))
    if objective.loss_type == "dapo":
        return float(sum(loss.sum() for loss in losses) / sum(lengths))
    return float(sum(loss.sum() for loss in losses) / (len(losses) * objective.max_new_tokens))


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("family", tiny.MODELS)
def test_loss_and_gradient_are_the_formula(
    tuning: Tuning, micro: int | None, loss_type: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step that has moved it, for any split of the answers.

    Value by numpy, gradient by plain torch.
    """
    objective = dataclasses.replace(SAYS_W1, loss_type=loss_type, beta=0.2, temperature=0.7)
    model, start = tuning.prepare(tiny.MODELS[family](), 0), tiny.MODELS[family]()
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []
    losses: list[float] = []

    def answer(self: Grpo, step: Step, context: LearningContext, pad_id: int) -> Rollouts:
        found = original(self, step, context, pad_id)
        if step.number == 1:
            seen.append((surrogate(model, start, found, self), gradient(model, start, found, self)))
        return found

    original = Grpo.answer
    monkeypatch.setattr(Grpo, "answer", answer)
    hooked: dict[str, torch.Tensor] = {}

    def look(_: Any) -> None:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p, name=name: hooked.__setitem__(name, p.grad.clone()))

    engine = objective.trainer()
    loss_of = engine.loss_of  # type: ignore[attr-defined]

    def recorded(self: Any, *arguments: Any) -> Any:
        found = loss_of(self, *arguments)
        losses.append(float(found.detach()))
        return found

    monkeypatch.setattr(engine, "loss_of", recorded)
    training = Training(batch_rows=8, micro_batch_rows=micro)
    tiny.run(model, [examples(), examples()], objective, training=training, stops={1: 8}, on_stop=look, learning_rate=1e-2)
    value, expected = seen[0]
    assert sum(losses[len(losses) // 2 :]) == pytest.approx(value, abs=2e-6)
    assert hooked.keys() == expected.keys()
    for name, wanted in expected.items():
        torch.testing.assert_close(hooked[name], wanted, rtol=2e-3, atol=2e-6)


def gradient(model: Any, start: Any, found: Rollouts, objective: Grpo) -> dict[str, torch.Tensor]:
    """The gradient of the loss, by plain torch, one sequence at a time."""
    total, count = torch.zeros(()), len(found.rewards)
    for i in range(count):
        length = int(found.batch["attention_mask"][i].sum())
        ids = found.batch["input_ids"][i, :length]
        answer = found.batch["labels"][i, 1:length] != -100
        own, before = (
            torch.log_softmax(one(input_ids=ids[None]).logits[0, :-1] / objective.temperature, -1).gather(1, ids[1:, None])[answer, 0]
            for one in (model, start)
        )
        difference = before.detach() - own
        loss = -torch.exp(own - own.detach()) * found.batch["advantages"][i, 0] + objective.beta * (difference.exp() - difference - 1)
        share = {
            "grpo": count * int(answer.sum()),
            "dapo": int(found.batch["answer_tokens"][0]),
            "dr_grpo": count * objective.max_new_tokens,
        }
        total = total + loss.sum() / share[objective.loss_type]
    names, moving = zip(*[(name, p) for name, p in model.named_parameters() if p.requires_grad], strict=True)
    return dict(zip(names, torch.autograd.grad(total, moving), strict=True))


@pytest.mark.parametrize("tuning", TUNINGS)
def test_what_is_rewarded_becomes_likelier(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step raises the log-probability of answers in proportion to their advantage.

    Many steps raise the reward.
    """
    model, written = tuning.prepare(tiny.llama(), 0), []
    original = Grpo.answer

    def answer(self: Grpo, *arguments: Any) -> Rollouts:
        written.append(original(self, *arguments))
        return written[-1]

    def weighted() -> float:
        batch = written[0].batch
        logs = [
            log_probabilities(model, ids[: int(n)].tolist(), 1.0)
            for ids, n in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)
        ]
        answers = [(labels[1 : len(log) + 1] != -100).numpy() for labels, log in zip(batch["labels"], logs, strict=True)]
        return float(sum(a * log[on].mean() for a, log, on in zip(batch["advantages"][:, 0].tolist(), logs, answers, strict=True)))

    monkeypatch.setattr(Grpo, "answer", answer)
    after: list[float] = []
    run = [examples()] * 12
    stops = tiny.run(
        model, run, SAYS_W1, stops={1: 8, 4: 32, 8: 64, 12: 96}, on_stop=lambda _: after.append(weighted()), learning_rate=1e-2
    )
    model = tuning.prepare(tiny.llama(), 0)
    assert after[0] > weighted()
    worth = [-(stop.counts.train_loss or 0.0) for stop in stops]
    assert worth[-1] > worth[0] + 0.1
    assert worth[0] == pytest.approx(float(np.mean(written[0].rewards)))


def tuned(tuning: Tuning, objective: Grpo = SAYS_W1, **options: Any) -> dict[str, torch.Tensor]:
    model = tuning.prepare(tiny.llama(), 0)
    tiny.run(model, steps(4), objective, **{"learning_rate": 3e-3, **options})
    return tuning.merged(model)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_seed_and_a_state_decide_every_bit(tuning: Tuning) -> None:
    """Resumed after an interruption: the weights of an unbroken run, although answers are drawn.

    Another seed draws others.
    """
    whole, states = tuned(tuning), []
    assert not tiny.same(tuned(tuning, seed=1), whole)
    with pytest.raises(Interrupted):
        tuned(tuning, progress=tiny.Until(2), on_state=lambda state: states.append(Checkpoint(state.counts, tiny.copied(state.tensors))))
    assert tiny.same(tuned(tuning, start=states[-1]), whole)
    assert states[-1].counts.generated_tokens > 0


def test_what_is_written_is_counted() -> None:
    """Tokens from the start of training, also after a resumption.

    Operations include forward passes of writing and of the reference.
    """
    counted: list[int] = []
    original = Grpo.answer
    model = Full().prepare(tiny.llama(), 0)
    objective = dataclasses.replace(SAYS_W1)
    context = tiny.learning(model, objective)
    first = original(objective, Step(0, steps(1)[0]), context, tiny.PAD)
    counted.append(int((first.batch["labels"] != -100).sum()))
    stops = tiny.run(model, steps(2), objective, stops={1: 4, 2: 8})
    assert stops[0].counts.generated_tokens == first.generated_tokens == counted[0]
    assert stops[1].counts.generated_tokens > stops[0].counts.generated_tokens
    whole = int(first.batch["attention_mask"].sum())
    assert (first.forward_tokens, first.read_tokens) == (whole, 0)
    referred = original(dataclasses.replace(objective, beta=0.1), Step(0, steps(1)[0]), context, tiny.PAD)
    whole = int(referred.batch["attention_mask"].sum())
    assert (referred.forward_tokens, referred.read_tokens) == (2 * whole, whole)


def test_tokens_are_those_of_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on: prompts and answers.

    With a loss: answers. Read: all of it by the reference, each question twice by the judge.
    """
    judge = Judge(template="{prompt} w9 {answer} w8", words=("w1", "w2"))
    objective = dataclasses.replace(SAYS_W1, reward=("judge",), pattern="", judge=judge, beta=0.1)
    written: list[tuple[int, int, int]] = []
    original = Grpo.answer

    def answer(self: Grpo, step: Step, context: LearningContext, pad_id: int) -> Rollouts:
        found = original(self, step, context, pad_id)
        read = 0
        for ids, labels in zip(found.batch["input_ids"], found.batch["labels"], strict=True):
            said = [token for token in ids[labels != -100].tolist() if token >= len(tiny.SPECIAL)]
            prompt = int((labels == -100).int().cumprod(0).sum())
            start = [token for token in ids[:prompt].tolist() if token >= len(tiny.SPECIAL)]
            read += 2 * (len(start) + 1 + len(said) + 1 + 1)  # prompt, w9, answer, w8, w1 or w2
        mask = int(found.batch["attention_mask"].sum())
        written.append((mask, int((found.batch["labels"] != -100).sum()), mask + read))
        return found

    monkeypatch.setattr(Grpo, "answer", answer)
    stops = tiny.run(Full().prepare(tiny.llama(), 0), steps(2), objective, stops={1: 4, 2: 8}, learning_rate=3e-3)
    counted = [(stop.counts.trained_tokens, stop.counts.supervised_tokens, stop.counts.read_tokens) for stop in stops]
    assert counted == [written[0], tuple(map(sum, zip(*written, strict=True)))]
    assert [stop.counts.supervised_tokens for stop in stops] == [stop.counts.generated_tokens for stop in stops]
    states: list[Checkpoint] = []
    with pytest.raises(Interrupted):
        tuned(
            Full(),
            objective,
            stops={4: 16},
            progress=tiny.Until(2),
            on_state=lambda s: states.append(Checkpoint(s.counts, tiny.copied(s.tensors))),
        )
    again: list[Stop] = []
    tuned(Full(), objective, stops={4: 16}, start=states[-1], on_stop=again.append)
    whole: list[Stop] = []
    tuned(Full(), objective, stops={4: 16}, on_stop=whole.append)
    assert again[0].counts.read_tokens == whole[0].counts.read_tokens > stops[1].counts.read_tokens
    for name in ("trained_tokens", "supervised_tokens", "generated_tokens"):
        assert getattr(again[0].counts, name) == getattr(whole[0].counts, name) > 0


def test_a_reference_at_a_low_temperature_is_no_overflow() -> None:
    """Log-probabilities of prompts, which have no loss, are far from zero there.

    The loss stays finite.
    """
    objective = dataclasses.replace(SAYS_W1, beta=0.1, temperature=0.02)
    model = Full().prepare(tiny.llama(), 0)
    tiny.run(model, steps(2), objective, learning_rate=1e-4)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


@pytest.mark.parametrize(
    "objective",
    [
        Grpo(reward=("exact",), samples=2, max_new_tokens=2),
        Grpo(reward=("format",), pattern=".*", weights=(0.7,), samples=8, max_new_tokens=2),
    ],
)
def test_equal_rewards_teach_nothing(objective: Grpo) -> None:
    """If every answer has the same reward, also one that float32 cannot represent, weights stay."""
    model = tiny.llama()
    before = tiny.copied(model.state_dict())
    tiny.run(Full().prepare(model, 0), steps(1), objective, stops={1: 4})
    assert tiny.same(tiny.copied(model.state_dict()), before)


def test_the_model_is_left_as_a_plain_one() -> None:
    """No further adapter, the same forward and config; evaluation mode at stops."""
    model = Lora(rank=2).prepare(tiny.llama(), 0)
    before = (sorted(model.state_dict()), model.config.to_dict(), [p.requires_grad for p in model.parameters()], model.forward)
    generation: Any = model.generation_config.to_dict()
    wrapped: Any = model
    inner: Any = wrapped.get_base_model()
    seen: list[tuple[bool, bool]] = []
    tiny.run(model, steps(2), SAYS_W1, on_stop=lambda _: seen.append(("forward" in vars(inner), model.training)))
    assert (sorted(model.state_dict()), model.config.to_dict(), [p.requires_grad for p in model.parameters()], model.forward) == before
    assert model.generation_config.to_dict() == generation
    assert seen == [(False, False)]


def test_a_penalty_is_added_once_a_step() -> None:
    """L2 to a distant point changes the weights, and its value is recorded."""

    def far(model: Any, _: Any) -> torch.Tensor:
        found: torch.Tensor = sum((p**2).sum() for p in model.parameters() if p.requires_grad)
        return 0.01 * found

    model = Full().prepare(tiny.llama(), 0)
    stops = tiny.run(model, steps(1), SAYS_W1, penalty=far, training=Training(micro_batch_rows=1))
    assert stops[0].counts.train_penalty == pytest.approx(float(far(tiny.llama(), None).detach()), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward": ()}, "one or more of"),
        ({"reward": ("nice",)}, "exact, last_number, arithmetic, format, judge"),
        ({"reward": ("exact",), "weights": (1.0, 2.0)}, "as many as rewards"),
        ({"reward": ("format",)}, "regular expression"),
        ({"reward": ("format",), "pattern": "("}, "regular expression"),
        ({"pattern": "x"}, "if reward has format, else nothing"),
        ({"samples": 1}, "2 or more"),
        ({"beta": -0.1}, "0 or greater"),
        ({"temperature": 0.0}, "greater than 0"),
    ],
)
def test_invalid_values_are_rejected(values: dict[str, Any], message: str) -> None:
    """With the allowed values."""
    with pytest.raises(ConfigError, match=message):
        Grpo(**values)


def test_invalid_plans_are_rejected() -> None:
    """Rows without a prompt; several processes; replay."""
    for rejected, why in {
        "data=tinyworld-preferences": "preference rows",
        "training.processes=2": "1 for objective=grpo, which learns rewards",
        "mitigation=replay": "learns rewards",
    }.items():
        chosen = [] if rejected.startswith("data") else ["data=tinyworld-skill"]
        with pytest.raises(ConfigError, match=why):
            combinations.check(composition.compose([*chosen, "objective=grpo", "anchor=tinyworld-base", rejected]))


def test_prompts_that_leave_no_room_are_an_error() -> None:
    """A step without a prompt to answer ends the run in one line.

    One such prompt among others is left out.
    """
    long = Row((Turn("user", " ".join(["w1"] * 30)), Turn("assistant", " w2")), "completion")
    full = SAYS_W1.encode(long, tiny.tokenizer(), tiny.MAX_LENGTH, "target")
    with pytest.raises(TrainingError, match="leaves room"):
        tiny.run(tiny.llama(), [[full]], SAYS_W1)
    found = SAYS_W1.answer(Step(0, [full, *examples(1)]), tiny.learning(tiny.llama(), SAYS_W1), tiny.PAD)
    assert len(found.rewards) == SAYS_W1.samples
