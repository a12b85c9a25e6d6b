"""Prompts as the model sees them: `harness prompt`, and the prompts of a run's folder."""

from __future__ import annotations

import re
import subprocess

from tests.smoke.conftest import Cli

MODEL = "model=nursery-smoke-a"


def test_the_prompt_shown_is_the_prompt_recorded(cli: Cli, swept: subprocess.CompletedProcess[str]) -> None:
    """`harness prompt` and runs write the same prompt with BOS, choices, token ids and pieces."""
    (shown,) = {path.read_text() for path in (cli.folder / "results" / "smoke" / "runs").glob("*/prompts/tinyworld/tinyworld_facts.txt")}
    printed = cli("prompt", "tinyworld", MODEL).stdout
    assert printed.startswith(shown)
    assert re.search(r"^suite tinyworld, task tinyworld_facts: item 1 of 400", printed)
    assert "\n<s> " in printed
    assert re.search(r"^choice 4, 1 token: ", printed, flags=re.MULTILINE)
    assert len(re.findall(r"^right: choice \d$", printed, flags=re.MULTILINE)) == 3


def test_another_item_and_settings_are_shown(cli: Cli) -> None:
    """--item selects the item; settings of the evaluation change the tokens."""
    first, second, without = (
        cli("prompt", "tinyworld-people", MODEL, *extra) for extra in [[], ["--item", "2"], ["evaluation.add_bos=false"]]
    )
    assert "item 2 of 80" in second.stdout
    assert first.stdout != second.stdout
    assert "<s>" in first.stdout
    assert "<s>" not in without.stdout
    assert first.stderr == ""


def test_rows_are_shown_with_the_answer_that_is_scored(cli: Cli) -> None:
    """Suites outside lm-eval show it too; for generated text there is only the prompt."""
    gold = cli("prompt", "drift_target", MODEL).stdout
    assert re.search(r"^prompt, \d+ tokens:$", gold, flags=re.MULTILINE)
    assert re.search(r"^answer, \d+ tokens: '.*</s>'$", gold, flags=re.MULTILINE)
    assert "answer" not in cli("prompt", "drift_target_base", MODEL).stdout.partition("\n")[2]
