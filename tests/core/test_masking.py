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
        ('export HF_TOKEN="abc$def123"; run', "export HF_TOKEN=***; run"),
        ("export HF_TOKEN=$'it\\'s secret' A=1", "export HF_TOKEN=*** A=1"),
        ("HF_TOKEN=${HF_TOKEN:-default} run", "HF_TOKEN=*** run"),
        ('HF_TOKEN="${HF_TOKEN:-a b}" run', "HF_TOKEN=*** run"),
        ("HF_TOKEN=abc\"def 456\"'g h'i run", "HF_TOKEN=*** run"),
        ('HF_TOKEN="a \\" b" run', "HF_TOKEN=*** run"),
        ("export A=1 my_secret=x B_KEY=y", "export A=1 my_secret=*** B_KEY=***"),
        ("export  HF_Token=abc; HFTOKEN=abc my_token=abc", "export  HF_Token=***; HFTOKEN=*** my_token=***"),
        ("can't run HF_TOKEN='a b' here, got 'B_KEY=c'", "can't run HF_TOKEN=*** here, got 'B_KEY=***'"),
        ("""'launcher.setup=["export B_KEY=c", "x y"]' name=n""", """'launcher.setup=["export B_KEY=***", "x y"]' name=n"""),
        ("{'HF_TOKEN': 'abc', 'A': 'b'}", "{'HF_TOKEN': ***, 'A': 'b'}"),
        ('HF_TOKEN="cut off', "HF_TOKEN=***"),
        ("https://user:pa/ss@host/x https://user:p@ss@host https://TOKEN@host", "https://***@host/x https://***@host https://***@host"),
        ("proxy user:p@ss@host", "proxy ***@host"),
        ("run --api-key X --hf-token=Y --password 'a b' --force", "run --api-key *** --hf-token=*** --password *** --force"),
        ('curl -H "Authorization: Bearer X.y" -H "X-Api-Key: z"', 'curl -H "Authorization: Bearer ***" -H "X-Api-Key: ***"'),
        (
            'HF_TOKEN="${HF_TOKEN}" curl --token $TOKEN --token "$(cat \'a b\')"',
            'HF_TOKEN="${HF_TOKEN}" curl --token $TOKEN --token "$(cat \'a b\')"',
        ),
        ("pad_token=x --tokens 5 git@host:me/x https://host:80/a@b module:Class 5:6", None),
        ("max_new_tokens=5 token_budget=4 key=3 PWD=/x tokens=2", "max_new_tokens=5 token_budget=4 key=3 PWD=/x tokens=2"),
    ],
)
def test_secrets_are_known_by_name_or_form(text: str, shown: str | None) -> None:
    """A reference to a variable is no secret, nor is a setting of tokens."""
    assert masked(text) == (text if shown is None else shown)


def test_values_of_the_environment_are_masked_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of variables with a secret's name, and of the ones that are named."""
    monkeypatch.setenv("OUR_SECRET", "hunter2!")
    monkeypatch.setenv("COLOUR", "mauve")
    assert masked("no member hunter2! in mauve") == "no member *** in mauve"
    assert masked("no member hunter2! in mauve", ["COLOUR"]) == "no member *** in ***"


def test_a_short_value_is_masked_as_a_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One letter would mask all of an error."""
    monkeypatch.setenv("COLOUR", "a")
    assert masked("data: got 'a', not a name of a-z", ["COLOUR"]) == "data: got '***', not *** name of ***-z"
