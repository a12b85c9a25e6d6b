"""Secrets in texts are masked; words that only look like their names are not."""

from __future__ import annotations

import pytest

from harness.core.masking import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('launcher.setup=["export HF_TOKEN=abc"]', 'launcher.setup=["export HF_TOKEN=***"]'),
        ("export WANDB_API_KEY='two words'; run", "export WANDB_API_KEY=***; run"),
        (r'["export HF_TOKEN=\"a b\""]', r'["export HF_TOKEN=***"]'),
        ("export my_password=abc", "export my_password=***"),
        ("curl --token abc https://me:word@host/", "curl --token *** https://***@host/"),
        (f"401 for hf_{'a1' * 17}", "401 for ***"),
        ('export HF_TOKEN="$HF_TOKEN" B_KEY=$(cat file)', 'export HF_TOKEN="$HF_TOKEN" B_KEY=$(cat file)'),
        ("max_new_tokens=5 token_budget=4 key=3 PWD=/x tokens=2", "max_new_tokens=5 token_budget=4 key=3 PWD=/x tokens=2"),
    ],
)
def test_secrets_are_known_by_name_or_form(text: str, shown: str) -> None:
    """A reference to a variable is no secret, nor is a setting of tokens."""
    assert masked(text) == shown


def test_values_of_the_environment_are_masked_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of variables with a secret's name, and of the ones that are named."""
    monkeypatch.setenv("OUR_SECRET", "hunter2!")
    monkeypatch.setenv("COLOUR", "mauve")
    assert masked("no member hunter2! in mauve") == "no member *** in mauve"
    assert masked("no member hunter2! in mauve", ["COLOUR"]) == "no member *** in ***"
