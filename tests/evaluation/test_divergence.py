"""Divergences by hand on three words, and against two separate models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from harness.config import composition
from harness.core.errors import EvaluationError
from harness.core.progress import Silent
from harness.core.rows import Example
from harness.core.tuning import Tuning
from harness.evaluation import divergence, evaluator
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.divergence import TOKEN_MEANS, Base, compare, measures
from harness.evaluation.evaluator import Result
from harness.evaluation.suites import Suite
from tests.support import tiny

P, Q = [0.7, 0.2, 0.1], [0.1, 0.6, 0.3]
"""Of base and tuned model over a vocabulary of three."""


def one(base: Sequence[float], tuned: Sequence[float]) -> dict[str, float]:
    logits = [torch.log(torch.tensor([probabilities])) + shift for probabilities, shift in [(base, 3.0), (tuned, -2.0)]]
    return {name: float(value) for name, value in measures(*logits).items()}


def test_every_measure_by_hand() -> None:
    """KL(p‖q) is 0.7 ln 7 + 0.2 ln 1/3 + 0.1 ln 1/3; KL(q‖p) differs.

    Hard is ln 0.7/0.1; the likeliest tokens differ.
    """
    found = one(P, Q)
    forward = 0.7 * math.log(7) + 0.3 * math.log(1 / 3)
    backward = 0.1 * math.log(1 / 7) + 0.9 * math.log(3)
    assert abs(forward - backward) > 0.2
    assert found["kl_base_tuned"] == pytest.approx(forward, abs=1e-6)
    assert found["kl_tuned_base"] == pytest.approx(backward, abs=1e-6)
    assert found["forgetting_ce_hard"] == pytest.approx(math.log(7), abs=1e-6)
    entropy = -sum(p * math.log(p) for p in P)
    assert found["forgetting_ce_soft"] == pytest.approx(-sum(p * math.log(q) for p, q in zip(P, Q, strict=True)) - entropy, abs=1e-6)
    assert found["agreement"] == 0.0
    assert one(P, [0.5, 0.2, 0.3])["agreement"] == 1.0


def test_the_soft_excess_is_the_forward_divergence() -> None:
    """Two formulas, one number, on 500 random pairs over 300 words."""
    base, tuned = torch.randn(2, 500, 300, generator=torch.Generator().manual_seed(0)).mul(4).unbind()
    found = measures(base, tuned)
    torch.testing.assert_close(found["forgetting_ce_soft"], found["kl_base_tuned"], rtol=0, atol=1e-12)
    assert bool((found["kl_base_tuned"] > 0).all())
    assert bool((found["kl_tuned_base"] > 0).all())


def test_equal_distributions_are_exactly_alike() -> None:
    """Rounding causes no divergence of a model from itself, and no negative one."""
    logits = torch.randn(200, 1000, generator=torch.Generator().manual_seed(1)) * 5
    found = measures(logits, logits.clone())
    assert all(float(values.abs().max()) == 0.0 for name, values in found.items() if name != "agreement")
    assert float(found["agreement"].min()) == 1.0
    near = measures(logits, logits + 1e-4 * torch.randn(200, 1000, generator=torch.Generator().manual_seed(2)))
    assert 0 < float(near["kl_base_tuned"].min()) < float(near["kl_base_tuned"].max()) < 1e-7


def test_a_token_that_cannot_be_adds_nothing_and_one_that_no_longer_can_is_infinite() -> None:
    """0 · log 0 is 0.

    Mass of the base on a token that the tuned model excludes is an infinite divergence, not a large
    one.
    """
    assert one([0.5, 0.5, 0.0], [0.25, 0.75, 0.0])["kl_base_tuned"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)
    assert one([0.5, 0.5, 0.0], [0.5, 0.25, 0.25])["kl_base_tuned"] == pytest.approx(0.5 * math.log(2), abs=1e-6)
    assert one([0.5, 0.25, 0.25], [0.5, 0.5, 0.0])["kl_base_tuned"] == math.inf


def tuned(name: str) -> tuple[PreTrainedModel, Base]:
    """A model after two steps, and its base."""
    tuning: Tuning = composition.member("tuning", name)
    objective = composition.member("objective", "sft")
    model = tiny.llama()
    weights = tiny.copied(model.state_dict())
    model = tuning.prepare(model, 0)
    examples = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows("completion", 16)]
    tiny.run(model, [examples[:8], examples[8:]], objective, learning_rate=3e-2)
    return model.eval(), Base(lambda live: tuning.base_weights(live, weights))


@pytest.fixture(scope="module")
def models() -> Mapping[str, tuple[PreTrainedModel, Base]]:
    return {name: tuned(name) for name in ("full", "lora")}


def merged(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The tuned weights in a plain model of their own."""
    plain = tiny.llama()
    plain.load_state_dict(composition.member("tuning", name).merged(model), strict=False)
    plain.tie_weights()
    return plain


