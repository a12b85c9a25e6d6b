"""`prefix` continues prompts with exactly the tokens of HFLM for a single prompt."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from harness.core.progress import Silent
from harness.evaluation.backends import PrefixEvaluation
from harness.evaluation.prefix import budget
from tests.support import families, tiny
from tests.support.families import FAMILIES, SHARED, built, prefix, reference, text

Asked = Sequence[tuple[str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="lm_eval")


def both(model: Any, pairs: Asked, **changes: Any) -> tuple[list[str], list[str], int]:
    """Return the answers of HFLM and ``prefix``, and the number of plain requests."""
    expected = reference(model, batch_size=1, **changes).generate_until(families.asked(pairs), disable_tqdm=True)
    lm = prefix(model, **changes)
    return expected, lm.generate_until(families.asked(pairs), disable_tqdm=True), lm.plain_requests


def prompts(count: int = 12) -> list[str]:
    """Some after 40 common words, these words alone, one word, one to be cut."""
    draw = random.Random(0)
    shots = text(draw, 40)
    some = [(f"{shots} " if draw.random() < 0.6 else "") + text(draw, draw.randint(1, 12)) for _ in range(count)]
    return [*some, shots, "w1", text(draw, 120)]


def until(*stops: str, tokens: int = 16, **more: Any) -> dict[str, Any]:
    return {"until": list(stops), "max_gen_toks": tokens, "do_sample": False, **more}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_hflm(family: str) -> None:
    """Prompts shared, equal, of one token, or too long; two settings in a call."""
    settings = [until("w3", "w7 w8"), until("w1 w2", temperature=0.0)]
    pairs = [(prompt, settings[i % 2]) for i, prompt in enumerate(prompts())]
    expected, found, plain = both(built(family), pairs)
    assert found == expected
    assert plain == (0 if family in SHARED else len(pairs))
    assert len(set(found)) > 5


@pytest.mark.parametrize("family", ["llama", "gemma3", "granite"])
@pytest.mark.parametrize("budget", [1, 24])
def test_a_small_budget_changes_no_token(family: str, budget: int) -> None:
    """Prompts then run one by one, or a few at a time."""
    pairs = [(prompt, until("w3")) for prompt in prompts()]
    lm = prefix(built(family), token_budget=budget)
    expected = reference(built(family), batch_size=1).generate_until(families.asked(pairs), disable_tqdm=True)
    assert lm.generate_until(families.asked(pairs), disable_tqdm=True) == expected


def test_more_prompts_than_slots_take_the_places_of_those_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths and stops differ, so that answers finish in another order."""
    monkeypatch.setattr(budget, "slots", lambda *_: 16)
    pairs = [(prompt, until("w3", "w9")) for prompt in prompts(48)] * 2
    assert len(pairs) > 4 * 16
    expected, found, _ = both(built("llama"), pairs)
    assert found == expected


def test_as_many_prompts_are_continued_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of llama here keeps 2 · 4 bytes in 2 layers of 2 heads of 8 numbers: 256 bytes.

    A quarter of memory beyond the weights holds 100 prompts of 20 tokens.
    """
    model = built("llama")
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    for tokens, parts, slots in ((20, 1, 100), (20, 2, 50), (200, 1, 10), (10**6, 1, 1), (1, 1, 128)):
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=weights + 4 * 256 * 20 * 100))
        assert budget.slots(model, tokens, parts) == slots


def ending(family: str = "llama", at: int = 3) -> tuple[PreTrainedModel, list[str], str]:
    """A model that ends its texts at token ``at`` of the first prompt's answer.

    Also returns that prompt, another one, and the word.
    """
    model: Any = families.build(family)
    asked = prompts(4)[:3]
    tokens = tiny.tokenizer()(asked[0])["input_ids"]
    made = model.generate(torch.tensor([tokens]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=tiny.PAD)
    token = int(made[0, len(tokens) + at])
    model.generation_config.eos_token_id = [tiny.EOS, token]
    return model, asked, tiny.WORDS[token - len(tiny.SPECIAL)]


def test_an_answer_ends_at_any_token_that_ends_texts() -> None:
    """A generation config may name several.

    The token is part of the answer's text unless it is special.
    """
    model, asked, word = ending()
    expected, found, plain = both(model, [(prompt, until("no such")) for prompt in asked])
    assert (found, plain) == (expected, 0)
    assert found[0].split().index(word) == len(found[0].split()) - 1
    assert len(found[0].split()) <= 4


def test_a_stop_sequence_may_be_several_tokens_of_the_answer() -> None:
    """Two words of each prompt's own answer; the text ends before them."""
    asked = prompts(6)[:6]
    answers, _, _ = both(built("llama"), [(prompt, until("no such")) for prompt in asked])
    long = [(prompt, answer.split()) for prompt, answer in zip(asked, answers, strict=True) if len(answer.split()) > 5]
    assert len(long) > 1
    for prompt, written in long:
        expected, found, plain = both(built("llama"), [(prompt, until("no such", " ".join(written[3:5])))])
        assert (found, plain) == (expected, 0)
        assert written[: len(found[0].split())] == found[0].split()
        assert len(found[0].split()) <= 3


