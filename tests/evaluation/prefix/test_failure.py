"""Failures: memory that runs out, models that cannot be shared, models that are rejected."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen2MoeConfig, Qwen2MoeForCausalLM, T5Config, T5ForConditionalGeneration

from harness.core.errors import ModelError
from harness.core.memory import out_of_memory
from harness.evaluation.prefix import attention, check
from harness.evaluation.prefix.engine import Engine
from harness.evaluation.prefix.lm import PrefixLM
from harness.methods.tuning.lora import Lora
from tests.support import families, tiny
from tests.support.families import compare, prefix, reference, requests

PACKAGE = "harness.evaluation.prefix"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="lm_eval")
    caplog.set_level(logging.WARNING, logger=PACKAGE)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(PACKAGE)]


class Memory:
    """A model that runs out of memory beyond a number of tokens per forward pass."""

    def __init__(self, model: PreTrainedModel, most: int) -> None:
        self.most, self.failed, self.largest, self.plain = most, 0, 0, model.forward
        model.forward = self.forward

    def forward(self, input_ids: torch.Tensor, **arguments: Any) -> Any:
        if input_ids.numel() > self.most:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.largest = max(self.largest, input_ids.numel())
        return self.plain(input_ids=input_ids, **arguments)


def short(words: int = 40) -> list[tuple[str, str]]:
    """Different contexts of 9 words with continuations of 3: 11 tokens each, none shared."""
    return [(" ".join(tiny.WORDS[(i + 7 * k) % 40] for k in range(9)), " w1 w2 w3") for i in range(words)]


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_where_memory_runs_out_the_budget_is_halved_and_scoring_goes_on(family: str, caplog: pytest.LogCaptureFixture) -> None:
    """From 440 tokens to 55, in three steps with a warning each.

    Scores are HFLM's, and the next call begins anew.
    """
    model = families.build(family)
    expected = reference(model)
    scores = expected.loglikelihood(families.scored(short()), disable_tqdm=True)
    lm = prefix(model, token_budget=440)
    memory = Memory(model, most=60)
    found = lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in scores], abs=families.TOLERANCE)
    assert [flag for _, flag in found] == [flag for _, flag in scores]
    assert (lm.engine.halvings, lm.engine.tokens) == (3, 55)
    failed = memory.failed
    assert failed == 3
    steps = [f"prefix: out of memory; continuing with a budget of {tokens} tokens per forward pass" for tokens in (220, 110, 55)]
    assert warned(caplog) == steps
    assert lm.loglikelihood(families.scored(short()), disable_tqdm=True)[0] == pytest.approx(found[0], abs=families.TOLERANCE)
    assert memory.failed == 2 * failed  # so that no task's batches depend on another's


def test_where_memory_does_not_suffice_for_the_check_nothing_is_shared_this_time() -> None:
    """A check of Gemma's window needs 31 tokens; while 25 fit, the plain path runs."""
    model = families.build("gemma3")
    plain = reference(model).loglikelihood(families.scored(short()), disable_tqdm=True)
    lm = prefix(model, token_budget=440)
    memory = Memory(model, most=25)
    found = lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in plain], abs=families.TOLERANCE)
    assert lm.plain_requests == len(found)
    memory.most = 10**6
    lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    assert lm.plain_requests == len(found)