EXAMPLES = [
    tiny.example(1, 7, 9, 12, 2, supervised=[3, 4]),
    tiny.example(1, 20, 21, 30, 31, 9, 9, 2),
    tiny.example(1, 8, 2, supervised=[2]),
]


def compared(model: PreTrainedModel, base: Base, examples: Sequence[Example] = EXAMPLES, **changes: Any) -> list[dict[str, float]]:
    settings: dict[str, Any] = {"dtype": "float32", "tokens": 64, "progress": Silent()}
    return compare(model, base, examples, **(settings | changes))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["full", "lora"])
def test_one_live_model_gives_what_two_models_give(models: Mapping[str, tuple[PreTrainedModel, Base]], name: str, dtype: str) -> None:
    """Also under autocast, whose cached weights of the base must not serve the tuned model."""
    live, base = models[name]
    first, second = tiny.llama(), merged(live, name)
    for example, found in zip(EXAMPLES, compared(live, base, dtype=dtype), strict=True):
        places = [t - 1 for t in range(1, len(example.input_ids)) if example.supervised[t]]
        ids = torch.tensor([example.input_ids])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = [model(ids).logits[0, places].float() for model in (first, second)]
        expected = {key: float(value.sum()) for key, value in measures(*logits).items()}
        nats = torch.log_softmax(logits[1].double(), -1)
        expected["log_likelihood"] = float(sum(nats[i, example.input_ids[t + 1]] for i, t in enumerate(places)))
        slack = 2e-5 if dtype == "float32" else 0.05  # bfloat16: separate adapters round differently from merged ones
        assert found == pytest.approx(expected, abs=slack * len(places), rel=slack)
        assert found["kl_base_tuned"] > 0.05


def test_a_divergence_depends_on_no_neighbour(models: Mapping[str, tuple[PreTrainedModel, Base]]) -> None:
    """Alone, together, in any order: within 1e-5."""
    live, base = models["full"]
    together = compared(live, base)
    for i, example in enumerate(EXAMPLES):
        assert compared(live, base, [example])[0] == pytest.approx(together[i], abs=1e-5)
    assert compared(live, base, EXAMPLES[::-1], tokens=1)[::-1] == [pytest.approx(values, abs=1e-5) for values in together]