@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_an_answer_is_as_long_as_it_may_be(tokens: int) -> None:
    """Without an end token or stop sequence."""
    expected, found, _ = both(built("llama"), [(prompt, until("no such", tokens=tokens)) for prompt in prompts(4)])
    assert found == expected
    assert max(len(tiny.tokenizer().tokenize(answer)) for answer in found) <= tokens


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens"])
def test_the_length_goes_by_any_of_its_names(name: str) -> None:
    """As lm-eval's tasks call it."""
    expected, found, plain = both(built("llama"), [(prompt, {"until": "w3", name: 7}) for prompt in prompts(4)])
    assert (found, plain) == (expected, 0)


def test_a_prompt_is_cut_on_the_left_to_leave_room_for_its_answer() -> None:
    """Around the length where cutting begins, and with BOS, which is cut too."""
    draw = random.Random(0)
    asked = [text(draw, size) for size in (83, 84, 85, 90, 150)]
    for changes in ({}, {"tokenizer": families.with_bos()}, {"tokenizer": families.with_bos(), "add_bos_token": False}):
        expected, found, _ = both(built("llama"), [(prompt, until("w3")) for prompt in asked], **changes)
        assert found == expected


def test_what_leaves_no_room_for_a_prompt_is_refused() -> None:
    """The message has the numbers."""
    with pytest.raises(ValueError, match="max_gen_toks 100 with a context of 100 tokens"):
        prefix(built("llama")).generate_until(families.asked([("w1", until("w3", tokens=100))]), disable_tqdm=True)


PLAIN_REQUESTS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3},
    "penalty": {"repetition_penalty": 1.5},
    "no repetition": {"no_repeat_ngram_size": 2},
    "shortest": {"min_new_tokens": 5},
}


@pytest.mark.parametrize("settings", PLAIN_REQUESTS.values(), ids=PLAIN_REQUESTS)
@pytest.mark.parametrize("where", ["request", "config"])
def test_what_is_not_greedy_runs_on_the_plain_path(settings: dict[str, Any], where: str) -> None:
    """By the request or by the model's generation config.

    The greedy requests of the same call stay shared.
    """
    model = families.build("llama")
    for name, value in settings.items() if where == "config" else ():
        setattr(model.generation_config, name, value)
    asked = [(prompt, until("w3", **(settings if where == "request" else {}))) for prompt in prompts(4)[:4]]
    greedy = [(prompt, until("w3", tokens=15)) for prompt in prompts(4)[:4]] if where == "request" else []
    lm = prefix(model, token_budget=1)  # one by one, as HFLM here
    expected = reference(model, batch_size=1).generate_until(families.asked([*asked, *greedy]), disable_tqdm=True)
    assert lm.generate_until(families.asked([*asked, *greedy]), disable_tqdm=True) == expected
    assert lm.plain_requests == len(asked)


def test_sampled_answers_are_hflms_under_the_same_seed() -> None:
    """Raised by the plain path."""
    pairs = [(prompt, {"until": ["w3"], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}) for prompt in prompts(4)[:3]]
    found = []
    lm = prefix(built("llama"), token_budget=1)
    for one in (reference(built("llama"), batch_size=1), lm):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251 - what is sampled is compared
            found.append(one.generate_until(families.asked(pairs), disable_tqdm=True))
    assert found[0] == found[1]
    assert lm.plain_requests == len(pairs)


