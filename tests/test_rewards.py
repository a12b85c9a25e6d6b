"""Rewards on answers that are right and wrong by eye."""

from __future__ import annotations

import pytest

from harness.rewards import REWARDS


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
        ("last_number", "no idea", "none either", 0.0),
    ],
)
def test_a_reward_is_what_the_eye_says(name: str, answer: str, gold: str, reward: float) -> None:
    """Of both rules, in wordings that differ."""
    assert REWARDS[name]("?", answer, gold) == reward
