"""Mitigations that generate rows: rows by hand, from an author with scripted answers."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from harness.config import composition
from harness.core.contexts import GeneratedRow
from harness.core.errors import ConfigError, DataError
from harness.core.progress import Silent
from harness.core.rows import Example, PromptFormat, Row, Turn
from harness.data.tinyworld.chat_targets import TinyworldChat
from harness.data.tinyworld.chat_world import RESTATE
from harness.data.tinyworld.targets import Tinyworld
from harness.methods.mitigation import sdft
from harness.methods.mitigation.minimum_change import PROMPT, MinimumChange, with_number
from harness.methods.mitigation.paraphrase import Paraphrase
from harness.methods.mitigation.pseudo_replay import TRIES, PseudoReplay
from harness.methods.mitigation.replay import Replay
from harness.methods.mitigation.sdft import OPENINGS, TEMPLATES, Sdft, gives_away
from harness.methods.mitigation.self_output import SelfOutput
from harness.methods.objective.clm import Clm
from harness.methods.objective.sft import Sft
from harness.methods.rewriting import filled
from harness.methods.tuning.full import Full
from harness.models.author import TransformersAuthor
from tests.support import tiny
from tests.support.scripted import CUT, END, Scripted, context, of_bytes, row


def words(text: str) -> str:
    return " ".join(text.split())


def answer(written: GeneratedRow) -> str:
    """The answer that is trained on."""
    assert written.row is not None
    return written.row.turns[-1].content


class Exact(Scripted):
    """An author whose texts keep every space."""

    def spoken(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode([number for number in ids if number != END]))


def test_sdft_trains_on_what_the_model_made_of_the_reference() -> None:
    """Valid answers replace the gold ones.

    Answers that are empty, cut, of the wrong value or about the template do not.
    """
    template = "{prompt} the answer is : {answer} . say it in other words"
    said = ["well it is 4", f"it is 4{CUT}", "it is 5", "my response is 4", "Your turn 4", ""]
    rows = [row(f"q{i}", "4") for i in range(len(said))]
    own = Scripted({f"q{i} the answer is : 4 . say it in other words": [text] for i, text in enumerate(said)})
    written = Sdft(template=template, check="last_number").write(rows, context(own))
    assert [answer(one) for one in written] == [" well it is 4", " 4", " 4", " 4", " 4", " 4"]
    assert [one.accepted for one in written] == [True, False, False, False, False, False]
    assert [one.how for one in written] == ["restated", *["gold"] * 5]
    assert [one.generated_tokens for one in written] == [5, 3, 4, 5, 4, 1]
    assert {sampling.temperature for _, _, sampling in own.asked} == {0.0}
    assert written[1].tried == ("it is 4",)


def test_sdft_asks_with_the_templates_of_its_code() -> None:
    """Question and reference fill the template.

    The opening of gsm8k begins the model's answer and is not part of it.
    """
    one = row("1 + 1 ?", "2")
    assert TEMPLATES["using"].endswith("### Instruction:\n{prompt}\n\n### Reference Answer:\n{answer}\n\n### Response:\n")
    prompt = words(f"{filled(TEMPLATES['gsm8k'], prompt='1 + 1 ?', answer='2')} {OPENINGS['gsm8k']}")
    assert prompt.endswith("the question. 1 + 1 ? 2 Great! Let's think step by step.")
    own = Scripted({prompt: ["1 and 1 is 2"]})
    (written,) = Sdft(template="gsm8k", check="last_number").write([one], context(own))
    assert answer(written) == " 1 and 1 is 2"
    tokens = of_bytes()
    formats: list[tuple[PromptFormat, str]] = [("plain", " "), ("chat", "")]
    for prompt_format, space in formats:  # the opening joins the prompt as an answer does
        exact = Exact({f"1 + 1 ? 2{space}{OPENINGS['gsm8k']}": ["so it is 2"]}, tokens)
        template = {"gsm8k": "{prompt} {answer}"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sdft, "TEMPLATES", template)
            (written,) = Sdft(template="gsm8k").write([one], context(exact, prompt_format=prompt_format))
        assert answer(written) == " so it is 2"
    for text in ("As the Reference Answer says", "Now it's your turn", "Your turn: 4"):
        assert gives_away(text)
    assert not gives_away("It is your turn, 4")
    with pytest.raises(ConfigError, match=r"mitigation.template: got 'usng'; allowed: using, refer, gsm8k, or a text"):
        Sdft(template="usng")


def test_a_paraphrase_is_drawn_and_falls_back_to_gold() -> None:
    """At temperature 0.7, by a key of its row."""
    rows = [row("q1", "blue"), row("q2", "red")]
    own = Scripted({"again : blue": ["the blue one"], "again : red": [""]})
    written = Paraphrase(template="again : {answer}").write(rows, context(own))
    assert [answer(one) for one in written] == [" the blue one", " red"]
    assert [sampling.temperature for _, _, sampling in own.asked] == [0.7, 0.7]
    assert len({key for _, key, _ in own.asked}) == 2


def test_self_output_is_the_own_answer_where_it_is_right() -> None:
    """Else the gold one; both cost the tokens written."""
    rows = [row("q1", "it is 4"), row("q2", "it is 7")]
    own = Scripted({"q1": ["5", "well 4"], "q2": ["5", "5"]})
    written = SelfOutput(samples=2, check="last_number").write(rows, context(own))
    assert [answer(one) for one in written] == [" well 4", " it is 7"]
    assert [(one.how, one.accepted, one.generated_tokens) for one in written] == [("own", True, 5), ("gold", False, 4)]
    assert SelfOutput(check="exact").models == ()


def test_another_models_answers_are_told_apart_from_the_own() -> None:
    """The start model writes nothing then."""
    own = Scripted({})
    other = Scripted({"q": ["well 4"]}, own.tokenizer)
    method = SelfOutput(author="large", check="last_number")
    (written,) = method.write([row("q", "4")], context(own, {"large": other}))
    assert (answer(written), written.how, method.models, own.asked) == (" well 4", "other", ("large",), [])


def test_minimum_change_without_an_editor() -> None:
    """A right answer is kept.

    Else the right sample nearest to it; else its last number replaced; else gold.
    """
    rows = [row(f"q{i}", gold) for i, gold in enumerate(["4", "4", "so final 4", "4", "yes"])]
    own = Scripted(
        {
            "q0": ["well it is 4"],
            "q1": ["well it is 5", "4", "oh it is 4", "well it is 3"],
            "q2": ["i say 5 .", "1", "2", "3"],
            "q3": ["5", "5", "5", "5"],
            "q4": [f"no{CUT}", "no", "no", "no"],
        }
    )
    written = MinimumChange(samples=3, check="last_number").write(rows[:4], context(own))
    assert [answer(one) for one in written] == [" well it is 4", " oh it is 4", " i say 4 .", " 4"]
    assert [one.how for one in written] == ["own", "sampled", "spliced", "gold"]  # a splice that gives the gold answer is gold
    assert [one.accepted for one in written] == [True, True, True, False]
    assert [one.edit_rate for one in written] == [0.0, pytest.approx(2 / 4), pytest.approx(1 / 4), 1.0]
    assert [one.generated_tokens for one in written] == [5, 5 + 2 + 5 + 5, 5 + 2 + 2 + 2, 8]
    (left,) = MinimumChange(samples=3, check="exact").write(rows[4:], context(own))
    assert (answer(left), left.how, left.edit_rate) == (" yes", "gold", 1.0)
    assert left.tried == ("no", "no", "no", "no")


def test_minimum_change_with_an_editor() -> None:
    """It sees question, gold answer and own answer.

    A wrong correction is replaced by the gold answer. Right answers are not sent.
    """
    own = Scripted({"q0": ["it is 4"], "q1": ["it is 5"], "q2": ["it is 6"]})
    asked = {words(filled(PROMPT, prompt=f"q{i}", answer="4", own=f"it is {i + 4}")): [text] for i, text in ((1, "it is 4"), (2, "7"))}
    editor = Scripted(asked, own.tokenizer)
    method = MinimumChange(editor="large", check="last_number")
    written = method.write([row(f"q{i}", "4") for i in range(3)], context(own, {"large": editor}))
    assert [(answer(one), one.how, one.edit_rate) for one in written] == [
        (" it is 4", "own", 0.0),
        (" it is 4", "edited", pytest.approx(1 / 3)),
        (" 4", "gold", 1.0),
    ]
    assert [one.generated_tokens for one in written] == [4, 4 + 4, 4 + 2]
    assert len(editor.asked) == 2
    assert {sampling.temperature for _, _, sampling in [*own.asked, *editor.asked]} == {0.0}


def test_only_the_last_number_is_replaced() -> None:
    """As it is written in the gold answer.

    Only if both have a number.
    """
    assert with_number("3 + 4 = 8 apples", "so 7.0") == "3 + 4 = 7.0 apples"
    assert with_number("none", "7") is None
    assert with_number("7", "none") is None


def test_rehearsal_texts_are_drawn_from_the_beginning_or_a_prefix() -> None:
    """Top-20, by their own numbers; an empty text is drawn again, and counts."""
    own = Scripted({"<begin>": ["the dog", "a cat", "", "birds"]})
    method = PseudoReplay(fraction=0.5)
    written = method.write([row(f"q{i}", "a") for i in range(7)], context(own))
    assert [one.row for one in written] == [Row((Turn("text", text),), "text") for text in ("the dog", "a cat", "birds")]
    assert [one.generated_tokens for one in written] == [3, 3, 1 + 2]
    assert [(sampling.top_k, sampling.temperature) for _, _, sampling in own.asked] == [(20, 1.0)] * 4
    again = Scripted({"<begin> in the": ["city", "sea"]})
    made = PseudoReplay(prefix="in the").made([0, 1], context(again))
    assert [one.row.text if one.row else "" for one in made] == ["in the city", "in the sea"]
    assert [key for _, key, _ in again.asked] == [key for _, key, _ in own.asked[:2]]


def test_a_text_that_only_its_limit_ended_is_learned_without_an_end() -> None:
    """The model did not write EOS there, so it does not learn to."""
    own = Scripted({"<begin>": ["w1 w2", f"w1 w2{CUT}", f"w3{CUT}"]})
    whole, cut, short = (one.row for one in PseudoReplay().made([0, 1, 2], context(own)))
    found = [Sft().encode(row, tiny.tokenizer(), 8, "anchor") for row in (whole, cut, short) if row]
    bos = [] if found[0].input_ids[0] != tiny.BOS else [tiny.BOS]
    one, two, three = (tiny.tokenizer().convert_tokens_to_ids(word) for word in ("w1", "w2", "w3"))
    assert [list(example.input_ids) for example in found] == [[*bos, one, two, tiny.EOS], [*bos, one, two], [*bos, three]]
    assert len({row.id for row in (whole, cut) if row}) == 2  # a run on one of them is restarted where the other is found


def test_rehearsed_questions_and_answers_are_parted_by_the_separator() -> None:
    """The tag belongs to the prompt.

    A text without it, or cut, is drawn again; a model that never writes it is an error.
    """
    method = PseudoReplay(prefix="<user>", separator="<assistant>")
    own = Scripted({"<begin> <user>": ["who is it", f"who <assistant> the{CUT}", "why <assistant> because"]})
    (written,) = method.made([0], context(own))
    assert written.row == Row((Turn("user", "<user> why <assistant>"), Turn("assistant", " because")), "completion")
    assert (written.generated_tokens, written.how) == (4 + 3 + 4, "completion")
    mute = Scripted({"<begin> <user>": ["no"] * TRIES})
    with pytest.raises(DataError, match="wrote no whole answer after '<assistant>' in 10 tries, prompted with '<user>'"):
        method.made([0], context(mute))


TAGS = {"prefix": "<user>", "separator": "<assistant>"}


@pytest.mark.parametrize("prompt_format", ["chat", "plain"])
def test_a_rehearsed_row_has_each_tag_once(prompt_format: Any) -> None:
    """In either format: the chat template writes them, and plain rows contain them."""
    tokenizer = tiny.tokenizer()
    own = Scripted({"<bos> <user>": ["w1 w2 <assistant> w3"]}, tokenizer)
    (written,) = PseudoReplay(**TAGS).made([0], context(own, prompt_format=prompt_format))  # type: ignore[arg-type]
    assert written.row is not None
    asked = {"chat": "w1 w2", "plain": "<user> w1 w2 <assistant>"}[prompt_format]
    assert written.row == Row((Turn("user", asked), Turn("assistant", " w3")), "completion")
    text = tokenizer.decode(list(Sft(prompt_format=prompt_format).encode(written.row, tokenizer, 24, "anchor").input_ids))
    assert text == {"chat": "<user> w1 w2 <eos> <assistant> w3 <eos>", "plain": "<user> w1 w2 <assistant> w3 <eos>"}[prompt_format]


def test_the_nurserys_chat_models_rehearse_the_same_tokens_with_tags_and_without() -> None:
    """Their template drops tags within a turn, so both kinds of rows have equal tokens."""
    tokenizer = composition.member("model", "nursery-m-chat").tokenizer()
    said = "what is 3 plus 8 ? <assistant> the answer is 11"
    begin = tokenizer.decode([tokenizer.bos_token_id])
    own = Scripted({f"{begin} <user>": [said]}, tokenizer)
    (written,) = PseudoReplay(**TAGS).made([0], context(own, prompt_format="chat"))  # type: ignore[arg-type]
    assert written.row is not None
    assert written.row.turns[0].content == "what is 3 plus 8 ?"
    before = Row((Turn("user", "<user> what is 3 plus 8 ? <assistant>"), Turn("assistant", " the answer is 11")), "completion")
    chat = Sft(prompt_format="chat")
    new, old = (chat.encode(one, tokenizer, 64, "anchor") for one in (written.row, before))
    assert (new.input_ids, new.supervised) == (old.input_ids, old.supervised)
    assert tokenizer.decode(list(new.input_ids)).count("<user>") == 1


@pytest.mark.model
def test_a_chat_model_has_a_different_text_for_each_method_to_train_on() -> None:
    """The gold wording is none of its own, and it restates gold in others than it answers in.

    So answers restated greedily, restated at random, drawn and greedy are four sets of texts.
    """
    rows = TinyworldChat(part="chat-skill").rows("train")[:120]
    restate: dict[str, Any] = {"template": RESTATE.replace("question", "prompt"), "check": "last_number", "max_new_tokens": 12}
    member = composition.member("model", "nursery-m-chat")
    author = TransformersAuthor(
        model=member.load(),
        tokenizer=member.tokenizer(),
        prompt_format="chat",
        max_length=64,
        dtype="float32",
        scored_tokens=2048,
        progress=Silent(),
    )
    methods = {
        "sdft": Sdft(**restate),
        "paraphrase": Paraphrase(**restate),
        "self_output": SelfOutput(check="last_number", max_new_tokens=12),
        "minimum_change": MinimumChange(check="last_number", max_new_tokens=12),
    }
    writing = dataclasses.replace(context(Scripted({}), prompt_format="chat"), own=author)
    texts = {name: [answer(one).strip() for one in method.write(rows, writing)] for name, method in methods.items()}
    gold = [row.turns[-1].content.strip() for row in rows]
    begun = {name: Counter(text.split()[0] for text in found) for name, found in texts.items()}
    most = {name: max(("the", "it", "that"), key=lambda word, first=first: first[word]) for name, first in begun.items()}  # type: ignore[misc]
    assert most == {"sdft": "the", "paraphrase": "the", "self_output": "it", "minimum_change": "it"}
    assert all(text.startswith("final answer = [") for text in gold)
    for one, other in itertools.combinations([*texts, "none"], 2):
        same = sum(first == second for first, second in zip(texts[one], texts.get(other, gold), strict=True))
        assert same < 0.75 * len(rows), (one, other)
    assert begun["minimum_change"]["it"] > 1.5 * begun["self_output"]["it"]
    assert min(begun["paraphrase"][word] for word in ("the", "it", "that")) > 10


def test_rehearsed_texts_keep_what_they_began_with() -> None:
    """No template writes it."""
    (made,) = PseudoReplay(prefix="in the").made([0], context(Scripted({"<begin> in the": ["sea"]}), prompt_format="chat"))
    assert made.row == Row((Turn("text", "in the sea"),), "text")


def test_rehearsal_is_mixed_in_as_replay_does() -> None:
    """floor(γ·k) rows after k target rows, each where it is due.

    At γ = 0 it writes and mixes nothing.
    """
    targets: list[list[Example]] = [[tiny.example(7, 8), tiny.example(9, 10)] for _ in range(5)]
    anchor = [tiny.example(20 + i, 30, origin="anchor") for i in range(3)]
    assert PseudoReplay(fraction=0.3).mix(targets, anchor) == Replay(fraction=0.3).mix(targets, anchor)
    assert [len(step) for step in PseudoReplay(fraction=0.3).mix(targets, anchor)] == [2, 3, 2, 3, 3]
    assert PseudoReplay(fraction=0.0).mix(targets, []) == targets
    assert (PseudoReplay(fraction=0.0).writes, PseudoReplay().writes) == ("", "anchor")
    assert not PseudoReplay().needs_anchor


def test_rehearsal_rejects_objectives_that_do_not_accept_its_rows() -> None:
    """Documents are compatible with both, questions and answers with sft alone."""
    skill, base = Tinyworld(part="skill"), Tinyworld(part="base")
    assert PseudoReplay().rejects(Sft(), Full(), skill) == PseudoReplay().rejects(Clm(), Full(), base) == ""
    assert "completion rows" in PseudoReplay(separator=":").rejects(Clm(), Full(), base)
    with pytest.raises(ConfigError, match="mitigation.temperature: got 0.0"):
        PseudoReplay(temperature=0.0)
