"""Checks of a case: training, costs, seeds, mitigations that are switched off, rejections."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.methods.contract import tiny, tuning_checks
from harness.methods.contract.broken import ContractBroken, require, require_same
from harness.methods.contract.case import BATCH, Case, rejection
from harness.methods.contract.outcome import Outcome, encoded, outcome, steps_of, target_rows, train
from harness.methods.mitigation.none import NoMitigation
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full


@dataclass(frozen=True)
class Check:
    """One promise of a method's base class.

    Attributes:
        name: the promise, in words.
        applies: whether it concerns a case.
        run: raises ContractBroken if a case breaks it.
    """

    name: str
    applies: Callable[[Case], bool]
    run: Callable[[Case], None]


def is_valid(case: Case) -> bool:
    """Return whether a combination is valid, so that it trains."""
    return not rejection(case)


def is_rejected_in_one_line(case: Case) -> None:
    """Check that a rejection names the mitigation or objective, in one line."""
    reason = rejection(case)
    require("\n" not in reason, f"a rejection is one line: got {reason!r}")
    named = (type(case.mitigation).__name__, type(case.objective).__name__)
    require(any(name in reason for name in named), f"a rejection names mitigation or objective: got {reason!r}")


def trains(case: Case) -> None:
    """Check that two steps are finite, lower their own loss and leave their inputs unchanged."""
    seen = outcome(case)
    require(all(math.isfinite(loss) for loss in seen.losses), f"the loss is finite: got {list(seen.losses)}")
    require(seen.unmutated, "rows and start weights stay as they are: got changed ones")
    if case.objective.learns != "tokens":
        return
    before, after = seen.own_loss
    close = math.isclose(seen.losses[0], before, rel_tol=1e-5)
    require(close, f"train_loss is the mean nats per supervised token, here {before:.6g}: got {seen.losses[0]:.6g}")
    require(after < before, f"a step lowers the loss of its own rows: got {before:.6g} before and {after:.6g} after")


def counts_its_costs(case: Case) -> None:
    """Check that written tokens are counted, and that penalties are positive once weights moved."""
    seen = outcome(case)
    writes = bool(case.objective.writes or case.mitigation.writes or case.objective.learns == "rewards")
    require((seen.generated > 0) == writes, f"generated tokens are counted if a method writes ({writes}): got {seen.generated}")
    require(all(value is None or value >= 0 for value in seen.penalties), f"a penalty is 0 or greater: got {list(seen.penalties)}")
    last = seen.penalties[-1]  # the first step starts at the start model
    require(last is None or last > 0, f"a penalty is greater than 0 once weights have moved: got {last}")


def follows_its_seed(case: Case) -> None:
    """Check that the same seed gives the same weights, and another seed others."""
    first = outcome(case).weights
    require_same(train(case).weights, first, "the same seed gives the same weights")
    require(not tiny.same(outcome(case, seed=1).weights, first), "another seed gives other weights: got the same")


def acts(case: Case) -> None:
    """Check that a mitigation changes the weights, and that switched off it equals none."""
    plain = outcome(dataclasses.replace(case, mitigation=NoMitigation()))
    off, when = switched_off(case), f"switched off ({_off(case)})"
    require_same(off.weights, plain.weights, f"{when}, the weights are those without a mitigation")
    require(off.generated == plain.generated, f"{when}, it writes nothing: got {off.generated - plain.generated} generated tokens")
    require(off.extra == 0, f"{when}, it needs no further forward passes: got {off.extra} extra_tokens")
    require(all(value is None for value in off.penalties), f"{when}, penalty returns None: got penalties of {list(off.penalties)}")
    require(not tiny.same(outcome(case).weights, plain.weights), "the mitigation changes the weights: got those without it")


@cache
def switched_off(case: Case) -> Outcome:
    """Return the outcome of a case whose mitigation is switched off."""
    off: Any = dataclasses.replace(case.mitigation, **case.mitigation.switched_off)  # type: ignore[type-var]
    require(off.is_off, f"the mitigation is off with {_off(case)}: got is_off = False")
    return train(dataclasses.replace(case, mitigation=off))


def _off(case: Case) -> str:
    return ", ".join(f"{name}={value}" for name, value in case.mitigation.switched_off.items())


def nests(case: Case) -> None:
    """Check that the rows of a smaller volume are a prefix of a larger one's."""
    steps = steps_of(case.objective, target_rows(case))
    anchor = encoded(case.objective, tiny.rows("completion", BATCH * len(steps), seed=1), "anchor")
    mixed = case.mitigation.mix(steps, anchor)
    require(len(mixed) == len(steps), f"mix returns as many steps as it is given, {len(steps)}: got {len(mixed)}")
    require(case.mitigation.mix(steps[:1], anchor) == mixed[:1], "mix gives a smaller volume a prefix of a larger one: got other rows")
    drawn = sum(example.origin == "anchor" for step in mixed for example in step)
    require(drawn <= len(anchor), f"mix draws at most the {len(anchor)} anchor rows: got {drawn}")


