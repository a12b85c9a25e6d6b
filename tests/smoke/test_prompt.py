"""What the model reads, through the real command and in the folder of a run."""

from __future__ import annotations

import re
import subprocess

from tests.smoke.conftest import Cli

MODEL = "model=nursery-smoke-a"


def test_the_prompt_shown_is_the_prompt_recorded(cli: Cli, swept: subprocess.CompletedProcess[str]) -> None:
    """`harness prompt` and the runs of the sweep write the same: prompt with BOS, choices, ids and pieces."""
    (shown,) = {path.read_text() for path in (cli.folder / "results" / "smoke" / "runs").glob("*/prompts/tinyworld/tinyworld_facts.txt")}
    printed = cli("prompt", "tinyworld", MODEL).stdout
    assert printed.startswith(shown)
    assert re.search(r"^suite tinyworld, task tinyworld_facts: item 1 of 200", printed)
    assert "\n<s> " in printed
    assert re.search(r"^choice 4, 1 token: ", printed, flags=re.MULTILINE)
    assert len(re.findall(r"^right: choice \d$", printed, flags=re.MULTILINE)) == 3


def test_another_item_and_settings_are_shown(cli: Cli) -> None:
    """--item takes another one; settings of the evaluation reach the tokens.

    Nothing is written, nothing else is printed.
    """
    first, second, without = (
        cli("prompt", "tinyworld-people", MODEL, *extra) for extra in [[], ["--item", "2"], ["evaluation.add_bos=false"]]
    )
    assert "item 2 of 120" in second.stdout
    assert first.stdout != second.stdout
    assert "<s>" in first.stdout
    assert "<s>" not in without.stdout
    assert first.stderr == ""


def test_rows_are_shown_with_the_answer_that_is_scored(cli: Cli) -> None:
    """Also in suites that lm-eval does not know.

    Of text that the model writes, the prompt alone.
    """
    gold = cli("prompt", "drift_target", MODEL).stdout
    assert re.search(r"^prompt, \d+ tokens:$", gold, flags=re.MULTILINE)
    assert re.search(r"^answer, \d+ tokens: '.*</s>'$", gold, flags=re.MULTILINE)
    assert "answer" not in cli("prompt", "drift_target_base", MODEL).stdout.partition("\n")[2]
