"""Rewards of right and wrong answers."""

from __future__ import annotations

import pytest

from harness.methods.rewards import REWARDS


@pytest.mark.parametrize(
    ("name", "answer", "gold", "reward"),
    [
        ("exact", " It is  6 .", "it is 6 .", 1.0),
        ("exact", "6", "it is 6 .", 0.0),
        ("last_number", "So 1,000 clips in all.", "#### 1000", 1.0),
        ("last_number", "3 and then -2.50", "-2.5", 1.0),
        ("last_number", "3 and then 4", "#### 3", 0.0),
        ("last_number", "10-3", "3", 1.0),
        ("last_number", "10 -3", "-3", 1.0),
        ("last_number", "no idea", "#### 3", 0.0),
        ("last_number", "it is .5", "5", 0.0),
        ("last_number", "it is $.75 .", "0.75", 1.0),
        ("last_number", "-.5", "-0.5", 1.0),
        ("last_number", "3,4", "34", 0.0),
        ("last_number", "1, 2,3", "3", 1.0),
        ("last_number", "1,234,567.5", "1234567.5", 1.0),
        ("last_number", "12,3456", "123456", 0.0),
        ("last_number", "\N{MINUS SIGN}3", "3", 0.0),
        ("last_number", "\N{MINUS SIGN}3", "-3", 1.0),
        ("last_number", "from 1..5", "5", 1.0),
        ("arithmetic", "4 \N{MINUS SIGN} 7 = \N{MINUS SIGN}3", "-3", 1.0),
        ("arithmetic", ".5 + .25 = .75", "0.75", 1.0),
        ("arithmetic", ".5 + .25 = .85 so .75", "0.75", 0.0),
        ("arithmetic", "1,000 + 1 = 1,001", "1001", 1.0),
        ("last_number", "no idea", "none either", 0.0),
    ],
)
def test_a_reward_is_what_the_eye_says(name: str, answer: str, gold: str, reward: float) -> None:
    """Both rules, in different wordings."""
    assert REWARDS[name]("?", answer, gold) == reward