def test_where_memory_does_not_suffice_for_the_logits_they_are_read_in_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output head takes at most 3 tokens here; scores are the same."""
    model = families.build("llama")
    plain = reference(model).loglikelihood(families.scored(short()), disable_tqdm=True)
    lm = prefix(model)
    assert check.refusal(lm.engine, 16) is None
    whole = model.lm_head.forward

    def narrow(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.ndim == 2 and len(hidden) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(hidden)

    monkeypatch.setattr(model.lm_head, "forward", narrow)
    found = lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in plain], abs=families.TOLERANCE)


@pytest.mark.parametrize("kind", ["few-shot", "multi-token", "too-long"])
def test_prefixes_and_their_trees_are_halved_alike(kind: str) -> None:
    """With memory for the longest tree and no more."""
    model = families.build("llama")
    expected = reference(model)
    lm = prefix(model, token_budget=2048)
    plain, memory = expected.loglikelihood(families.scored(requests(kind)), disable_tqdm=True), Memory(model, most=160)
    found = lm.loglikelihood(families.scored(requests(kind)), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in plain], abs=families.TOLERANCE)
    assert memory.largest <= 160
    assert lm.plain_requests == 0


@pytest.mark.parametrize("shots", [0, 40])
def test_choices_that_do_not_fit_together_are_scored_apart(shots: int) -> None:
    """A question of 30 words and 8 choices are a tree of 70 tokens; 60 fit.

    Also after shared examples.
    """
    draw = random.Random(0)
    before = [families.text(draw, shots)] if shots else []
    questions = [" ".join([*before, f"w{i}", *tiny.WORDS[:29]]) for i in range(3)]
    pairs = [(question, "".join(f" {tiny.WORDS[(i + 7 * k) % 40]}" for k in range(6))) for question in questions for i in range(8)]
    model = families.build("llama")
    plain = reference(model).loglikelihood(families.scored(pairs), disable_tqdm=True)
    lm = prefix(model, token_budget=440)
    memory = Memory(model, most=60)
    found = lm.loglikelihood(families.scored(pairs), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in plain], abs=families.TOLERANCE)
    assert [flag for _, flag in found] == [flag for _, flag in plain]
    assert memory.failed > 0
    assert lm.engine.tokens == 55


def test_a_sequence_that_does_not_fit_alone_is_an_error() -> None:
    """Torch's own error, and the model is unchanged."""
    model = families.build("llama")
    lm = prefix(model, token_budget=440)
    lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    memory = Memory(model, most=10)
    with pytest.raises(torch.OutOfMemoryError, match="2.00 GiB"):
        lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    with pytest.raises(torch.OutOfMemoryError, match="2.00 GiB"):
        lm.generate_until(
            families.asked([(context, {"until": [], "max_gen_toks": 4}) for context, _ in requests("few-shot")]), disable_tqdm=True
        )
    assert model.config._attn_implementation == "sdpa"
    memory.most = 10**6
    lm.loglikelihood(families.scored(short()), disable_tqdm=True)


def test_other_errors_are_no_lack_of_memory() -> None:
    """They are raised at once, with the budget unchanged."""
    assert out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    model = families.build("llama")
    lm = prefix(model, token_budget=440)
    check.refusal(lm.engine, 16)

    def shapes(**_: Any) -> None:
        raise RuntimeError("shapes")

    model.forward = shapes
    with pytest.raises(RuntimeError, match="shapes"):
        lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    assert (lm.engine.tokens, lm.engine.halvings) == (440, 0)


def test_answers_are_generated_with_half_the_prompts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy tokens are HFLM's all the same."""
    model = families.build("llama")
    pairs = [
        (context, {"until": ["w3"], "max_gen_toks": 8}) for context, _ in [*requests("few-shot"), *requests("multi-token"), *short(12)]
    ]
    expected = reference(model, batch_size=1).generate_until(families.asked(pairs), disable_tqdm=True)
    lm = prefix(model, token_budget=440)
    told: list[int] = []
    monkeypatch.setattr(lm, "advance", lambda _, done: told.append(done))
    memory = Memory(model, most=60)
    assert lm.generate_until(families.asked(pairs), disable_tqdm=True) == expected
    assert memory.failed == lm.engine.halvings > 0
    assert lm.plain_requests == 0


def test_the_plain_path_halves_too(caplog: pytest.LogCaptureFixture) -> None:
    """40 rows of 11 tokens, 20, 10, then 5; scores and answers are HFLM's."""
    model = families.build("bloom")
    plain = reference(model, batch_size=1)
    scores = plain.loglikelihood(families.scored(short()), disable_tqdm=True)
    asked = families.asked([(context, {"until": ["w3"], "max_gen_toks": 8}) for context, _ in short(8)])
    answers = plain.generate_until(asked, disable_tqdm=True)
    lm = prefix(model, token_budget=440)
    memory = Memory(model, most=60)
    found = lm.loglikelihood(families.scored(short()), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in scores], abs=families.TOLERANCE)
    assert (memory.failed, lm.engine.tokens, lm.batch_size) == (3, 55, 1)
    assert [line for line in warned(caplog) if "halved" in line or "budget" in line][-1].endswith("55 tokens per forward pass")
    assert lm.generate_until(asked, disable_tqdm=True) == answers
    memory.most = 10
    with pytest.raises(torch.OutOfMemoryError):
        lm.loglikelihood(families.scored(short()), disable_tqdm=True)


