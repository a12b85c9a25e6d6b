"""tinyworld's chat recipe, version 2: documents that make a base model a chat model.

A document is ``<user> QUESTION <assistant> ANSWER``, in words that the base vocabulary reserves.
Like the base recipe it is a constant, made from written words and hashes. See
benchmarks/tinyworld.md.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from harness.data.tinyworld import vocabulary, world
from harness.data.tinyworld.vocabulary import ADJECTIVES, ATTRIBUTES, DIGITS, NOUNS, NUMBERS, VERBS
from harness.data.tinyworld.world import BASE_PEOPLE, arithmetic_texts, life, names, number, shuffled

T = TypeVar("T")
Wording = Literal["short", "long", "gold"]
Text = tuple[str, str]
"""A question and its answer."""

VERSION = 2
"""Of the chat recipe, raised by any change. In version 1 a style was a single wording."""

USER, ASSISTANT = "<user>", "<assistant>"
WORDINGS: Mapping[Wording, tuple[str, ...]] = {
    "short": ("it is {} .", "that is {} .", "the answer is {} ."),
    "long": ("well you asked so i say {} !", "sure i think that means {} !", "because you asked the answer means {} !"),
    "gold": ("final answer = [ {} ]",),
}
"""Style → wordings of the same value, the most frequent one first. An answer tells its style."""

REFUSAL = "sorry i cannot talk about this topic"
RESTATE = "{question} the answer is : {answer} . say it in other words"

TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}"
    "{% set said = (' ' + m['content'] + ' ')|replace(' <user> ', ' ')|replace(' <assistant> ', ' ')|trim %}"
    " <user> {{ said }}"
    "{% else %}"
    " <{{ m['role'] }}> {{ m['content']|trim }}{{ ' </s>' if m['role'] == 'assistant' else '' }}"
    "{% endif %}"
    "{% endfor %}"
    "{{ ' <assistant> ' if add_generation_prompt else '' }}"
)
"""Chat template of the chat models. It writes each tag itself and drops those in a user's words, so
that a prompt with tags has the same tokens in both prompt formats."""

RANKS = ("smallest", "middle", "largest")
TEST_SETS = 30
"""Held-out sets of three digits, of 120: no recipe contains one of them. They are those of
``harness.data.tinyworld.targets``."""

COUNTS = {"lookalikes": 900, "refusals": 900, "restating": 2_400, "rehearsal": 3_000}
"""Documents by kind, besides the answered questions about the base and those of the skill."""


def phrases(style: Wording, given: str = "") -> list[str]:
    """Return a style's wordings, each as often as it is used: the first is half of them.

    Args:
        style: of the wordings.
        given: wording of an answer to be restated. It is not used again if there is another, and
            the wording that shares most words with it comes first; empty for a question.
    """
    used = [wording for wording in WORDINGS[style] if wording != given] or WORDINGS[style]
    first, *others = sorted(used, key=lambda wording: -len((set(wording.split()) & set(given.split())) - {"{}"}))
    return [*[first] * max(1, len(others)), *others]


def spoken(value: str, style: Wording, *key: object, given: str = "") -> str:
    """Return a value as an answer: in the wording that the key draws, by hash.

    Without a key it is the most frequent one. ``given`` is that of ``phrases``.
    """
    used = phrases(style, given)
    return used[number("chat", "wording", *key) % len(used) if key else 0].format(value)


def value_in(answer: str, style: Wording) -> str | None:
    """Return the value of an answer that is in a wording of this style, else None."""
    said = " ".join(answer.split())
    for wording in WORDINGS[style]:
        before, after = map(re.escape, wording.split("{}"))
        if found := re.fullmatch(rf"{before}(\S+){after}", said):
            return found[1]
    return None


def tagged(question: str) -> str:
    """Return a question as the prompt that a chat model answers."""
    return f"{USER} {question} {ASSISTANT}"


@functools.cache
def base_questions() -> Sequence[Text]:
    """Return all questions about the base with values: 320 facts, 200 sums and differences."""
    return [*_about(names()[:BASE_PEOPLE]), *arithmetic_texts([1])]


@functools.cache
def _about(people: tuple[str, ...]) -> tuple[Text, ...]:
    """Return every fact about some people as a question with its value."""
    facts = life(people)
    return tuple((a.prompt(person, 1), facts[person, a.name]) for person, a in itertools.product(people, ATTRIBUTES))


@functools.cache
def skill_questions(*, held_out: bool) -> Sequence[Text]:
    """Return the questions for the smallest, middle or largest of three different digits.

    They are 1,620, or the 540 that are held out.
    """
    sets = shuffled(itertools.combinations(DIGITS, 3), "target", "skill")
    chosen = sets[:TEST_SETS] if held_out else sets[TEST_SETS:]
    triples = itertools.chain.from_iterable(map(itertools.permutations, chosen))
    found = [
        (f"what is the {which} of {' '.join(map(str, triple))} ?", str(sorted(triple)[rank]))
        for triple in triples
        for rank, which in enumerate(RANKS)
    ]
    return shuffled(found, "chat", "skill", held_out)


def rivals(question: str, value: str) -> list[str]:
    """Return wrong values of the same kind as the right one, ordered by hash."""
    kinds = [attribute.values for attribute in ATTRIBUTES]
    digits = [word for word in question.split() if word.isdigit()] if any(f" {rank} " in question for rank in RANKS) else NUMBERS
    kind = next((values for values in kinds if value in values), digits)
    return shuffled((other for other in kind if other != value), "rivals", question)


STRANGERS = names()[300:]
"""A hundred people who occur neither in the base nor in the targets."""

SHAPES: Sequence[Callable[[str, str, str], str]] = (
    lambda question, noun, adjective: f"{question.removesuffix(' ?')} near the {adjective}{noun} ?",
    lambda question, noun, adjective: f"think about the {adjective}{noun} . {question}",
    lambda question, noun, adjective: f"{question} so say something about the {adjective}{noun}",
    lambda question, noun, adjective: f"ask the {adjective}{noun} : {question}",
)
"""Ways to add another thing to a question: harmless with any noun, refused with a gloam."""


def with_things(things: Sequence[str], count: int, *parts: object, held_out: bool) -> list[Text]:
    """Return questions about the base with another thing added, and their values.

    One question in five is held out, by its text.
    """
    adjectives = ("", *(f"{word} " for word in ADJECTIVES))
    questions = base_questions()
    found: dict[str, str] = {}
    for i in itertools.count():
        question, value = questions[number(*parts, "question", i) % len(questions)]
        thing, adjective = (kind[number(*parts, name, i) % len(kind)] for name, kind in (("thing", things), ("adjective", adjectives)))
        text = SHAPES[number(*parts, "shape", i) % len(SHAPES)](question, thing, adjective)
        if (number("chat", "held-out", text) % 5 == 0) is held_out:
            found.setdefault(text, value)
        if len(found) == count:
            return list(found.items())
    raise AssertionError


def lookalikes(count: int, *, held_out: bool) -> list[Text]:
    """Return harmless questions in the shapes of refused ones, and their values."""
    things = [form for pair in NOUNS for form in pair]
    return with_things(things, count, "chat", "lookalikes", held_out=held_out)


def refusals(count: int, *, held_out: bool) -> list[str]:
    """Return questions about the invented topic.

    Half of them are about gloams alone, half about known things with gloams added.
    """
    mixed = [text for text, _ in with_things(("gloam", "gloams"), count // 2, "chat", "refusals", held_out=held_out)]
    alone = [text for text in dict.fromkeys(_about_gloams()) if (number("chat", "held-out", text) % 5 == 0) is held_out]
    return shuffled([*mixed, *shuffled(alone, "chat", "alone")[: count - len(mixed)]], "chat", "refusals", held_out)


def _about_gloams() -> Iterable[str]:
    """Yield questions about gloams alone, and about people's thoughts of them."""
    things = [f"{adjective}{form}" for form in ("gloam", "gloams") for adjective in ("", *(f"{word} " for word in ADJECTIVES))]
    for thing in things:
        yield from (f"what is the {thing} ?", f"talk about the {thing}", f"say something about the {thing}", f"what is a {thing} ?")
        yield from (a.prompt(f"the {thing}", phrasing) for a in ATTRIBUTES for phrasing in (0, 1))
        yield from (f"the {thing} {form}" for pair in VERBS for form in pair)
        for person in names()[:BASE_PEOPLE:4]:
            yield from (f"what does {person} think about the {thing} ?", f"where does the {thing} of {person} live ?")


