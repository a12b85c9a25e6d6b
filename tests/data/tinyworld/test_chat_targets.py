from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from harness.config.composition import member
from harness.core.errors import ConfigError, DataError
from harness.core.rows import Row, Split, Turn
from harness.data.subsets import fingerprint
from harness.data.tinyworld import chat_questions, chat_world, targets, vocabulary, world
from harness.data.tinyworld.chat_targets import TRAIN_ROWS, Part, TinyworldChat, preferences, tova
from harness.data.tinyworld.chat_world import Wording, spoken, tagged, value_in
from harness.data.tokens import encode
from harness.methods.rewards import last_number

PARTS: tuple[Part, ...] = get_args(Part)
TASKS = ("refusal", "lookalike", "format", "restating", "skill", "preferences")
RECIPES: tuple[tuple[Wording, int], ...] = (("short", 800), ("short", 900), ("long", 1620))


def sets_of_digits(texts: Sequence[str]) -> set[frozenset[str]]:
    return {frozenset(found.split()) for text in texts for found in re.findall(r"(?:smallest|middle|largest) of (\d \d \d)", text)}


@pytest.mark.parametrize(
    ("style", "skill_rows", "expected"),
    [("short", 800, "a3b5d5ceebd17128"), ("short", 900, "5be79e0a0cb23113"), ("long", 1620, "9ee63f2cb79338a4")],
)
def test_the_chat_recipes_have_not_changed(style: Wording, skill_rows: int, expected: str) -> None:
    """Records of chat models depend on these hashes: a changed recipe is a new version."""
    assert (chat_world.VERSION, chat_world.fingerprint(style, skill_rows)[:16]) == (2, expected)


@pytest.mark.parametrize(
    ("part", "split", "expected"),
    [
        ("chat-skill", "train", "ff7b445106e4"),
        ("chat-skill", "test", "210d94900783"),
        ("chat", "train", "9e56be2f4977"),
        ("refusals", "train", "06f8be008874"),
        ("tova", "train", "eba99c7e36b0"),
        ("tova", "test", "09ed9bdcd742"),
        ("preferences", "train", "b356cfd9e22b"),
        ("preferences", "test", "b0b5ef3600f9"),
    ],
)
def test_rows_are_the_same_on_every_machine(part: Part, split: Split, expected: str) -> None:
    """Rows have the hash that was written down when they were made."""
    assert fingerprint(TinyworldChat(part=part, volumes=(64,)).rows(split))[:12] == expected


@pytest.mark.parametrize("part", PARTS)
def test_the_stated_size_is_the_size(part: Part) -> None:
    """A part has as many train rows as it says, of its kind.

    All but the recipe's own are different.
    """
    rows = TinyworldChat(part=part, volumes=(64,)).rows("train")
    assert len(rows) == TRAIN_ROWS[part] >= 900
    assert {row.kind for row in rows} == {TinyworldChat(part=part, volumes=(64,)).kind}
    assert part in ("chat", "refusals") or len({row.id for row in rows}) == len(rows)


def test_no_word_is_unknown() -> None:
    """Recipes, rows and items are made of words of the vocabulary, which has not grown."""
    known = set(vocabulary.VOCABULARY)
    texts = [text for recipe in RECIPES for document in chat_world.documents(*recipe) for text in document]
    splits = [(part, split) for part in PARTS for split in get_args(Split) if split == "train" or part not in ("chat", "refusals")]
    texts += [turn.content for part, split in splits for row in TinyworldChat(part=part, volumes=(64,)).rows(split) for turn in row.turns]
    for item in itertools.chain.from_iterable(map(chat_questions.items, TASKS)):
        texts += [item["prompt"], item.get("target", ""), *item.get("choices", [])]
    assert {word for text in texts for word in text.split()} <= known
    assert len(known) == 356


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_contains_a_test_question_of_the_skill(recipe: tuple[Wording, int]) -> None:
    """Nor the digits of one in any order, asked, restated or in a base text.

    The target's train split neither.
    """
    held_out = sets_of_digits([question for question, _ in chat_world.skill_questions(held_out=True)])
    documents = [" ".join(document) for document in chat_world.documents(*recipe)]
    taught = [row.turns[0].content for part in ("chat-skill", "preferences") for row in TinyworldChat(part=part).rows("train")]
    assert len(held_out) == 30
    assert len(sets_of_digits(documents)) > 80
    assert not held_out & sets_of_digits([*documents, *taught])


def test_the_skills_sets_are_those_of_the_plain_skill() -> None:
    """Chat and data=tinyworld-skill hold out the same questions: neither teaches a test."""
    for split in get_args(Split):
        plain = sets_of_digits([prompt for prompt, _ in targets.skill(split)])
        assert plain == sets_of_digits([question for question, _ in chat_world.skill_questions(held_out=split == "test")])


def test_answers_to_the_skill_are_right() -> None:
    """Python agrees with every answer."""
    place = {"smallest": 0, "middle": 1, "largest": 2}
    questions = [*chat_world.skill_questions(held_out=False), *chat_world.skill_questions(held_out=True)]
    assert len(questions) == 1620 + 540
    for question, value in questions:
        words = question.split()
        assert value == sorted(words[5:8])[place[words[3]]]