@pytest.mark.parametrize(
    "setting", [{"max_new_tokens": 3}, {"max_length": 20}, {"max_time": 0.0}, {"suppress_tokens": [9, 10, 11, 12]}], ids=str
)
def test_limits_of_the_generation_config_are_hflms(setting: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    """Settings that lm-eval's limit overrides have no effect, those that override it do."""
    model = families.build("llama")
    for name, value in setting.items():
        setattr(model.generation_config, name, value)
    expected, found, _ = both(model, [(prompt, until("w3")) for prompt in prompts(4)[:4]])
    assert found == expected


def test_answers_after_a_thought_are_hflms() -> None:
    """The end of a reasoning model's thoughts is a token or a text."""
    pairs = [(prompt, until("no such", tokens=20)) for prompt in prompts(8)]
    plain = prefix(built("llama")).generate_until(families.asked(pairs), disable_tqdm=True)
    word = plain[0].split()[4]
    for end in (word, tiny.WORDS.index(word) + len(tiny.SPECIAL)):
        expected, found, _ = both(built("llama"), pairs, think_end_token=end)
        assert found == expected
        assert found != plain


def test_answers_that_ended_at_their_length_alone_are_noted() -> None:
    """Not those that ended at a stop sequence or with their text.

    As NotesCutAnswers notes them for HFLM.
    """
    model, asked, _ = ending()
    pairs = [(prompt, until(tokens=6)) for prompt in asked]
    _, found, _ = both(model, pairs)
    stop = found[1].split()[2]
    for tokens in (6, 3):  # with 3, the second answer stops where it would be cut
        lm: Any = PrefixEvaluation().model(model, tiny.tokenizer(), families.MAX_LENGTH, "float32", Silent(), "")
        answers = lm.generate_until(families.asked([(prompt, until(stop, tokens=tokens)) for prompt in asked]), disable_tqdm=True)
        ids = [tuple(tiny.tokenizer()(prompt)["input_ids"]) for prompt in asked]
        cut = {prompt for prompt, answer in zip(ids, answers, strict=True) if len(answer.split()) == tokens}
        assert lm.cut_answers == cut
        assert ids[1] not in cut
    assert ids[2] in cut


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_adapters_and_mixed_precision_generate_too(family: str) -> None:
    """With trained LoRA.

    In mixed precision, answers are shared and reach the limit.
    """
    from tests.evaluation.prefix.test_exactness import adapted

    model = adapted(built(family))
    pairs = [(prompt, until("w3")) for prompt in prompts()]
    expected, found, plain = both(model, pairs)
    assert (found, plain) == (expected, 0)
    expected, found, plain = both(built(family), pairs, mixed_precision_dtype="bfloat16")
    assert plain == 0
    assert sum(one == other for one, other in zip(expected, found, strict=True)) > len(pairs) // 2


def test_progress_counts_every_request_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all groups of settings."""
    lm = prefix(built("llama"))
    told: list[int] = []
    monkeypatch.setattr(lm, "advance", lambda _, done: told.append(done))
    pairs = [(prompt, until("w3", tokens=4 + i % 2)) for i, prompt in enumerate(prompts(20))]
    lm.generate_until(families.asked(pairs), disable_tqdm=True)
    assert sum(told) == len(pairs)


@pytest.mark.parametrize("tokens", [1, 2])
def test_an_answer_that_ends_by_itself_at_its_length_is_not_cut(tokens: int) -> None:
    """Its last token or two are a stop sequence, or the token ends texts."""
    model = families.build("llama")
    ids = tiny.tokenizer()("w1 w2 w4")["input_ids"]
    made = prefix(model).generate_until(families.asked([("w1 w2 w4", until("no such", tokens=tokens))]), disable_tqdm=True)[0]
    assert len(made.split()) == tokens
    for stop, end, is_cut in (("no such", None, True), (made, None, False), ("no such", made.split()[-1], False)):
        assert model.generation_config is not None
        model.generation_config.eos_token_id = tiny.EOS if end is None else tiny.tokenizer().convert_tokens_to_ids(end)
        lm = prefix(model)
        lm.generate_until(families.asked([("w1 w2 w4", until(stop, tokens=tokens))]), disable_tqdm=True)
        assert lm.cut_answers == ({tuple(ids)} if is_cut else set())
