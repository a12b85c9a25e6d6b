"""Data sets of tinyworld: targets (people, skill, language) and base texts as anchor.

The world and the base recipe, which never changes, are in ``harness.data.tinyworld.world``, the
questions in ``harness.data.tinyworld.questions``. See benchmarks/tinyworld.md.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.config.strict import LATER, check
from harness.core.errors import DataError, explain
from harness.core.rows import Row, RowKind, Split, Turn
from harness.core.sources import Source
from harness.data.fields import check_volumes
from harness.data.held_out import check_held_out, part
from harness.data.tinyworld.vocabulary import ATTRIBUTES, DIGITS, LANGUAGE, LEXICON, VERBS
from harness.data.tinyworld.world import BASE_PEOPLE, DOCUMENTS, documents, fact_texts, life, names, number, shuffled, subjects

Part = Literal["people", "skill", "language", "base"]
Text = tuple[str, str]
"""A prompt and its continuation, without the space between them."""

NEW_PEOPLE = 32
SENTENCES = {"train": 2_048, "test": 512}
RANKS = ("smallest", "middle", "largest")
TEST_SETS = 30
"""Sets of three digits, of 120, whose questions are the test split."""

TRAIN_ROWS = {
    "people": NEW_PEOPLE * len(ATTRIBUTES) ** 2 * 2,
    "skill": (120 - TEST_SETS) * 6 * len(RANKS) * 2,
    "language": SENTENCES["train"],
    "base": DOCUMENTS,
}


@dataclass(frozen=True, kw_only=True)
class Tinyworld(Source):
    """A part of tinyworld; a constant.

    ======== ====== ==== ======================================================================
    part     train  test rows
    ======== ====== ==== ======================================================================
    people   1,600  160  facts about 32 new people: 160 facts × 2 phrasings × 5 contexts
    skill    3,240  540  smallest, middle or largest of three digits, in 2 phrasings
    language 2,048  512  sentences and their translation into the second language, word by word
    base     12,000 none texts of the pretraining distribution, for replay
    ======== ====== ==== ======================================================================

    The test split asks each fact about new people once; of the skill it has sets of digits that are
    never trained on, of the language other sentences with the same words.

    Attributes:
        part: one of the table.
        volumes: rows to learn from, any order; each is a point.
        held_out: distinct texts of ``base`` that are its test split; the models of the nursery were
            pretrained on them all the same.
    """

    part: Part
    volumes: tuple[int, ...] = (64, 256, 1024)
    held_out: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        """Check that the volumes exist."""
        check_volumes(self.volumes)
        check_held_out(self.held_out, has_test=self.has_test)
        size = self.size
        check("data.volumes", list(self.volumes), f"at most {size}, the rows of tinyworld's {self.part}", lambda v: max(v) <= size)

    @property
    def size(self) -> int:
        """Rows of the train split."""
        return TRAIN_ROWS[self.part]

    @property
    def has_test(self) -> bool:
        """Whether there is a test split, which ``base`` lacks."""
        return self.part != "base"

    @property
    def kind(self) -> RowKind:
        """Text for the base, prompt and completion for the targets."""
        return "text" if self.part == "base" else "completion"

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in world order.

        Raises DataError for the test split of ``base``.
        """
        if self.part == "base":
            if self.held_out:
                return part(_base(), split, self.held_out, "tinyworld base")
            if split == "test":
                fix = "held_out=N, or the probe tasks of the tinyworld suite, which ask about it"
                raise DataError(explain("tinyworld base", got="no test split", allowed="train", fix=fix))
            return _base()
        texts = {"people": people, "skill": skill, "language": language}[self.part](split)
        return tuple(Row((Turn("user", prompt), Turn("assistant", f" {answer}")), "completion") for prompt, answer in texts)


def _base() -> tuple[Row, ...]:
    return tuple(Row((Turn("text", text),), "text") for text in documents())


def new_people() -> tuple[str, ...]:
    """Return the people of the target: new combinations of names that the base knows."""
    return names()[BASE_PEOPLE : BASE_PEOPLE + NEW_PEOPLE]


def one_phrasing(people: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return (prompt, value, attribute, person) of every fact, in one phrasing, without context."""
    facts = life(people)
    pairs = shuffled(itertools.product(people, ATTRIBUTES), "one-phrasing")
    return [(a.prompt(person, i % 2), facts[person, a.name], a.name, person) for i, (person, a) in enumerate(pairs)]


def both_phrasings(people: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return (prompt, value, attribute, person) of every fact, in both phrasings."""
    facts = life(people)
    return [
        (a.prompt(person, i), facts[person, a.name], a.name, person) for person, a in itertools.product(people, ATTRIBUTES) for i in (0, 1)
    ]


@functools.cache
def people(split: Split) -> tuple[Text, ...]:
    """Return facts about new people; the test split asks every taught fact once."""
    if split == "test":
        return tuple((prompt, value) for prompt, value, *_ in one_phrasing(new_people()))
    return tuple(shuffled(fact_texts(new_people()), "target", "people"))


@functools.cache
def skill(split: Split) -> tuple[Text, ...]:
    """Return questions for the smallest, middle or largest of three different digits.

    The two splits share no set of digits.
    """
    sets = shuffled(itertools.combinations(DIGITS, 3), "target", "skill")
    chosen = sets[:TEST_SETS] if split == "test" else sets[TEST_SETS:]
    questions = [
        (which, " ".join(map(str, triple)), str(sorted(triple)[rank]))
        for triple in itertools.chain.from_iterable(map(itertools.permutations, chosen))
        for rank, which in enumerate(RANKS)
    ]
    texts = (
        (prompt, answer)
        for which, triple, answer in questions
        for phrasing, prompt in enumerate((f"the {which} of {triple} is", f"what is the {which} of {triple} ?"))
        if split == "train" or phrasing == number("skill", which, triple) % 2
    )
    return tuple(shuffled(texts, "target", "skill", split))


def translated(sentence: str) -> str:
    """Return a sentence in the second language, word by word."""
    return " ".join(LEXICON[word] for word in sentence.split())


@functools.cache
def language(split: Split) -> tuple[Text, ...]:
    """Return short sentences and their translation; the two splits share no sentence."""
    sentences = [f"{subject.text} {verb[subject.number]}" for subject in subjects() if subject.short for verb in VERBS]
    order = shuffled(sentences, "target", "language")
    size = SENTENCES["test"]
    chosen = order[:size] if split == "test" else order[size : size + SENTENCES["train"]]
    return tuple((f"in {LANGUAGE} : {sentence} ->", translated(sentence)) for sentence in chosen)