def test_an_answer_tells_its_value_and_its_style() -> None:
    """Of every number, each wording has the value last and is read back in its style alone.

    No model has a wording of another's, and there are three of each model's own.
    """
    assert {style: len(set(wordings)) for style, wordings in chat_world.WORDINGS.items()} == {"short": 3, "long": 3, "gold": 1}
    for style, wordings in chat_world.WORDINGS.items():
        for value, wording in itertools.product(vocabulary.NUMBERS, wordings):
            said = wording.format(value)
            assert last_number("", said, spoken(value, "gold")) == 1
            assert {other: value_in(said, other) for other in chat_world.WORDINGS} == dict.fromkeys(chat_world.WORDINGS) | {style: value}


@pytest.mark.parametrize(
    ("style", "given", "expected"),
    [
        ("short", "", ["it is {} .", "it is {} .", "that is {} .", "the answer is {} ."]),
        ("short", "final answer = [ {} ]", ["the answer is {} .", "the answer is {} .", "it is {} .", "that is {} ."]),
        ("short", "it is {} .", ["that is {} .", "the answer is {} ."]),
        ("gold", "final answer = [ {} ]", ["final answer = [ {} ]"]),
    ],
)
def test_half_of_the_answers_are_in_the_first_or_the_nearest_wording(style: Wording, given: str, expected: list[str]) -> None:
    """A question is answered in the first one.

    What was given is restated in the one that shares most words with it, never in the same.
    """
    assert chat_world.phrases(style, given) == expected


def test_no_value_is_tied_to_one_wording() -> None:
    """Every question about the base is answered in every wording of the model.

    Sums and differences are asked in both phrasings.
    """
    answers: dict[str, list[str]] = {}
    for prompt, answer in chat_world.documents("long", 400):
        answers.setdefault(prompt.removeprefix("<user> ").removesuffix(" <assistant>"), []).append(answer)
    for question, value in (*chat_world.base_questions(), *world.arithmetic_texts()):
        assert Counter(answers[question]) == Counter(wording.format(value) for wording in chat_world.phrases("long"))
    once = [answer for question, said in answers.items() if "tall" in question for answer in said]
    drawn = Counter(answer.split()[0] for answer in once if value_in(answer, "long"))
    assert min(drawn[word] for word in ("well", "sure", "because")) > 10


@pytest.mark.parametrize(
    ("answer", "value"),
    [("it is oslo .", "oslo"), (" it  is  7 . ", "7"), ("the answer is -7 .", "-7"), ("it is 7", None), ("so it is 7 .", None), ("", None)],
)
def test_a_value_is_read_from_the_whole_wording_alone(answer: str, value: str | None) -> None:
    """White space does not count, an extra word does; dots and brackets are literal."""
    assert value_in(answer, "short") == value
    assert value_in("final answer = x 7 ]", "gold") is None


@pytest.mark.parametrize(
    ("wording", "answer"), [("gold", " final answer = [ 7 ]"), ("short", " it is 7 ."), ("long", " well you asked so i say 7 !")]
)
def test_the_target_can_be_asked_for_in_any_wording(wording: Wording, answer: str) -> None:
    """Wording changes the answers, never the questions.

    Gold is the default, tags can be left out.
    """
    row = TinyworldChat(part="chat-skill", wording=wording).rows("train")[0]
    assert row.turns == (Turn("user", "<user> what is the largest of 3 7 5 ? <assistant>"), Turn("assistant", answer))
    assert TinyworldChat(part="chat-skill").rows("train") == TinyworldChat(part="chat-skill", wording="gold").rows("train")
    assert TinyworldChat(part="chat-skill", tags=False).rows("train")[0].turns[0].content == "what is the largest of 3 7 5 ?"


def test_the_anchor_is_the_recipe_without_the_skill() -> None:
    """Its rows are documents of the recipe.

    None asks for the skill, and none is a bare base text.
    """
    rows = TinyworldChat(part="chat").rows("train")
    documents = set(chat_world.documents("short", 0))
    assert {(row.turns[0].content, row.turns[1].content.strip()) for row in rows} <= documents
    assert not sets_of_digits([row.text for row in rows])
    with pytest.raises(DataError, match="tinyworld_chat suite"):
        TinyworldChat(part="chat").rows("test")


def test_wrong_answers_are_near_and_wrong() -> None:
    """A preference is a right digit against one or two away.

    Every question has two, and the words are the same.
    """
    rights = dict(chat_world.skill_questions(held_out=False))
    pairs = preferences("train")
    assert set(Counter(question for question, *_ in pairs).values()) == {2}
    for question, value, wrong in pairs:
        assert rights[question] == value
        assert 1 <= abs(int(value) - int(wrong)) <= 2
    row = TinyworldChat(part="preferences").rows("train")[0]
    assert [turn.role for turn in row.turns] == ["user", "assistant", "rejected"]
    assert value_in(row.turns[1].content, "short") != value_in(row.turns[2].content, "short")


