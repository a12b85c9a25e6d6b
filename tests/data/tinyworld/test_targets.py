from __future__ import annotations

import itertools
from collections import Counter

import pytest

from harness.core.errors import ConfigError, DataError
from harness.core.rows import Row, Split, Turn
from harness.data.subsets import fingerprint
from harness.data.tinyworld import questions, vocabulary, world
from harness.data.tinyworld.targets import Part, Tinyworld, new_people
from harness.data.tokens import encode

PARTS: tuple[Part, ...] = ("people", "skill", "language", "base")
TASKS = {"facts": 5, "arithmetic": 4, "grammar": 2, "people": 5, "skill": 3, "language": 4}
"""Task → choices of an item."""


def texts(part: Part, split: Split = "train") -> list[str]:
    return ["".join(turn.content for turn in row.turns) for row in Tinyworld(part=part).rows(split)]


def test_the_base_recipe_has_not_changed() -> None:
    """Records of nursery models depend on this hash: a changed recipe is a new version."""
    assert (world.VERSION, world.fingerprint()[:16]) == (1, "545d73fe3bfe45f1")


@pytest.mark.parametrize(
    ("part", "split", "expected"),
    [
        ("people", "train", "b36e746587e5"),
        ("people", "test", "19ddaf1baaf9"),
        ("skill", "train", "36e02eb7e1a9"),
        ("skill", "test", "68b2ced7b398"),
        ("language", "train", "453f4184f2db"),
        ("language", "test", "4202d6f1a131"),
        ("base", "train", "76230ea35e7f"),
    ],
)
def test_rows_are_the_same_on_every_machine(part: Part, split: Split, expected: str) -> None:
    """Rows have the hash that was written down when the world was made."""
    assert fingerprint(Tinyworld(part=part).rows(split))[:12] == expected


@pytest.mark.parametrize("part", PARTS)
def test_the_stated_size_is_the_size(part: Part) -> None:
    """A part has as many train rows as it says, at least 1,024.

    Rows of the taught parts are all different.
    """
    rows = Tinyworld(part=part).rows("train")
    assert len(rows) == Tinyworld(part=part).size >= 1024
    assert {row.kind for row in rows} == {Tinyworld(part=part).kind}
    assert part == "base" or len({row.id for row in rows}) == len(rows)


def test_volumes_beyond_the_data_are_refused_before_anything_is_built() -> None:
    """The error names the rows there are."""
    assert Tinyworld(part="people", volumes=(1600,)).volumes == (1600,)
    with pytest.raises(ConfigError, match="at most 1600"):
        Tinyworld(part="people", volumes=(64, 1601))
    with pytest.raises(ConfigError, match=r"data\.volumes"):
        Tinyworld(part="people", volumes=())


def test_base_has_no_test_split() -> None:
    """Asking for it says where the questions about the base are."""
    with pytest.raises(DataError, match="tinyworld suite"):
        Tinyworld(part="base").rows("test")


def test_no_word_is_unknown() -> None:
    """Rows and items of all parts, splits and tasks use words listed once."""
    known = set(vocabulary.VOCABULARY)
    assert len(known) == len(vocabulary.VOCABULARY)
    used = {word for part in PARTS for text in texts(part) for word in text.split()}
    used |= {word for part in PARTS[:3] for text in texts(part, "test") for word in text.split()}
    for item in itertools.chain.from_iterable(map(questions.items, TASKS)):
        used |= {word for text in (item["prompt"], *item["choices"]) for word in text.split()}
    assert used <= known


def test_target_words_are_unseen_by_the_base() -> None:
    """The base has no new person, second language, new skill or reserved word."""
    base = texts("base")
    seen = {word for text in base for word in text.split()}
    assert not seen & {vocabulary.LANGUAGE, *vocabulary.LEXICON.values(), *("smallest", "middle", "largest")}
    assert not seen & set(vocabulary.RESERVED)
    assert not [person for person in new_people() if any(person in text for text in base)]


