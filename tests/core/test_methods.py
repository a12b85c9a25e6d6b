"""Base classes of objectives and mitigations: their defaults."""

from __future__ import annotations

from typing import Any

import pytest

from harness.methods.mitigation.l2 import L2
from harness.methods.mitigation.merge import Merge
from harness.methods.mitigation.none import NoMitigation
from harness.methods.objective.grpo import Grpo
from harness.methods.objective.sft import Sft


def test_a_mitigation_is_off_by_its_strength_or_its_values() -> None:
    """A mitigation that declares neither is never off."""
    assert (L2().is_off, L2(weight=0.0).is_off, L2().switched_off) == (False, True, {"weight": 0.0})
    assert (Merge().is_off, Merge(**Merge.off).is_off) == (False, True)
    assert (NoMitigation().is_off, NoMitigation().switched_off) == (False, {})


def test_only_objectives_that_learn_rewards_answer() -> None:
    """Others draw one answer, and have no rollouts."""
    assert (Sft().samples, Grpo().samples) == (1, 8)
    nothing: Any = None
    with pytest.raises(NotImplementedError, match="Sft learns tokens and answers no prompts"):
        Sft().answer(nothing, nothing, 0)
