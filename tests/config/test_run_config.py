"""Strict building of dataclasses from plain values."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest

from harness.config import composition
from harness.config.run_config import Training
from harness.config.strict import Part, build, plain
from harness.core.errors import ConfigError, did_you_mean, explain


@dataclass(frozen=True, kw_only=True)
class Inner(Part):
    level: int = 1


@dataclass(frozen=True, kw_only=True)
class Thing:
    name: str
    rate: float = 0.1
    mode: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    maybe: int | None = None
    fields: Mapping[str, str] | None = None
    inner: Inner = Inner()


def test_values_are_coerced_to_the_type_of_their_field() -> None:
    """An integer becomes a number, a list a tuple, a mapping a nested dataclass."""
    thing = build(Thing, {"name": "x", "rate": 1, "sizes": [1, 2], "inner": {"level": 3}}, "thing")
    assert thing == Thing(name="x", rate=1.0, sizes=(1, 2), inner=Inner(level=3))
    assert isinstance(thing.rate, float)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["thing.name", "got nothing", "set thing.name="]),
        ({"name": "x", "raet": 1}, ["thing.raet", "unknown key", "did you mean 'rate'"]),
        ({"name": "x", "rate": "fast"}, ["thing.rate", "'fast'", "a number"]),
        ({"name": "x", "mode": "c"}, ["thing.mode", "'c'", "a, b"]),
        ({"name": "x", "sizes": [1, "two"]}, ["thing.sizes[1]", "'two'", "an integer"]),
        ({"name": "x", "sizes": 3}, ["thing.sizes", "a list"]),
        ({"name": "x", "maybe": True}, ["thing.maybe", "True"]),
        ({"name": "x", "inner": {"levle": 1}}, ["thing.inner.levle", "did you mean 'level'"]),
        ({"name": 5}, ["thing.name", "5", "text"]),
    ],
)
def test_a_wrong_value_is_an_error_of_one_line_that_names_it(values: dict[str, object], words: list[str]) -> None:
    """The message names the key, the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        build(Thing, values, "thing")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_text_read_as_a_number_takes_the_text_as_typed() -> None:
    """Revision 12e45678 reads as infinity; the field gets the text that the user typed."""
    assert build(Thing, {"name": float("inf")}, "thing", {"thing.name": "12e45678"}).name == "12e45678"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"batch_rows": 0}, "training.batch_rows"),
        ({"learning_rate": float("nan")}, "training.learning_rate"),
        ({"learning_rate": -1.0}, "training.learning_rate"),
        ({"beta2": 1.0}, "training.beta2"),
        ({"batch_rows": 4, "micro_batch_rows": 8}, "training.micro_batch_rows"),
    ],
)
def test_training_values_out_of_range_are_rejected(values: dict[str, object], word: str) -> None:
    """Ranges are checked when the configuration is built, not when it is used."""
    with pytest.raises(ConfigError, match=word):
        build(Training, values, "training")


def test_plain_values_name_the_class_of_a_member_and_not_of_a_part() -> None:
    """Without the class, the values build an equal object."""
    thing = Thing(name="x", sizes=(1, 2))
    values = plain(thing)
    assert values.pop("class") == "Thing"
    assert values["inner"] == {"level": 1}
    assert build(Thing, values, "") == thing


def test_the_parts_of_a_configuration_have_no_class() -> None:
    """Only the members of its groups have one."""
    values = plain(composition.compose(["mitigation=replay", "anchor=tinyworld-base", "reference=nursery-m", "objective=sft"]))
    with_class = {key for key, value in values.items() if isinstance(value, dict) and "class" in value}
    assert with_class == {"model", "tuning", "objective", "mitigation", "data", "anchor", "evaluation", "reference"}
    assert "class" not in values


def test_errors_are_one_line_and_survive_pickling() -> None:
    """A worker's error reaches its parent unchanged."""
    error = ConfigError(explain("a\nkey", got="1", allowed="2", fix="3"))
    assert str(error) == "a key: got 1; allowed: 2; fix: 3"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert did_you_mean("lroa", ["full", "lora"]) == "did you mean 'lora'?"
    assert did_you_mean("zzz", ["full", "lora"]) == ""