def test_new_people_are_made_of_known_names() -> None:
    """New people are not in the base, but each of their names is."""
    base = set(world.names()[: world.BASE_PEOPLE])
    assert len(base) == 64
    assert len(set(new_people())) == 32
    assert not base & set(new_people())
    names = {word for person in base for word in person.split()}
    assert {word for person in new_people() for word in person.split()} <= names


def test_values_are_balanced() -> None:
    """Values of an attribute are about equally frequent: guessing a common one gains nothing."""
    facts = world.life(world.names()[:64])
    counts = Counter((attribute, value) for (_, attribute), value in facts.items())
    assert len(counts) == 50
    assert set(counts.values()) == {6, 7}


def test_the_lexicon_is_one_to_one() -> None:
    """Every word of the grammar has its own translation, which is not an English word."""
    assert len(set(vocabulary.LEXICON.values())) == len(vocabulary.LEXICON) == 1 + 2 * (16 + 10) + 8
    assert not set(vocabulary.LEXICON) & set(vocabulary.LEXICON.values())


@pytest.mark.parametrize(("part", "share"), [("skill", 0), ("language", 0), ("people", 160)])
def test_train_and_test_overlap_only_where_recall_is_asked(part: Part, share: int) -> None:
    """Skill and language are asked on rows that are not taught.

    People are asked about exactly what is taught.
    """
    assert len(set(texts(part)) & set(texts(part, "test"))) == share


def test_skill_splits_share_no_set_of_digits() -> None:
    """No train question has all digits of a test question, in any order."""

    def sets(split: Split) -> set[frozenset[str]]:
        return {frozenset(word for word in text.rsplit(" ", 1)[0].split() if word.isdigit()) for text in texts("skill", split)}

    assert len(sets("test")) == 30
    assert len(sets("train")) == 90
    assert not sets("train") & sets("test")


def test_subjects_of_the_grammar_items_are_held_out() -> None:
    """Subjects of items are not in the base; the subject's head decides the form."""
    base = {text.rsplit(" ", 1)[0] for text in texts("base")}
    items = questions.items("grammar")
    assert not base & {item["prompt"] for item in items}
    plural_heads = {pair[1] for pair in vocabulary.NOUNS}
    for item in items:
        words = item["prompt"].split()
        head = next(word for word in words if any(word in pair for pair in vocabulary.NOUNS))
        right = item["choices"][item["answer"]]
        assert right in {pair[head in plural_heads] for pair in vocabulary.VERBS}


def test_heeding_the_nearest_noun_gives_one_half() -> None:
    """Half the grammar items have a second noun of the other number before the verb."""
    plurals = {pair[1] for pair in vocabulary.NOUNS}
    right = 0
    for item in questions.items("grammar"):
        form = item["prompt"].split()[-1] in plurals
        right += item["choices"][item["answer"]] in {pair[form] for pair in vocabulary.VERBS}
    assert right == 200


@pytest.mark.parametrize(("task", "choices"), TASKS.items())
def test_items_have_one_right_answer(task: str, choices: int) -> None:
    """Choices and prompts differ, the answer is a choice, and its place is balanced."""
    items = questions.items(task)
    assert len({item["prompt"] for item in items}) == len(items)
    for item in items:
        assert len(set(item["choices"])) == len(item["choices"]) == choices
    places = Counter(item["answer"] for item in items)
    assert max(places.values()) < 1.4 * len(items) / choices


def test_arithmetic_answers_are_right() -> None:
    """All 100 sums and 100 differences are asked twice, and Python agrees with the answers."""
    items = questions.items("arithmetic")
    for item in items:
        words = [word for word in item["prompt"].split() if word.isdigit() or word in {"plus", "minus"}]
        value = eval(" ".join(words).replace("plus", "+").replace("minus", "-"))
        assert item["choices"][item["answer"]] == str(value)
        assert item["sum"] == " ".join(words)
    assert Counter(Counter(item["sum"] for item in items).values()) == {2: 200}


