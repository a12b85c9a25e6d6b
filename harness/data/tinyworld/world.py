"""tinyworld, version 1: its people, sums and sentences, and the base recipe of the nursery.

The world is a constant: everything comes from written words and from hashes, never from a random
generator whose stream could change with a library. The base recipe never changes; a stage added
later takes its people from the names that are still free and its words from
``vocabulary.RESERVED``. See benchmarks/tinyworld.md.

The targets are in ``harness.data.tinyworld.targets``.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.data.tinyworld import vocabulary
from harness.data.tinyworld.vocabulary import ADJECTIVES, ATTRIBUTES, DIGITS, FIRST, LAST, NOUNS, PREPOSITIONS, VERBS

T = TypeVar("T")

VERSION = 1
"""Of the base recipe; a changed world would be version 2, next to this one."""

BASE_PEOPLE = 64
DOCUMENTS = 12_000
SHARES = {"facts": 0.45, "arithmetic": 0.35, "grammar": 0.20}
"""Shares of the base documents, by kind."""


def number(*parts: object) -> int:
    """Return a 64-bit hash of the parts: the world's only source of randomness."""
    text = "/".join(map(str, ("tinyworld", VERSION, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def shuffled(items: Iterable[T], *parts: object) -> list[T]:
    """Return items in an order that depends only on their ``repr`` and the parts."""
    return sorted(items, key=lambda item: number(*parts, repr(item)))


@functools.cache
def names() -> tuple[str, ...]:
    """Return every possible name, in world order; the first ``BASE_PEOPLE`` are in the base."""
    return tuple(shuffled((f"{first} {last}" for first in FIRST for last in LAST), "people"))


def life(people: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return (person, attribute) → value for some people, all values about equally often."""
    facts: dict[tuple[str, str], str] = {}
    for attribute in ATTRIBUTES:
        values = attribute.values
        order = enumerate(shuffled(people, "life", attribute.name))
        facts |= {(person, attribute.name): values[i % len(values)] for i, person in order}
    return facts


def fact_texts(people: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (prompt, value) for every fact, phrasing and context.

    A context is empty, or one other fact of the same person, stated first.
    """
    facts = life(people)
    for person, attribute, phrasing in itertools.product(people, ATTRIBUTES, (0, 1)):
        value, prompt = facts[person, attribute.name], attribute.prompt(person, phrasing)
        yield prompt, value
        for other in ATTRIBUTES:
            if other is not attribute:
                yield f"{other.prompt(person, 0)} {facts[person, other.name]} . {prompt}", value


def arithmetic_texts(phrasings: Sequence[int] = (0, 1)) -> Iterator[tuple[str, str]]:
    """Yield (prompt, value) for all 100 sums and 100 differences of two digits.

    In each phrasing: 0 is the statement, 1 the question.
    """
    for a, b in itertools.product(DIGITS, DIGITS):
        for sign, value in (("plus", a + b), ("minus", a - b)):
            for phrasing in phrasings:
                yield (f"{a} {sign} {b} is", f"what is {a} {sign} {b} ?")[phrasing], str(value)


@dataclass(frozen=True)
class Subject:
    """The beginning of a sentence.

    ``number`` (0 singular, 1 plural) is that of its head, ``nearest`` that of the noun next to the
    verb.
    """

    text: str
    number: int
    nearest: int

    @property
    def short(self) -> bool:
        """Whether it has a single noun."""
        return not any(word in PREPOSITIONS for word in self.text.split())

    @property
    def held_out(self) -> bool:
        """Whether it is kept from the base: one subject in five."""
        return number("held-out", self.text) % 5 == 0


@functools.cache
def subjects() -> tuple[Subject, ...]:
    """Return every subject: ``the [adjective] noun``, or this and ``preposition the noun``.

    The second noun is another one than the first.
    """
    phrases = [
        (" ".join(filter(None, ("the", adjective, noun[form]))), noun, form)
        for noun, form, adjective in itertools.product(NOUNS, (0, 1), ("", *ADJECTIVES))
    ]
    long = [
        Subject(f"{text} {preposition} the {other[nearest]}", form, nearest)
        for (text, noun, form), preposition, other, nearest in itertools.product(phrases, PREPOSITIONS, NOUNS, (0, 1))
        if other is not noun
    ]
    return (*(Subject(text, form, form) for text, _, form in phrases), *long)


def verb(subject: Subject, *parts: object) -> tuple[str, str]:
    """Return the verb of a sentence, both forms, chosen by hash."""
    return VERBS[number("verb", subject.text, *parts) % len(VERBS)]


def sentences(count: int) -> list[str]:
    """Return sentences about subjects that are not held out, two long ones per short one."""
    seen = shuffled((subject for subject in subjects() if not subject.held_out), "sentences")
    short, long = [s for s in seen if s.short], [s for s in seen if not s.short]
    picked = [short[i // 3 % len(short)] if i % 3 == 0 else long[i % len(long)] for i in range(count)]
    return [f"{subject.text} {verb(subject, i)[subject.number]}" for i, subject in enumerate(picked)]


@functools.cache
def documents() -> tuple[str, ...]:
    """Return the base recipe: ``DOCUMENTS`` texts in world order, kinds by ``SHARES``."""
    counts = {kind: round(share * DOCUMENTS) for kind, share in SHARES.items()}
    facts = shuffled((f"{prompt} {value}" for prompt, value in fact_texts(names()[:BASE_PEOPLE])), "facts")
    sums = [f"{prompt} {value}" for prompt, value in arithmetic_texts()]
    texts = [
        *(facts[i % len(facts)] for i in range(counts["facts"])),
        *(sums[i % len(sums)] for i in range(counts["arithmetic"])),
        *sentences(counts["grammar"]),
    ]
    return tuple(text for _, text in shuffled(enumerate(texts), "documents"))


@functools.cache
def fingerprint() -> str:
    """Return a hash of the base recipe: every document in order, and the vocabulary."""
    return hashlib.sha256(json.dumps([VERSION, vocabulary.fingerprint(), documents()]).encode()).hexdigest()