class Neighbours(torch.nn.Module):
    """A layer that also looks at the token before, as convolutions do."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        return self.inner(hidden + 0.3 * hidden.roll(1, dims=1) * (torch.arange(hidden.shape[1]) > 0)[:, None], *arguments, **named)


class Average(Neighbours):
    """A layer that adds what all tokens of the row have in common."""

    def forward(self, hidden: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        return self.inner(hidden + hidden.mean(dim=1, keepdim=True), *arguments, **named)


def neighbours(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.model.layers[1].mlp = Neighbours(model.model.layers[1].mlp)


def average(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.model.layers[0].mlp = Average(model.model.layers[0].mlp)


def no_positions(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.forward
    model.forward = lambda *arguments, **named: plain(*arguments, **{**named, "position_ids": None})


def no_mask(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = attention.attend
    monkeypatch.setattr(attention, "attend", lambda q, k, v, _, scaling: plain(q, k, v, None, scaling))


def no_prefix(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = attention.layout
    monkeypatch.setattr(f"{PACKAGE}.engine.layout", lambda trees, device, *others: plain(trees, device, None, 0, others[-1]))


def own_attention(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that does not use the function named in its config."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as interface

    function = interface["sdpa"]
    monkeypatch.setattr(type(interface), "get_interface", lambda *_: function)


def no_head(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.get_output_embeddings = lambda: None


def head_by_hand(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output head's weights are used, not the module."""
    plain = model.lm_head.weight
    model.forward = lambda input_ids, **named: type("Output", (), {"logits": model.model(input_ids, **named).last_hidden_state @ plain.T})()