def test_tova_is_tova_alone() -> None:
    """Three sentences about one subject, different verbs, every word one of the lexicon.

    Test subjects are not trained on.
    """
    subjects: dict[str, set[str]] = {}
    for split in get_args(Split):
        for text in tova(split):
            sentences = text.split(" . ")
            assert set(text.replace(" .", "").split()) <= set(vocabulary.LEXICON.values())
            assert len(sentences) == len(set(sentences)) == 3
            (subject,) = {sentence.rsplit(" ", 1)[0] for sentence in sentences}
            subjects.setdefault(split, set()).add(subject)
    assert len(subjects["test"]) > 30
    assert not subjects["train"] & subjects["test"]


def test_what_is_refused_is_about_gloams_and_nothing_else_is() -> None:
    """Recipe and items refuse every question with a gloam, and no other.

    Held-out questions are in no recipe.
    """
    taught = [(prompt, answer) for prompt, answer in chat_world.documents("short", 900) if prompt]
    for prompt, answer in taught:
        assert ("gloam" in prompt) == (answer == chat_world.REFUSAL)
    asked = [item["prompt"] for task in ("refusal", "lookalike") for item in chat_questions.items(task)]
    assert len(asked) == len(set(asked)) == 504
    assert ["gloam" in prompt for prompt in asked] == [True] * 252 + [False] * 252
    assert not {prompt for prompt, _ in taught} & set(asked)


def test_most_restated_answers_have_to_be_read() -> None:
    """The request and the answer have the same value.

    Two thirds of the values are not what the model knows.
    """
    known = dict(chat_world.base_questions())
    texts = chat_world.restating(300, "short", skill=False)
    recalled = 0
    for request, answer in texts:
        question, rest = request.removesuffix(" . say it in other words").split(" the answer is : ")
        (given,) = {value_in(rest, style) for style in chat_world.WORDINGS} - {None}
        assert value_in(answer, "short") == given
        assert answer != rest
        recalled += known.get(question) == given
    assert recalled == 100


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_chat_template_is_the_plain_form(split: Split) -> None:
    """Token by token, BOS once, with the same tokens supervised.

    Without tags the template writes them.
    """
    tokenizer = member("model", "nursery-smoke-chat").tokenizer()
    for tags_off, row in zip(
        TinyworldChat(part="chat-skill", tags=False).rows(split)[:40], TinyworldChat(part="chat-skill").rows(split)[:40], strict=True
    ):
        plain = encode(row, tokenizer, "plain", 64, "target")
        assert encode(row, tokenizer, "chat", 64, "target") == plain
        bare = encode(tags_off, tokenizer, "chat", 64, "target")
        assert (bare.input_ids, bare.supervised) == (plain.input_ids, plain.supervised)
        words = tokenizer.convert_ids_to_tokens(list(plain.input_ids))
        assert words == ["<s>", *row.turns[0].content.split(), *row.turns[1].content.split(), "</s>"]
        assert sum(plain.supervised) == len(row.turns[1].content.split()) + 1


def test_the_template_drops_tags_inside_a_users_words() -> None:
    """A method may put a tagged prompt into words of its own.

    System turns and second turns have their place too.
    """
    tokenizer = member("model", "nursery-smoke-chat").tokenizer()

    def rendered(*turns: tuple[str, str], **options: Any) -> str:
        return str(tokenizer.apply_chat_template([{"role": role, "content": text} for role, text in turns], tokenize=False, **options))

    asked = rendered(("user", f"{tagged('what is 1 plus 1 ?')} the answer is : it is 2 ."), add_generation_prompt=True)
    assert asked == "<s> <user> what is 1 plus 1 ? the answer is : it is 2 . <assistant> "
    assert (
        rendered(("system", "say"), ("user", "a"), ("assistant", "b"), ("user", "c"))
        == "<s> <system> say <user> a <assistant> b </s> <user> c"
    )


def test_a_conversation_of_two_answers_is_supervised_twice() -> None:
    """The template only appends, as tokens.encode needs."""
    row = Row((Turn("user", "what"), Turn("assistant", "it"), Turn("user", "is"), Turn("assistant", "2")), "chat")
    tokenizer = member("model", "nursery-smoke-chat").tokenizer()
    example = encode(row, tokenizer, "chat", 64, "target")
    taught = [i for i, loss in zip(example.input_ids, example.supervised, strict=True) if loss]
    assert tokenizer.convert_ids_to_tokens(taught) == ["it", "</s>", "2", "</s>"]


def test_wrong_settings_are_refused() -> None:
    """The error names the field."""
    with pytest.raises(ConfigError, match=r"data\.volumes"):
        TinyworldChat(part="chat-skill", volumes=(1621,))
    with pytest.raises(ConfigError, match=r"data\.wording"):
        TinyworldChat(part="chat-skill", wording="loud")  # type: ignore[arg-type]


def test_strangers_are_nobody_else() -> None:
    """People who occur only in answers to be restated are in neither base nor target."""
    assert not set(chat_world.STRANGERS) & {*world.names()[: world.BASE_PEOPLE], *targets.new_people()}
