"""`prefix` scores as HFLM does: every family, every kind of request, adapters, precisions.

And it leaves the model unchanged.
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from harness.evaluation.prefix import attention, check
from harness.evaluation.prefix.attention import NAME
from harness.evaluation.prefix.lm import PrefixLM
from harness.methods.tuning.lora import Lora
from tests.support import families, tiny
from tests.support.families import FAMILIES, KINDS, PLAIN, SHARED, compare, prefix, reference, requests

HALF = 0.1
"""Nats between two passes in bfloat16 of two-layer models; 0.033 were seen."""

MODELS = {"llama", "gpt2", "gemma3", "granite"}
"""Families that represent the others: grouped keys, learned positions, windows, a head that is not
last."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="lm_eval")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [24, None], ids=["small", "found"])
def test_log_likelihoods_and_greedy_flags_are_those_of_hflm(family: str, budget: int | None, record_property: Any) -> None:
    """Continuations of every length, with every context, in batches of every size."""
    model = families.built(family)
    expected, found = reference(model), prefix(model, token_budget=budget)
    for kind in KINDS:
        record_property(kind, compare(expected, found, requests(kind)))
    assert (check.refusal(found.engine, 16) is None) == (found.plain_requests == 0) == (family in SHARED)


@pytest.mark.parametrize("family", sorted(SHARED))
def test_logits_that_are_scaled_after_the_output_head_are_read_after_it(family: str) -> None:
    """Granite divides them, Cohere multiplies them; other heads are read in chunks."""
    lm = prefix(families.built(family))
    assert check.refusal(lm.engine, 16) is None
    assert lm.engine.verdict.head_is_last == (family not in {"granite", "cohere"})


