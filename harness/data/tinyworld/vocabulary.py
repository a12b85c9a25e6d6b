"""Vocabulary of tinyworld, version 1: the words of all its parts; it never changes.

Words of targets and of later stages are in it from the start, unseen by the base, so that no stage
needs a new tokenizer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, BEGIN, END = SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")

FIRST = tuple("anna boris clara dario elena felix greta hugo irina jonas karin leon mira nils olga pavel rosa simon tilda viktor".split())
LAST = tuple(
    "adler brandt castor dorn ekman falk gruber hansen ivers jung keller lorenz moser nord olsen probst quist ritter sander thorn".split()
)
"""First and last names; a person is a pair of them, so a new person is made of known words."""


@dataclass(frozen=True)
class Attribute:
    """A property of a person, in two phrasings; ``{}`` is the name, the value follows."""

    name: str
    statement: str
    question: str
    values: tuple[str, ...]

    def prompt(self, person: str, phrasing: int) -> str:
        """Return the text before the value: 0 the statement, 1 the question."""
        return (self.statement, self.question)[phrasing].format(person)


ATTRIBUTES = tuple(
    Attribute(name, statement, question, tuple(values.split()))
    for name, statement, question, values in (
        ("city", "{} lives in", "where does {} live ?", "lisbon oslo cairo lima quito delhi kyoto dublin athens havana"),
        ("job", "{} works as a", "what is the job of {} ?", "baker nurse pilot tailor miner judge sailor painter farmer lawyer"),
        ("pet", "{} keeps a", "what pet has {} ?", "parrot rabbit turtle pony lizard hamster ferret canary gecko goat"),
        ("food", "{} eats", "what does {} eat ?", "rice soup beans bread cheese plums honey noodles figs lentils"),
        ("sport", "{} plays", "what does {} play ?", "tennis chess golf rugby hockey polo darts squash bowls cricket"),
    )
)

DIGITS = range(10)
NUMBERS = tuple(str(number) for number in range(-9, 19))
"""All sums and differences of two digits; each is one word."""

SIGNS = ("plus", "minus")


def _forms(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in (pair.split("/") for pair in text.split()))


NOUNS = _forms(
    "dog/dogs cat/cats bird/birds horse/horses fox/foxes wolf/wolves bear/bears frog/frogs "
    "king/kings queen/queens child/children teacher/teachers doctor/doctors friend/friends uncle/uncles sister/sisters"
)
"""(singular, plural)."""
VERBS = _forms("sleeps/sleep runs/run sings/sing jumps/jump laughs/laugh swims/swim waits/wait falls/fall walks/walk smiles/smile")
"""(with a singular subject, with a plural subject)."""
ADJECTIVES = tuple("red small old happy quiet young tall proud".split())
PREPOSITIONS = ("near", "behind")

LANGUAGE = "tova"
"""The name of the second language."""


def _lexicon() -> dict[str, str]:
    """Return a word of tova for every word of the grammar.

    Stems are consonant, vowel, consonant, vowel, in alphabetical order; an ending marks the form.
    """
    stems = ("".join(letters) for letters in itertools.product("kmptz", "aiu", "lnrsv", "ou"))
    lexicon = {"the": "ze"}
    for singular, plural in (*NOUNS, *VERBS):
        stem = next(stems)
        lexicon |= {singular: stem, plural: f"{stem}ni"}
    return lexicon | {word: f"{next(stems)}k" for word in ADJECTIVES}


LEXICON = _lexicon()
"""English word → word of tova, one to one; singular and plural stay apart."""

TEMPLATES = tuple("? . , : -> is what in largest middle smallest of the".split())
"""Words of prompts whose texts are elsewhere."""

RESERVED = tuple(
    # who speaks; a refusal and the invented topic it is about
    "<user> <assistant> <system> <end> sorry i cannot will not talk about this that topic gloam gloams ask me something else "
    # an answer format; restating an answer; two styles of answering
    "answer short long final [ ] ( ) < > = ! you asked so other words again it means say well think sure because yes no true false "
    # further skills that can be verified; ways to judge; more of the second language
    "sort reverse count double half first last next before after times odd even greater less than and or sum list word words "
    "good bad better worse right wrong fact person people english".split()
)
"""Words that the base recipe does not use, reserved for later stages."""

VOCABULARY: Sequence[str] = tuple(
    dict.fromkeys(
        (
            *SPECIAL,
            *TEMPLATES,
            *NUMBERS,
            *SIGNS,
            *FIRST,
            *LAST,
            *(word for a in ATTRIBUTES for text in (a.statement, a.question) for word in text.split() if word != "{}"),
            *(value for attribute in ATTRIBUTES for value in attribute.values),
            *(form for pair in (*NOUNS, *VERBS) for form in pair),
            *ADJECTIVES,
            *PREPOSITIONS,
            LANGUAGE,
            *LEXICON.values(),
            *RESERVED,
        )
    )
)
"""Word number → word."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a fresh tokenizer: one token per word, BOS before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, VOCABULARY.index(BEGIN))])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def fingerprint() -> str:
    """Return a hash of the vocabulary, in order; equal hashes mean equal tokenizers."""
    return hashlib.sha256(json.dumps(VOCABULARY).encode()).hexdigest()
