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
        # no two numbers are equal that are not
        ("last_number", "1/4", "3/4", 0.0),
        ("last_number", "1/4 of it", "#### 0.25", 1.0),
        ("last_number", "1e5", "5", 0.0),
        ("last_number", "1e5", "100000", 1.0),
        ("last_number", "9007199254740992", "9007199254740993", 0.0),
        ("last_number", "9007199254740993.0", "9,007,199,254,740,993", 1.0),
        ("last_number", "2 1/2 cups", "1/2", 0.0),
        ("last_number", "2 1/2 cups", "2.5", 1.0),
        ("last_number", "2\N{VULGAR FRACTION ONE HALF}", "2.5", 1.0),
        ("last_number", r"\boxed{-\dfrac{3}{4}}", "-.75", 1.0),
        ("last_number", r"3\times 10^{4}", "30000", 1.0),
        ("last_number", "10^5", "5", 0.0),
        ("last_number", "2^53", "9007199254740992", 1.0),
        ("last_number", "10\N{SUPERSCRIPT FIVE}", "10", 0.0),
        ("last_number", "25 m^2", "25", 1.0),
        ("last_number", "25 m^2", "2", 0.0),
        ("last_number", "-$5", "5", 0.0),
        ("last_number", "$-5.", "-5", 1.0),
        ("last_number", "10-$5", "5", 1.0),
        ("last_number", "50%", "50", 1.0),
        ("last_number", "50%", "0.5", 0.0),
        ("last_number", "1 000 000", "0", 0.0),
        ("last_number", "1\N{NARROW NO-BREAK SPACE}234", "1234", 1.0),
        ("last_number", "1.000.000", "0", 0.0),
        ("last_number", "3:4", "4", 0.0),
        ("last_number", "as 3:4", "3:4", 1.0),
        ("last_number", "4/2^2", "2", 0.0),
        ("last_number", "1/0", "1", 0.0),
        ("last_number", "10 / 5 = 2", "2", 1.0),
        ("last_number", "9" * 5000, "9" * 5000, 1.0),
        ("last_number", "9" * 5000, "9" * 4999, 0.0),
        ("last_number", "9^9999999999", "9^999999999", 0.0),
        ("arithmetic", "1/4 + 1/4 = 1/2 so 1/2", "0.5", 1.0),
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