def no_number(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attention gives NaN under a mask."""
    right = attention.attend

    def broken(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Any, scaling: float | None) -> torch.Tensor:
        found = right(queries, keys, values, mask, scaling)
        return found if mask is None else found * float("nan")

    monkeypatch.setattr(attention, "attend", broken)


SABOTAGED = [neighbours, average, no_positions, no_mask, no_prefix, no_number, own_attention, no_head, head_by_hand]


@pytest.mark.parametrize("sabotage", SABOTAGED)
def test_a_model_whose_requests_cannot_be_shared_is_found_out(
    sabotage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning for all calls; scores and answers are HFLM's."""
    model = families.build("llama")
    plain = reference(model, batch_size=1)
    sabotage(model, monkeypatch)
    lm = prefix(model, token_budget=1)  # row by row, as HFLM here: these models see the padding of a batch
    for kind in ("few-shot", "multi-token", "empty"):
        assert compare(plain, lm, requests(kind)) == 0
    if sabotage is not head_by_hand:
        asked = families.asked([(context, {"until": ["w3"], "max_gen_toks": 8}) for context, _ in requests("few-shot")])
        assert lm.generate_until(asked, disable_tqdm=True) == plain.generate_until(asked, disable_tqdm=True)
    assert lm.plain_requests >= sum(len(requests(kind)) for kind in ("few-shot", "multi-token", "empty"))
    (line,) = warned(caplog)
    assert line.startswith("prefix: requests are not shared, llama runs on the plain path: ")


@pytest.mark.parametrize("sabotage", [no_mask, no_prefix, no_positions, no_number])
def test_it_is_found_out_in_half_precision_too(sabotage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding is larger there; the limit comes from a plain batch."""
    right: Any = families.build("llama")
    assert check.refusal(prefix(right.to(torch.bfloat16)).engine, 16) is None
    model: Any = families.build("llama")
    model = model.to(torch.bfloat16)
    sabotage(model, monkeypatch)
    assert check.refusal(prefix(model).engine, 16) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_do_not_say_how_far_they_look_back_are_not_shared(dtype: torch.dtype) -> None:
    """Qwen2-MoE masks its window without passing it to the attention, which is detected."""
    sizes: Any = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    experts: Any = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
    window: Any = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    config = Qwen2MoeConfig(vocab_size=tiny.VOCABULARY, **sizes, **experts, **window)
    model: Any = tiny.seeded(lambda: Qwen2MoeForCausalLM(config))
    model = model.to(dtype)
    assert "have a window" in str(check.refusal(prefix(model).engine, 16))


def test_what_follows_the_head_is_seen_at_any_weights() -> None:
    """A cap of 30 leaves small logits unchanged to the last digit.

    It is detected nevertheless, and applied once weights have grown.
    """
    model = families.build("gemma3")
    model.config.final_logit_softcapping = 30.0
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)
    lm = prefix(model)
    assert check.refusal(lm.engine, 16) is None
    assert not lm.engine.verdict.head_is_last
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    assert compare(reference(model, batch_size=1), prefix(model), requests("multi-token")) < families.TOLERANCE


def test_a_model_that_can_be_shared_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Through scoring and generation."""
    lm = prefix(families.build("llama"))
    lm.loglikelihood(families.scored(requests("few-shot")), disable_tqdm=True)
    lm.generate_until(families.asked([("w1 w2", {"until": ["w3"], "max_gen_toks": 4})]), disable_tqdm=True)
    assert warned(caplog) == []


REASONS = {
    "gemma2": "NotShared: its attention uses softcap",
    "bloom": "nats from its plain forward pass",
    "mamba": "it has layers of linear_attention",
}


@pytest.mark.parametrize("family", REASONS)
def test_it_is_said_why_requests_are_not_shared(family: str, caplog: pytest.LogCaptureFixture) -> None:
    """In words about the model."""
    lm = prefix(families.build(family))
    lm.loglikelihood(families.scored(requests("multi-token")), disable_tqdm=True)
    (line,) = warned(caplog)
    assert REASONS[family] in line


@pytest.mark.parametrize(
    "scaling", [{"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}], ids=lambda x: x["rope_type"]
)
def test_positions_that_depend_on_the_row_are_not_shared(scaling: dict[str, Any]) -> None:
    """Rotary positions that depend on the length of the input.

    Rotary positions with a constant scale are shared.
    """
    model = tiny.llama(rope_parameters={"rope_theta": 10000.0, **scaling}, max_position_embeddings=32)
    lm = prefix(model)
    if scaling["rope_type"] == "linear":
        assert compare(reference(model), lm, requests("few-shot")) < families.TOLERANCE
    else:  # their scores: tests/evaluation/test_alone.py
        lm.loglikelihood(families.scored(requests("few-shot")), disable_tqdm=True)
    assert (lm.plain_requests > 0) == (scaling["rope_type"] == "dynamic")


def test_encoder_decoder_models_are_refused_by_name() -> None:
    """The message has the model's type and an alternative."""
    config = T5Config(vocab_size=tiny.VOCABULARY, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="t5, an encoder-decoder") as caught:
        PrefixLM(pretrained=T5ForConditionalGeneration(config), tokenizer=tiny.tokenizer())
    assert "decoder-only" in str(caught.value)
    assert "hf" in str(caught.value)


def test_a_model_is_checked_once_for_all_evaluations(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second class around the same model neither checks nor warns again.

    An adapted model is another model.
    """
    model = families.build("bloom")
    for _ in range(3):
        prefix(model).loglikelihood(families.scored(requests("multi-token")), disable_tqdm=True)
    assert len(warned(caplog)) == 1
    wrapped: Any = Lora(rank=2).prepare(families.build("llama"), 0).eval()
    checks: list[int] = []
    plain = check._reason

    def counted(engine: Engine, length: int) -> str | None:
        checks.append(length)
        return plain(engine, length)

    monkeypatch.setattr(check, "_reason", counted)
    for _ in range(3):
        prefix(wrapped).loglikelihood(families.scored(requests("multi-token")), disable_tqdm=True)
    assert checks == [16]