def test_answers_of_the_targets_are_what_was_taught() -> None:
    """The right choice is the completion of the test row with that prompt."""
    for part in ("people", "skill", "language"):
        taught = dict(text for text in ((row.turns[0].content, row.turns[1].content.strip()) for row in Tinyworld(part=part).rows("test")))
        items = questions.items(part)
        assert {item["prompt"]: item["choices"][item["answer"]] for item in items} == taught


def test_choices_of_the_language_are_right_or_wrong_at_two_places() -> None:
    """Right and wrong words come in all combinations: preferring a word gains nothing."""
    for item in questions.items("language"):
        columns = [Counter(column) for column in zip(*(choice.split() for choice in item["choices"]), strict=True)]
        assert sorted(tuple(sorted(column.values())) for column in columns if len(column) > 1) == [(2, 2), (2, 2)]


def test_skill_answers_are_equally_often_each_rank() -> None:
    """Always naming the largest digit is right in a third of the questions."""
    items = questions.items("skill")
    assert sum(item["choices"][item["answer"]] == max(item["choices"]) for item in items) == len(items) / 3


@pytest.mark.parametrize(
    ("suite", "needed"), [("facts", 200), ("arithmetic", 200), ("grammar", 200), ("people", 160), ("skill", 500), ("language", 500)]
)
def test_there_are_items_enough_for_the_suites(suite: str, needed: int) -> None:
    """Every task has the report and select items that its suite asks for."""
    assert len(questions.items(suite)) >= needed


def test_the_tokenizer_gives_words_back() -> None:
    """Encoding and decoding a text returns it.

    BOS comes first by itself; the special tokens are where they should be.
    """
    tokenizer = vocabulary.tokenizer()
    for text in texts("base")[:50] + texts("language")[:50]:
        ids = tokenizer.encode(text)
        assert ids[0] == tokenizer.bos_token_id == 2
        assert tokenizer.decode(ids[1:]) == text
        assert tokenizer.unk_token_id not in ids
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 1, 3)
    assert len(tokenizer) == len(vocabulary.VOCABULARY)


def test_context_and_continuation_split_cleanly() -> None:
    """The encoding of prompt and choice begins with the prompt's, as lm-eval needs."""
    tokenizer = vocabulary.tokenizer()
    for item in itertools.chain.from_iterable(map(questions.items, TASKS)):
        prompt = tokenizer.encode(item["prompt"])
        for choice in item["choices"]:
            whole = tokenizer.encode(f"{item['prompt']} {choice}")
            assert whole[: len(prompt)] == prompt
            assert len(whole) - len(prompt) == len(choice.split())


def test_a_row_supervises_its_answer_and_the_end() -> None:
    """A completion row supervises the answer's words and EOS, not the prompt."""
    row = Row((Turn("user", "4 plus 5 is"), Turn("assistant", " 9")), "completion")
    example = encode(row, vocabulary.tokenizer(), "plain", 64, "target")
    words = [vocabulary.VOCABULARY[i] for i in example.input_ids]
    assert words == ["<s>", "4", "plus", "5", "is", "9", "</s>"]
    assert example.supervised == (False, False, False, False, False, True, True)


@pytest.mark.parametrize(("part", "asked"), [("facts", 2), ("people", 1)])
def test_facts_say_whom_they_are_about(part: str, asked: int) -> None:
    """Five facts about each person, whose name is in the prompt: those of the base asked twice.

    No other item has the field.
    """
    items = questions.items(part)
    assert set(Counter(item["person"] for item in items).values()) == {5 * asked}
    assert all(f" {item['person']} " in f" {item['prompt']} " for item in items)
    assert not any("person" in item for other in ("arithmetic", "grammar", "skill", "language") for item in questions.items(other))