@pytest.mark.parametrize("family", FAMILIES)
def test_all_kinds_may_stand_in_one_call(family: str) -> None:
    """In any order, as lm-eval's groups of tasks ask them."""
    pairs = [pair for kind in KINDS for pair in requests(kind, seed=1)]
    random.Random(0).shuffle(pairs)
    model = families.built(family)
    compare(reference(model, batch_size=8), prefix(model), pairs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window", [5, 32])
def test_whole_texts_are_scored_in_the_same_windows(family: str, window: int) -> None:
    """Texts of one word, one window, one word more, many windows; one text twice."""
    draw = random.Random(0)
    texts = [families.text(draw, size) for size in (1, window - 1, window, window + 1, 3 * window + 2)]
    model = families.built(family)
    asked = families.rolled([*texts, texts[-1]])
    expected = reference(model, max_length=window).loglikelihood_rolling(asked, disable_tqdm=True)
    lm = prefix(model, max_length=window)
    found = lm.loglikelihood_rolling(asked, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=families.TOLERANCE)
    assert found[-1] == found[-2]
    assert lm.batch_size == 1


@pytest.mark.parametrize("family", ["qwen2_windowed", "gemma3", "mistral"])
def test_prompts_longer_than_a_sliding_window_are_checked_before_they_are_shared(family: str) -> None:
    """A model checked within its window is checked beyond it for the first longer prompt."""
    model = families.build(family)
    lm = prefix(model)
    compare(reference(model), lm, [("w1 w2", " w3"), ("w1 w2", " w4")])
    assert lm.engine.verdict.depth == 16
    compare(reference(model), lm, requests("few-shot"))
    assert lm.engine.verdict.depth > families.WINDOW + 8


def adapted(model: PreTrainedModel, *, learned: bool = True) -> Any:
    """A copy with LoRA; B is random if it is trained."""
    wrapped = Lora(rank=2).prepare(copy.deepcopy(model), 0)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if learned and "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=draw)
    return wrapped.eval()


@pytest.mark.parametrize("family", sorted(MODELS))
@pytest.mark.parametrize("merge", [False, True], ids=["active", "merged"])
def test_adapters_are_scored_as_hflm_scores_them(family: str, merge: bool) -> None:
    """Trained LoRA, separate and merged; the base has other scores."""
    model: Any = adapted(families.built(family))
    model = model.merge_and_unload() if merge else model
    lm = prefix(model)
    for kind in ("multi-token", "few-shot"):
        compare(reference(model), lm, requests(kind))
    assert lm.plain_requests == 0
    pairs = families.scored(requests("multi-token"))
    base = prefix(families.built(family)).loglikelihood(pairs, disable_tqdm=True)
    assert abs(lm.loglikelihood(pairs, disable_tqdm=True)[0][0] - base[0][0]) > 10 * families.TOLERANCE


@pytest.mark.parametrize("family", sorted(MODELS))
def test_an_adapter_that_has_not_learned_scores_as_the_base_to_the_last_bit(family: str) -> None:
    """LoRA with B = 0."""
    model = families.built(family)
    wrapped = adapted(model, learned=False)
    for kind in ("multi-token", "few-shot", "empty"):
        pairs = families.scored(requests(kind))
        assert prefix(wrapped).loglikelihood(pairs, disable_tqdm=True) == prefix(model).loglikelihood(pairs, disable_tqdm=True)


@pytest.mark.parametrize("family", sorted({*MODELS, "gpt_neox", "qwen3", "olmo2", "mistral"}))
def test_half_precision_differs_by_its_own_rounding_alone(family: str, record_property: Any) -> None:
    """Weights in bfloat16, and float32 weights in mixed precision; both shared."""
    half = families.build(family).bfloat16()
    lm = prefix(half)
    for kind in KINDS:
        record_property(f"weights {kind}", compare(reference(half), lm, requests(kind), tolerance=HALF))
    assert lm.plain_requests == 0
    mixed: dict[str, Any] = {"mixed_precision_dtype": "bfloat16"}
    model = families.built(family)
    lm = prefix(model, **mixed)
    for kind in KINDS:
        record_property(f"mixed {kind}", compare(reference(model, **mixed), lm, requests(kind), tolerance=HALF))
    assert lm.plain_requests == 0


@pytest.mark.parametrize("tokens", [1, 5])
def test_grouped_queries_attend_alike_one_after_another(tokens: int) -> None:
    """As on a GPU, against keys and values that are repeated; each query has a mask of its own."""
    draw = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, heads, size, 8, generator=draw) for heads, size in ((6, tokens), (2, 9), (2, 9)))
    mask = torch.rand(2, 1, tokens, 9, generator=draw) > 0.3
    mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries, keys.repeat_interleave(3, dim=1), values.repeat_interleave(3, dim=1), attn_mask=mask, scale=0.7
    )
    assert torch.allclose(attention.folded(queries, keys, values, mask, 0.7), expected, atol=1e-6)


@pytest.mark.parametrize("add_bos", [None, True, False])
def test_the_beginning_of_a_text_is_marked_as_hflm_marks_it(add_bos: bool | None) -> None:
    """With a tokenizer that adds BOS to every text: by default, on and off.

    And for texts that begin with it.
    """
    model = families.built("llama")
    changes: dict[str, Any] = {"tokenizer": families.with_bos(), "add_bos_token": add_bos}
    lm = prefix(model, **changes)
    for kind in ("multi-token", "empty", "too-long"):
        compare(reference(model, **changes), lm, [*requests(kind), ("<bos> w1 w2", " w3")])
    assert lm.tok_encode("w1")[0] == (tiny.BOS if add_bos is not False else lm.tok_encode("w1")[-1])


def test_the_same_call_twice_gives_the_same_to_the_last_bit() -> None:
    """The first request's answer comes first, in any order of computation."""
    lm = prefix(families.built("llama"))
    pairs = [pair for kind in KINDS for pair in requests(kind)]
    once = lm.loglikelihood(families.scored(pairs), disable_tqdm=True)
    assert lm.loglikelihood(families.scored(pairs), disable_tqdm=True) == once
    backwards = lm.loglikelihood(families.scored(pairs[::-1]), disable_tqdm=True)
    assert backwards[::-1] == once