def _mitigates(case: Case) -> bool:
    """Return whether a mitigation changes training or weights; early stopping only chooses."""
    return is_valid(case) and not isinstance(case.mitigation, NoMitigation) and not case.mitigation.keeps_best


def _mixes(case: Case) -> bool:
    return (case.tuning, case.objective, case.kind) == (Full(), Sft(), "completion")


CHECKS = (
    Check("a rejected combination is named in one line", lambda case: not is_valid(case), is_rejected_in_one_line),
    Check("deltas are merged minus base weights", lambda case: case.is_plain, tuning_checks.has_deltas),
    Check("a plain model with merged weights computes as the tuned one", lambda case: case.is_plain, tuning_checks.merges),
    Check("a tuned model computes as its base, and then as before", lambda case: case.is_plain, tuning_checks.computes_as_its_base),
    Check(
        "computing as the base leaves training alone",
        lambda case: case.is_plain and case.model == "llama",
        tuning_checks.leaves_training_alone,
    ),
    Check("saved weights compute as the tuned model", lambda case: case.is_plain, tuning_checks.saves),
    Check("a tuning reports its resolved settings", lambda case: case.is_plain and case.model == "llama", tuning_checks.reports),
    Check("smaller volumes are prefixes of larger ones", _mixes, nests),
    Check("two steps train", is_valid, trains),
    Check("costs are counted", is_valid, counts_its_costs),
    Check("a seed determines every bit", lambda case: is_valid(case) and case.model == "llama", follows_its_seed),
    Check("a mitigation acts, and switched off it is none", _mitigates, acts),
)
"""The most specific first, so that the first broken one says most."""


def is_a_value(first: Any, second: Any) -> None:
    """Check that two builds of a method are equal, frozen and hashable, as identities need."""
    require(first == second, "built twice from the same settings, it is equal: got two that differ")
    require(type(first).__dataclass_params__.frozen, "it is a frozen dataclass: got one that can be changed; fix: frozen=True")
    try:
        equal = hash(first) == hash(second)
    except TypeError as error:
        raise ContractBroken(f"it is hashable: got {error}; fix: tuples in place of lists") from error
    require(equal, "equal methods have equal hashes: got two that differ")


def can_be_switched_off(mitigation: Any) -> None:
    """Check that a mitigation declares the settings that switch it off."""
    if isinstance(mitigation, NoMitigation) or mitigation.keeps_best:
        return
    strength, fields = type(mitigation).strength, {field.name for field in dataclasses.fields(mitigation)}
    fix = "fix: strength: ClassVar[str] = NAME of the field whose 0 switches it off, or off: ClassVar with the values that do"
    require(isinstance(strength, str), f"strength is the name of a field: got {strength!r}; {fix}")
    off = mitigation.switched_off
    require(bool(off), f"got neither strength nor off; {fix}")
    require(off.keys() <= fields, f"strength and off name fields: got {', '.join(sorted(off.keys() - fields))}; {fix}")


def combines(cases: Iterable[Case]) -> None:
    """Check that at least one combination is valid."""
    reasons = [rejection(case) for case in cases]
    require("" in reasons, f"it combines with another method: got only rejections, such as {reasons[0] if reasons else 'none'}")
