"""Models whose rotary positions depend on the longest row: scores do not depend on the batch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import PreTrainedModel

from harness.core.progress import Silent
from harness.core.rows import Example
from harness.core.sources import EvaluationBackend
from harness.evaluation.backends import HfEvaluation, PrefixEvaluation
from harness.evaluation.divergence import Base, compare
from harness.models import rotary
from harness.models.generate import draw
from harness.models.score import answer_nats
from tests.support import families, tiny
from tests.support.families import GROUPED, SIZES, TOLERANCE

pytestmark = pytest.mark.model

LIMIT, MAX_LENGTH = 16, 64

FACTORS: dict[str, Any] = {"short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [4.0, 6.0, 9.0, 12.0]}
LONG: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": LIMIT, **FACTORS}
DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 8.0}

MODELS: Mapping[str, Callable[[], PreTrainedModel]] = {
    "phi3 longrope": lambda: hf.Phi3ForCausalLM(
        hf.Phi3Config(**GROUPED, rope_parameters=dict(LONG), max_position_embeddings=MAX_LENGTH, original_max_position_embeddings=LIMIT)
    ),
    "llama dynamic": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, rope_parameters=dict(DYNAMIC), max_position_embeddings=LIMIT)),
    "qwen2 longrope": lambda: hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**GROUPED, rope_parameters=dict(LONG), max_position_embeddings=MAX_LENGTH)
    ),
    "olmo2 dynamic": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**SIZES, rope_parameters=dict(DYNAMIC), max_position_embeddings=LIMIT)),
}

BACKENDS = {"hf": HfEvaluation(), "prefix": PrefixEvaluation()}

LENGTHS = (40, 4, 30, LIMIT, 12, LIMIT + 1)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """One of the models; tests use copies, since transformers keeps the last frequencies."""
    return tiny.seeded(MODELS[request.param])


def text(length: int) -> str:
    return " ".join(tiny.WORDS[(7 * length + 3 * i) % 30] for i in range(length))


def logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Logits of one row by itself, in a copy that has read nothing else."""
    with torch.inference_mode():
        return copy.deepcopy(model)(input_ids=torch.tensor([ids])).logits[0]


def asked(backend: EvaluationBackend, model: PreTrainedModel) -> Any:
    return backend.model(copy.deepcopy(model), tiny.tokenizer(), MAX_LENGTH, "float32", Silent(), "")