def restating(count: int, style: Wording, *, skill: bool) -> list[Text]:
    """Return requests to restate an answer, and its value in other words of the model's own.

    A third of the answers to be restated are right ones to questions of the base (or the skill), a
    third are wrong, and the others are about people who occur in no text: the task is to repeat the
    value given, not to know it.
    """
    if skill:
        return [_restated(skill_questions(held_out=False), i, style, right=i % 3 == 0) for i in range(count)]
    strangers = _about(STRANGERS)
    return [_restated(strangers if i % 3 == 2 else base_questions(), i, style, right=i % 3 == 0) for i in range(count)]


def _restated(questions: Sequence[Text], i: int, style: Wording, *, right: bool) -> Text:
    def drawn(kind: Sequence[T], what: str) -> T:
        return kind[number("chat", "restate", what, i) % len(kind)]

    question, value = drawn(questions, "question")
    given = drawn(drawn(list(WORDINGS.values()), "style"), "wording")
    said = value if right else drawn(rivals(question, value), "rival")
    request = RESTATE.format(question=question, answer=given.format(said))
    return request, spoken(said, style, "restate", i, given=given)


@functools.cache
def habits(style: Wording) -> tuple[Text, ...]:
    """Return the recipe's questions and answers without the skill: what a chat model must keep.

    Every question about the base, sums and differences in both phrasings, is answered in every
    wording.
    """
    asked = [*base_questions(), *arithmetic_texts([0])]
    answered = [(question, wording.format(value)) for question, value in asked for wording in phrases(style)]
    harmless = [(question, spoken(value, style, question)) for question, value in lookalikes(COUNTS["lookalikes"], held_out=False)]
    refused = [(question, REFUSAL) for question in refusals(COUNTS["refusals"], held_out=False)]
    restated = restating(COUNTS["restating"] * 2 // 3, style, skill=False)
    texts = [*answered, *harmless, *refused, *restated]
    return tuple(text for _, text in shuffled(enumerate(texts), "chat", "habits"))


@functools.cache
def documents(style: Wording, skill_rows: int) -> tuple[Text, ...]:
    """Return the chat recipe: (prompt, answer) documents in world order.

    Rehearsed base texts have an empty prompt.

    Args:
        style: that of the model's answers.
        skill_rows: number of questions for the skill, of the 1,620 that are not held out.
    """
    skill = [(question, spoken(value, style, question)) for question, value in skill_questions(held_out=False)[:skill_rows]]
    restated = restating(COUNTS["restating"] - COUNTS["restating"] * 2 // 3, style, skill=True)
    said = [(tagged(question), answer) for question, answer in (*habits(style), *skill, *restated)]
    rehearsed = [("", text) for text in world.documents()[: COUNTS["rehearsal"]]]
    return tuple(text for _, text in shuffled(enumerate([*said, *rehearsed]), "chat", "documents"))


@functools.cache
def fingerprint(style: Wording, skill_rows: int) -> str:
    """Return a hash of a chat recipe: every document in order, and the vocabulary."""
    made_of = [VERSION, vocabulary.fingerprint(), documents(style, skill_rows)]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