def test_what_requests_share_is_computed_once() -> None:
    """Ten words of question with choices of 1, 1 and 2 are 10 + 1 tokens.

    The last word of a choice is not an input.
    """
    lm = prefix(families.built("llama"))
    question = " ".join(tiny.WORDS[:10])
    lm.loglikelihood(families.scored([(question, " w20"), (question, " w21"), (question, " w22 w23")]), disable_tqdm=True)
    assert lm.engine.computed == 11


def test_examples_before_questions_are_computed_once() -> None:
    """Five questions of 20 words share 60 words of examples.

    They run 60 + 5 · 20 tokens instead of 5 · 2 · 80.
    """
    draw = random.Random(0)
    shots = families.text(draw, 60)
    questions = [f"{shots} w{i} {families.text(draw, 19)}" for i in range(5)]
    pairs = [(question, choice) for question in questions for choice in (" w1", " w2")]
    for family in sorted(SHARED):
        lm = prefix(families.built(family))
        lm.loglikelihood(families.scored(pairs), disable_tqdm=True)
        assert lm.engine.computed == 60 + 5 * 20, family


def state(model: PreTrainedModel) -> tuple[Any, ...]:
    names = [getattr(getattr(module, "config", None), "_attn_implementation", None) for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return names, hooks, [module.training for module in model.modules()], [parameter.requires_grad for parameter in model.parameters()]


def ask(lm: PrefixLM) -> None:
    lm.loglikelihood(families.scored(requests("few-shot")), disable_tqdm=True)


def generate(lm: PrefixLM) -> None:
    lm.generate_until(families.asked([("w1 w2", {"until": ["w3"], "max_gen_toks": 4})]), disable_tqdm=True)


@pytest.mark.parametrize("call", [ask, generate])
@pytest.mark.parametrize("family", sorted({*MODELS, *PLAIN}))
def test_the_model_is_left_as_it_was(family: str, call: Callable[[PrefixLM], None]) -> None:
    """Attention, hooks, modes and weights of the model, and the next random numbers."""
    model = families.build(family)
    lm = prefix(model)
    before, weights, numbers = state(model), tiny.copied(model.state_dict()), torch.get_rng_state()
    call(lm)
    assert state(model) == before
    assert NAME not in before[0]
    assert tiny.same(model.state_dict(), weights)
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize("call", [ask, generate])
def test_a_forward_pass_that_fails_leaves_the_model_as_it_was(call: Callable[[PrefixLM], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is raised, and the next call works."""
    model = families.build("llama")
    lm, before = prefix(model), state(model)
    call(lm)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    with monkeypatch.context() as patch:
        patch.setattr(model.model.layers[1].mlp, "forward", broken)
        with pytest.raises(RuntimeError, match="no such kernel"):
            call(lm)
    assert state(model) == before
    call(lm)


def test_finished_requests_are_told_to_lm_evals_cache() -> None:
    """By the same names and values as HFLM's."""

    class Told(list):
        def add_partial(self, *what: Any) -> None:
            self.append(what)

    told = {}
    for lm in (reference(families.built("llama")), prefix(families.built("llama"))):
        lm.cache_hook = told[type(lm)] = Told()
        lm.loglikelihood(families.scored(requests("one-token")), disable_tqdm=True)
        lm.loglikelihood_rolling(families.rolled(["w1 w2 w3"]), disable_tqdm=True)
    first, second = (sorted(found, key=str) for found in told.values())
    assert [name for name, _, _ in first] == [name for name, _, _ in second]
    assert [asked for _, asked, _ in first] == [asked for _, asked, _ in second]


def test_what_hflm_refuses_is_refused() -> None:
    """A continuation longer than the model's context; the message has the numbers."""
    with pytest.raises(ValueError, match="at most 100 of continuation"):
        prefix(families.built("llama")).loglikelihood(families.scored([("w1", " w2" * 101)]), disable_tqdm=True)
