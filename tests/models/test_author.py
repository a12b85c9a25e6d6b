"""A live model as an author: its draws, prompts and the text of its tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from harness.core.contexts import Sampling
from harness.core.errors import DataError
from harness.core.progress import Silent
from harness.core.rows import Row, Turn
from harness.methods.mitigation.pseudo_replay import PseudoReplay
from harness.methods.rewriting import answers, right
from harness.models.author import TransformersAuthor, restated
from harness.models.generate import draw, shaped
from harness.models.score import answer_nats
from tests.support import tiny
from tests.support.scripted import Scripted, context, of_bytes, row

PROMPTS = [(tiny.BOS, 9, 12), (tiny.BOS, 30), (tiny.BOS, 7, 8, 20, 33, 41), (tiny.BOS, 11, 11, 11)]
KEYS = ["a", "b", "c", "d"]
NONE = -math.inf


def author(**changes: Any) -> TransformersAuthor:
    settings = {"prompt_format": "plain", "max_length": tiny.MAX_LENGTH, "dtype": "float32", "scored_tokens": 512, "progress": Silent()}
    return TransformersAuthor(**{"model": tiny.llama(), "tokenizer": tiny.tokenizer(), **settings, **changes})


def shape(logits: list[float], ids: list[int] | None = None, valid: list[bool] | None = None, **settings: Any) -> list[float]:
    """Shape one row."""
    before = torch.tensor([ids or [0]])
    counts = torch.tensor([valid or [True] * before.shape[1]])
    return [float(x) for x in shaped(torch.tensor([logits], dtype=torch.float64), before, counts, Sampling(8, **settings))[0]]


def test_logits_are_shaped_in_order() -> None:
    """By hand: penalty first, then temperature, top_k with ties, top_p over what is left."""
    assert shape([2.0, 1.0, -1.0]) == [2.0, 1.0, -1.0]
    assert shape([2.0, 1.0, -1.0], temperature=0.5) == [4.0, 2.0, -2.0]
    assert shape([1.0, 3.0, 3.0, 0.0], temperature=0.0) == [NONE, 0.0, NONE, NONE]
    assert shape([2.0, 1.0, -1.0, 1.0], top_k=1) == [2.0, NONE, NONE, NONE]
    assert shape([2.0, 1.0, -1.0, 1.0], top_k=2) == [2.0, 1.0, NONE, 1.0]
    assert shape([2.0, 1.0], top_k=9) == [2.0, 1.0]
    halves = [math.log(p) for p in (0.2, 0.5, 0.3)]
    assert shape(halves, top_p=0.5) == [NONE, halves[1], NONE]
    assert shape(halves, top_p=0.51) == [NONE, halves[1], halves[2]]
    assert shape(halves, top_p=0.9) == halves
    # 0.5 and 0.3 of the two that top_k leaves are 0.625 and 0.375
    assert shape(halves, top_k=2, top_p=0.6) == [NONE, halves[1], NONE]
    assert shape([2.0, 1.0, -1.0], [0, 2, 2], repetition_penalty=2.0) == [1.0, 1.0, -2.0]
    assert shape([2.0, 1.5, -1.0], [0, 1], [False, True], repetition_penalty=2.0, temperature=0.5) == [4.0, 1.5, -2.0]


def test_answers_are_scored_in_the_dtype_of_the_author() -> None:
    """In bfloat16 as under autocast, to the last bit; the weights stay float32."""
    examples = [tiny.example(1, 7, 9, 12, 2, supervised=[3, 4]), tiny.example(1, 8, 2, supervised=[2])]
    model = tiny.llama().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = answer_nats(model, examples, 512, Silent())
    assert author(model=model, dtype="bfloat16").nats(examples) == expected
    assert author(model=model).nats(examples) != expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_greedy_text_is_that_of_a_plain_loop() -> None:
    """The likeliest token again and again, until EOS or the limit."""
    model = tiny.llama()
    for prompt, text in zip(PROMPTS, author().write(PROMPTS, KEYS, Sampling(6, temperature=0.0)), strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and ids[-1] != tiny.EOS:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert text == tuple(ids[len(prompt) :])


def test_at_the_defaults_texts_are_those_of_draw() -> None:
    """Temperature 1 from the whole vocabulary, by the same numbers."""
    settings: dict[str, Any] = {"max_new_tokens": 8, "max_length": tiny.MAX_LENGTH, "dtype": "float32", "tokens": 512, "progress": Silent()}
    assert author().write(PROMPTS, KEYS, Sampling(8)) == draw(tiny.llama(), tiny.tokenizer(), PROMPTS, KEYS, **settings)


@pytest.mark.parametrize("settings", [{"temperature": 0.7, "top_k": 5}, {"top_p": 0.6, "repetition_penalty": 1.5}])
def test_a_text_does_not_depend_on_its_batch(settings: dict[str, Any]) -> None:
    """Nor on its padding: the repetition penalty does not count it as a token."""
    sampling = Sampling(8, **settings)
    together = author().write(PROMPTS, KEYS, sampling)
    assert together == [author().write([prompt], [key], sampling)[0] for prompt, key in zip(PROMPTS, KEYS, strict=True)]
    assert together != author().write(PROMPTS, KEYS, Sampling(8))
    assert together != author().write(PROMPTS, ["e", "f", "g", "h"], sampling)


def test_only_the_likeliest_tokens_are_drawn() -> None:
    """200 draws with top_k = 2 give the two likeliest tokens, each at least once."""
    with torch.no_grad():
        likeliest = tiny.llama()(torch.tensor([PROMPTS[0]])).logits[0, -1].topk(2).indices.tolist()
    texts = author().write([PROMPTS[0]] * 200, [str(i) for i in range(200)], Sampling(1, top_k=2))
    assert {text[0] for text in texts} == set(likeliest)


def test_a_prompt_that_leaves_no_room_is_continued_by_nothing() -> None:
    """The others are."""
    long = (tiny.BOS, *[9] * (tiny.MAX_LENGTH - 1))
    found = author().write([long, PROMPTS[0], long[:-1]], KEYS[:3], Sampling(4, temperature=0.0))
    assert [len(text) for text in found][::2] == [0, 1]
    assert len(found[1]) > 0


def test_nats_are_those_of_the_answer() -> None:
    """Minus the log-probability of each supervised token."""
    example = tiny.example(tiny.BOS, 9, 12, 30, supervised=[2, 3])
    with torch.no_grad():
        logs = torch.log_softmax(tiny.llama()(torch.tensor([example.input_ids])).logits[0].double(), -1)
    assert author().nats([example]) == [pytest.approx(-float(logs[1, 12] + logs[2, 30]), rel=1e-5)]


def test_words_of_a_prompt_and_of_an_answer() -> None:
    """A prompt is everything before the answer, in either format.

    Special tokens and the end of the turn are not spoken.
    """
    tokenizer = tiny.tokenizer()
    row = Row((Turn("user", "w1 w2"), Turn("assistant", " w3")), "completion")
    plain, chat = author(), author(prompt_format="chat")
    assert tokenizer.decode(list(plain.prompt(row))) == tokenizer.decode(list(plain.text_prompt("w1 w2\n"))) == "w1 w2"
    assert tokenizer.decode(list(chat.prompt(row))) == tokenizer.decode(list(chat.text_prompt("w1 w2"))) == "<user> w1 w2 <eos> <assistant>"
    ids = [*tokenizer.encode(" w3 w4"), tiny.EOS]
    assert plain.spoken(ids) == "w3 w4"
    assert plain.spoken(ids[-1:]) == ""


class Fixed(TransformersAuthor):
    """Writes these tokens after any prompt."""

    ids: tuple[int, ...] = ()

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        return [self.ids] * len(prompts)


@pytest.mark.parametrize(
    ("text", "end", "ended"),
    [
        ("Step 1: 4\n", [], False),
        ("Step 1: 4 ", [], False),
        ("Step 1: 4", [tiny.BOS], False),
        ("Step 1: 4\n", [tiny.EOS], True),
        ("", [], False),
    ],
)
def test_only_an_end_of_text_ends_an_answer(text: str, end: list[int], ended: bool) -> None:
    """White space and other special tokens are no text either.

    An answer whose limit is right behind them was cut, and is not right.
    """
    tokenizer = of_bytes()
    own = author(tokenizer=tokenizer)
    author_of = Fixed(**vars(own))
    author_of.ids = (*tokenizer.encode(text, add_special_tokens=False), *end)
    given = dataclasses.replace(context(Scripted({})), own=author_of)
    (answer,) = answers(author_of, [(9,)], ["key"], Sampling(16))
    assert (answer.text, answer.ended) == (text.strip(), ended)
    assert right("last_number", row("2 + 2", "4"), answer) == ended
    rehearsing = PseudoReplay(separator=":")
    if ended:
        (written,) = rehearsing.made([0], given)
        assert written.row == Row((Turn("user", "Step 1:"), Turn("assistant", " 4")), "completion")
    else:
        with pytest.raises(DataError, match="no whole answer"):
            rehearsing.made([0], given)


def test_another_answer_takes_the_white_space_of_the_gold_one() -> None:
    """So that it is joined to its prompt as the gold answer is."""
    before = (Turn("system", "s"), Turn("user", "q"))
    for gold, made in ((" 4", " it is 5"), ("\n4 ", "\nit is 5"), ("4", "it is 5")):
        assert restated(Row((*before, Turn("assistant", gold)), "completion"), " it is 5\n").turns == (*before, Turn("assistant", made))