def alone(model: PreTrainedModel, context: str, answer: str) -> float:
    prompt, ids = tiny.tokenizer().encode(context), tiny.tokenizer().encode(answer.strip())
    scores = torch.log_softmax(logits(model, [*prompt, *ids][:-1]), dim=-1)[len(prompt) - 1 :]
    return float(sum(row[token] for row, token in zip(scores, ids, strict=True)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_of_requests_are_those_of_each_alone(model: PreTrainedModel, backend: str) -> None:
    """Short and long requests in one call, in which a plain HFLM gives short ones other scores."""
    pairs = [(text(length - 1), " w1 w2") for length in LENGTHS]
    expected = [alone(model, *pair) for pair in pairs]
    plain = families.reference(copy.deepcopy(model), batch_size=16, max_length=MAX_LENGTH).loglikelihood(
        families.scored(pairs), disable_tqdm=True
    )
    assert max(abs(score - right) for (score, _), right in zip(plain, expected, strict=True)) > 10 * TOLERANCE
    lm = asked(BACKENDS[backend], model)
    for _ in range(2):  # the second call follows long requests
        found = lm.loglikelihood(families.scored(pairs), disable_tqdm=True)
        assert [score for score, _ in found] == pytest.approx(expected, abs=TOLERANCE)
    whole = lm.loglikelihood_rolling(families.rolled([text(length) for length in LENGTHS]), disable_tqdm=True)
    assert whole == pytest.approx([_rolled(model, text(length)) for length in LENGTHS], abs=TOLERANCE)


def _rolled(model: PreTrainedModel, words: str) -> float:
    ids = tiny.tokenizer().encode(words)
    scores = torch.log_softmax(logits(model, [tiny.BOS, *ids[:-1]]), dim=-1)
    return float(sum(row[token] for row, token in zip(scores, ids, strict=True)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_are_those_of_each_prompt_alone(model: PreTrainedModel, backend: str) -> None:
    """Prompts that stay below the limit, cross it while they are continued, and begin beyond it."""
    prompts = [text(length) for length in (30, 4, LIMIT - 3, LIMIT, 6)]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([tiny.tokenizer().encode(prompt)])
        own: Any = copy.deepcopy(model)
        whole = own.generate(input_ids=ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=tiny.PAD)
        expected.append(str(tiny.tokenizer().decode(whole[0, ids.shape[1] :], skip_special_tokens=True)).strip())
    lm = asked(BACKENDS[backend], model)
    lm.model.generation_config.eos_token_id = None
    found = lm.generate_until(families.asked([(prompt, {"until": ["#"], "max_gen_toks": 8}) for prompt in prompts]), disable_tqdm=True)
    assert [answer.strip() for answer in found] == expected


def test_rows_are_scored_and_compared_as_each_alone(model: PreTrainedModel) -> None:
    """Suites of rows: likelihoods and divergences."""
    rows = [tuple(tiny.tokenizer().encode(text(length))) for length in LENGTHS]
    examples = [Example(ids, tuple(i > 0 for i in range(len(ids))), "target", row_id=str(len(ids))) for ids in rows]
    live = copy.deepcopy(model)
    expected = [_nats(model, list(ids)) for ids in rows]
    assert answer_nats(live, examples, 2048, Silent()) == pytest.approx(expected, abs=TOLERANCE)
    compared = compare(live, Base(), examples, dtype="float32", tokens=2048, progress=Silent())
    assert [-values["log_likelihood"] for values in compared] == pytest.approx(expected, abs=TOLERANCE)


def _nats(model: PreTrainedModel, ids: list[int]) -> float:
    scores = torch.log_softmax(logits(model, ids)[:-1], dim=-1)  # suites of rows read the last token too
    return -float(sum(row[token] for row, token in zip(scores, ids[1:], strict=True)))


def test_sampled_texts_are_those_of_each_prompt_alone(model: PreTrainedModel) -> None:
    """Texts that a model writes for divergences and generated rows."""
    prompts = [tuple(tiny.tokenizer().encode(text(length))) for length in (30, 4, LIMIT - 3, 6)]
    keys = [str(len(prompt)) for prompt in prompts]
    live = copy.deepcopy(model)

    def write(some: list[int]) -> list[tuple[int, ...]]:
        limits: dict[str, Any] = {"max_new_tokens": 8, "max_length": MAX_LENGTH, "dtype": "float32", "tokens": 4096}
        return draw(live, tiny.tokenizer(), [prompts[i] for i in some], [keys[i] for i in some], progress=Silent(), **limits)

    together = write([0, 1, 2, 3])
    assert together == [write([i])[0] for i in range(4)]


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (hf.Phi3Config(rope_parameters=dict(LONG), **GROUPED, max_position_embeddings=64, original_max_position_embeddings=16), 16),
        (hf.LlamaConfig(rope_parameters=dict(DYNAMIC), max_position_embeddings=2048), 2048),
        (hf.LlamaConfig(max_position_embeddings=2048), None),
        (hf.LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}), None),
        (hf.GPT2Config(), None),
    ],
    ids=["longrope", "dynamic", "default", "linear", "learned positions"],
)
def test_the_longest_batch_of_independent_rows_is_read_from_the_config(config: Any, limit: int | None) -> None:
    """Of longrope the length it was trained on first, of dynamic that of the model; else any."""
    assert rotary.limit(config) == limit
