"""Questions about tinyworld, multiple choice: items of the tasks in benchmarks/tasks/tinyworld.

An item has ``prompt``, ``choices`` (one of them right, ordered by hash) and ``answer``, the index
of the right one. What the base knows is asked in both of its phrasings. Items that tend to be
forgotten together have the same ``person`` (a fact), or the same ``sum`` (arithmetic): suites
cluster them by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.data.tinyworld.targets import both_phrasings, language, new_people, one_phrasing, skill
from harness.data.tinyworld.vocabulary import ADJECTIVES, ATTRIBUTES, DIGITS, LEXICON, NOUNS, NUMBERS, SIGNS, VERBS
from harness.data.tinyworld.world import BASE_PEOPLE, Subject, arithmetic_texts, names, shuffled, subjects, verb

Item = Mapping[str, Any]

FACT_CHOICES = 5
NUMBER_CHOICES = 4
GRAMMAR_ITEMS = 400


def items(task: str) -> list[Item]:
    """Return the items of a task of tinyworld, in a fixed order.

    Args:
        task: facts, arithmetic, grammar (probes), people, skill or language (targets).
    """
    makers: Mapping[str, Callable[[], list[Item]]] = {
        "facts": lambda: _facts(both_phrasings(names()[:BASE_PEOPLE])),
        "people": lambda: _facts(one_phrasing(new_people())),
        "arithmetic": _arithmetic,
        "grammar": _grammar,
        "skill": _skill,
        "language": _language,
    }
    return makers[task]()


def _item(prompt: str, right: str, wrong: Sequence[str]) -> Item:
    choices = shuffled((right, *wrong), "choices", prompt)
    return {"prompt": prompt, "choices": choices, "answer": choices.index(right)}


def _facts(facts: Sequence[tuple[str, str, str, str]]) -> list[Item]:
    """Return facts as items; wrong answers are other values of the same attribute."""
    values = {attribute.name: attribute.values for attribute in ATTRIBUTES}
    return [
        {**_item(prompt, value, shuffled((v for v in values[name] if v != value), "wrong", prompt)[: FACT_CHOICES - 1]), "person": person}
        for prompt, value, name, person in facts
    ]


def _arithmetic() -> list[Item]:
    """Return every sum and difference as two items, a statement and a question.

    The wrong answers are near the right one.
    """
    texts = [text for pair in zip(arithmetic_texts([0]), arithmetic_texts([1]), strict=True) for text in pair]
    return [{**_item(prompt, value, _near(prompt, int(value))), "sum": _sum(prompt)} for prompt, value in texts]


def _sum(prompt: str) -> str:
    return " ".join(word for word in prompt.split() if word in {*NUMBERS, *SIGNS})


def _near(prompt: str, value: int) -> list[str]:
    near = [str(value + step) for step in (-3, -2, -1, 1, 2, 3) if str(value + step) in NUMBERS]
    return shuffled(near, "wrong", prompt)[: NUMBER_CHOICES - 1]


def _grammar() -> list[Item]:
    """Return items that ask for the verb form after subjects unseen by the base.

    Shares: 1/8 short subjects, 3/8 long ones whose two nouns agree in number, 1/2 long ones whose
    nouns disagree, so that following the noun next to the verb gives one half. Singular and plural
    heads are balanced within the last two.
    """
    held_out = shuffled((subject for subject in subjects() if subject.held_out), "grammar")
    short = [s for s in held_out if s.short][: GRAMMAR_ITEMS // 8]

    def long(head: int, nearest: int, count: int) -> list[Subject]:
        return [s for s in held_out if not s.short and (s.number, s.nearest) == (head, nearest)][:count]

    same, other = GRAMMAR_ITEMS * 3 // 16, GRAMMAR_ITEMS // 4
    chosen = [*short, *long(0, 0, same), *long(1, 1, same), *long(0, 1, other), *long(1, 0, other)]
    forms = [(subject, verb(subject, "item")) for subject in chosen]
    return [_item(subject.text, pair[subject.number], [pair[1 - subject.number]]) for subject, pair in forms]


def _skill() -> list[Item]:
    """Return items that ask for the largest, middle or smallest of three digits.

    The choices are the three digits, each right equally often.
    """
    return [
        _item(prompt, answer, [word for word in prompt.split() if word in set(map(str, DIGITS)) and word != answer])
        for prompt, answer in skill("test")
    ]


def _language() -> list[Item]:
    """Return items that ask for a translation.

    The choices are right or wrong at two places of the sentence, in all four combinations. So every
    word is in as many choices as its rival, and preferring some words gains nothing over chance.
    """
    return [_item(prompt, answer, _misspoken(prompt, answer)) for prompt, answer in language("test")]


def _misspoken(prompt: str, answer: str) -> list[str]:
    words = answer.split()
    forms = [{LEXICON[form] for pair in pairs for form in pair} for pairs in (NOUNS, VERBS)] + [{LEXICON[word] for word in ADJECTIVES}]
    places = shuffled(range(1, len(words)), "places", prompt)[:2]  # the first word is always the article
    rivals = {place: _rival(words[place], forms, prompt) for place in places}
    changed = ([places[0]], [places[1]], places)
    return [" ".join(rivals[i] if i in wrong else word for i, word in enumerate(words)) for wrong in changed]


def _rival(word: str, kinds: Sequence[set[str]], prompt: str) -> str:
    """Return another word of the same kind."""
    kind = next(kind for kind in kinds if word in kind)
    return shuffled(kind - {word}, "rival", prompt)[0]