@pytest.mark.parametrize(("held", "times"), [(None, 1), (2 * tiny.VOCABULARY, 3)], ids=["a GiB", "two tokens"])
def test_the_base_reads_as_many_batches_as_its_logits_may_wait(
    models: Mapping[str, tuple[PreTrainedModel, Base]], held: int | None, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One exchange of weights a suite; or more, with the same numbers."""
    live, base = models["full"]
    expected, exchanges = compared(live, base, tokens=1), []

    @contextmanager
    def counted(model: PreTrainedModel) -> Iterator[None]:
        exchanges.append(model)
        with base.weights(model):
            yield

    if held:
        monkeypatch.setattr(divergence, "NUMBERS_HELD", held)
    assert compared(live, Base(counted), tokens=1) == expected
    assert len(exchanges) == times


def suite(**changes: Any) -> Suite:
    values = {"name": "s", "kind": "divergence", "data": "d", "metric": "kl_base_tuned", "higher_is_better": False, "chance": None}
    return Suite(**(values | changes))  # type: ignore[arg-type]


def evaluated(model: PreTrainedModel, base: Base | None, **changes: Any) -> Result:
    prepared = evaluator.prepare(suite(**changes), HfEvaluation(), tiny.rows("completion", 12, seed=3))
    where: dict[str, Any] = {"max_length": 64, "dtype": "float32", "progress": Silent(), "stage": ""}
    return evaluator.evaluate(prepared, HfEvaluation(), model, tiny.tokenizer(), base=base, **where)


SAMPLED: dict[str, Any] = {"max_new_tokens": 6}


@pytest.mark.parametrize("changes", [{}, {"text": "base"} | SAMPLED, {"text": "tuned"} | SAMPLED], ids=["gold", "base", "tuned"])
def test_a_model_is_measured_to_be_its_own_base(changes: dict[str, Any]) -> None:
    """At volume 0 excesses are 0 and agreement is 1, over items and tokens."""
    result = evaluated(tiny.llama(), None, **changes)
    values = {score.metric: score.value for score in result.scores}
    assert values.pop("agreement") == 1.0
    assert set(values.values()) == {0.0}
    assert {(score.n, score.status, score.filter) for score in result.scores} == {(12, "ok", changes.get("text", "gold"))}
    assert [score.metric for score in result.scores if score.primary] == ["kl_base_tuned"]
    assert {score.metric: score.higher_is_better for score in result.scores if score.higher_is_better} == {"agreement": True}


def test_a_sequence_is_the_sum_of_its_tokens(models: Mapping[str, tuple[PreTrainedModel, Base]]) -> None:
    """Per token it is Σ / Σ tokens over items, per sequence the items' mean sum."""
    result = evaluated(*models["full"])
    rows, scores = result.samples, {score.metric: score.value for score in result.scores}
    sums, tokens = rows["metric.kl_base_tuned_sequence"], rows["weight.kl_base_tuned"]
    assert tokens.nunique() > 2
    assert rows["metric.kl_base_tuned"].tolist() == pytest.approx((sums / tokens).tolist())
    assert scores["kl_base_tuned"] == pytest.approx(sums.sum() / tokens.sum())
    assert scores["kl_base_tuned_sequence"] == pytest.approx(sums.mean())
    assert scores["forgetting_ce_soft"] == pytest.approx(scores["kl_base_tuned"], abs=1e-9)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_sampled_text_is_of_the_model_that_the_suite_names(models: Mapping[str, tuple[PreTrainedModel, Base]], name: str) -> None:
    """The start model writes the base's text, the tuned weights write the tuned one's.

    The tables hold the text.
    """
    live, base = models[name]
    before = evaluated(tiny.llama(), None, text="base", **SAMPLED).samples
    of_base = evaluated(live, base, text="base", **SAMPLED).samples
    of_tuned = evaluated(live, base, text="tuned", **SAMPLED).samples
    alone = evaluated(merged(live, name), None, text="tuned", **SAMPLED).samples
    keys = ["doc_hash", "prompt_hash", "target_hash", "text", "weight.kl_base_tuned"]
    pd.testing.assert_frame_equal(of_base[keys], before[keys])
    assert of_tuned["text"].tolist() == alone["text"].tolist()
    assert (of_tuned["text"] != of_base["text"]).any()
    assert of_tuned[["doc_hash", "prompt_hash", "target_hash"]].equals(alone[["doc_hash", "prompt_hash", "target_hash"]])
    assert "weight.kl_base_tuned" not in of_tuned  # lengths that before and after do not share


def test_the_base_writes_once_a_run(models: Mapping[str, tuple[PreTrainedModel, Base]]) -> None:
    """Its text is kept with it, so that every point is on the same text."""
    live, base = models["full"]
    kept = Base(base.weights, {"s": [(9, 10, tiny.EOS)] * 12})
    assert set(evaluated(live, kept, text="base", **SAMPLED).samples["text"]) == {"w3 w4"}


def test_an_answer_beyond_the_context_or_a_broken_model_fails_the_suite() -> None:
    """The score has a reason and no number."""
    broken = tiny.llama()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    (score,) = evaluated(broken, None).scores
    assert (score.status, score.value, score.filter) == ("failed", None, "gold")
    assert "without a finite" in str(score.reason)


def test_measures_are_those_that_suites_may_name() -> None:
    """The table of metrics and the measures that are computed are one list."""
    from harness.records.schema import OWN_METRICS

    computed = {score.metric for score in evaluated(tiny.llama(), None).scores}
    assert computed == set(OWN_METRICS["divergence"])
    assert set(TOKEN_MEANS) <= computed


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"metric": "kl"}, "metric"),
        ({"higher_is_better": True}, "higher_is_better"),
        ({"metric": "agreement"}, "higher_is_better"),
        ({"text": "base"}, "max_new_tokens"),
        ({"max_new_tokens": 4}, "max_new_tokens"),
        ({"data": None}, "data"),
        ({"kind": "likelihood", "metric": "nats_per_token", "text": "base"}, "text"),
    ],
)
def test_a_suite_that_means_nothing_is_refused(changes: dict[str, Any], word: str) -> None:
    """One line that names the key."""
    with pytest.raises((EvaluationError, ValueError), match=f"suite s: {word}"):
        suite(**changes)
