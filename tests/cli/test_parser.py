"""Arguments of the command: overrides, help and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import app, parser


def test_overrides_may_follow_options() -> None:
    """Their order is kept, before and after an option."""
    arguments = parser.parse(["prompt", "tinyworld", "model=nursery-s", "--item", "2", "seed=1"], app.COMMANDS)
    assert (arguments.suite, arguments.item, arguments.overrides) == ("tinyworld", 2, ["model=nursery-s", "seed=1"])


@pytest.mark.parametrize("argv", [["table", "x", "seed=1"], ["run", "--fast=1"], ["prompt", "tinyworld", "--item", "2", "seed"]])
def test_unknown_arguments_are_an_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Only key=value is an override, and only for commands that take overrides."""
    with pytest.raises(SystemExit) as exited:
        parser.parse(argv, app.COMMANDS)
    assert exited.value.code == 2
    assert f"unrecognized arguments: {argv[-1]}" in capsys.readouterr().err


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """It is on standard output, and not an error."""
    assert app.main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: harness")
    assert err == ""


@pytest.mark.parametrize("argv", [["--results", "elsewhere"], ["results=elsewhere"]])
@pytest.mark.parametrize("command", [["table", "tiny"], ["fit", "tiny", "--law", "power"], ["status", "tiny"]])
def test_the_folder_of_results_is_an_option_or_an_override(command: list[str], argv: list[str]) -> None:
    """The spelling of sweep works for the commands that read its results."""
    assert parser.parse([*command, *argv], app.COMMANDS).results == Path("elsewhere")


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own help has a description, and a text for each argument."""
    with pytest.raises(SystemExit) as exited:
        parser.parse([name, "--help"], app.COMMANDS)
    assert exited.value.code == 0
    usage, description, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: harness {name}")
    assert description.endswith(".")
