"""The ``claim:`` block of an experiment: a claim of the literature, its test and its margin."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.analysis.claims.contrasts import Change, EqualGain
from harness.analysis.claims.order import Order
from harness.analysis.claims.prediction import Prediction
from harness.analysis.claims.tables import Tables
from harness.analysis.claims.verdicts import Line, judged
from harness.config import paths
from harness.config.strict import Part, build, check
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, did_you_mean, explain

WHERE = "hydra.sweeper.claim"

FOLDER = "conf/experiment/claims"

TESTS: Mapping[str, type[Any]] = {cls.name: cls for cls in (EqualGain, Change, Order, Prediction)}
"""Name of a test → its class."""


class Test(Protocol):
    """A declared test: a pure function of small tables."""

    margin: float | None

    @property
    def named(self) -> tuple[str, ...]:
        """The arms that it names."""

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that it names."""

    def lines(self, tables: Tables, margin: float) -> list[Line]:
        """Return its lines, without p_holm and verdict."""


@dataclass(frozen=True, kw_only=True)
class _Written(Part):
    """The block as it is written; tests are built by name."""

    number: int
    title: str
    papers: tuple[str, ...]
    statement: str
    refuted: str
    margin: float
    limits: str
    literature: str
    headline: Mapping[str, Any]
    also: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check the range of numbers, and that no text is empty."""
        check("number", self.number, "1 or more", lambda number: number >= 1)
        check("margin", self.margin, "greater than 0", lambda margin: margin > 0)
        check("papers", len(self.papers), "at least one", lambda count: count > 0)
        for name in ("title", "statement", "refuted", "limits", "literature"):
            check(name, getattr(self, name), "a text", lambda value: bool(value.strip()))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the literature, declared before its experiment runs.

    Attributes:
        number: its place in docs/CLAIMS.md.
        title: of its section.
        papers: that make or contest it, such as ``arXiv 2405.09673``.
        statement: what is claimed, in testable words.
        refuted: the result that would refute it.
        margin: in the metric's unit: a difference inside ±margin is negligible.
        limits: of this experiment.
        literature: what the literature reports, with numbers and source.
        headline: the test that decides the verdict.
        also: further tests, shown below it.
        digest: hash of the block, all of the above.
    """

    number: int
    title: str
    papers: tuple[str, ...]
    statement: str
    refuted: str
    margin: float
    limits: str
    literature: str
    headline: Test
    also: tuple[Test, ...]
    digest: str

    def judged(self, test: Test, tables: Tables) -> list[Line]:
        """Return the lines of one of its tests, with verdicts."""
        return judged(test.lines(tables, self.margin if test.margin is None else test.margin))


def read(values: Any, arms: Collection[str]) -> Claim | None:
    """Read the block of an experiment, strictly.

    Args:
        values: plain values under ``hydra.sweeper.claim``; None without a claim.
        arms: names of the experiment's arms.

    Returns:
        The claim, or None.

    Raises:
        ConfigError: for an unknown key, test or arm, a wrong type or range.
    """
    if values is None:
        return None
    written: _Written = build(_Written, values, WHERE)
    tests = [_test(written.headline, f"{WHERE}.headline", arms)]
    tests += [_test(one, f"{WHERE}.also[{i}]", arms) for i, one in enumerate(written.also)]
    names = ("number", "title", "papers", "statement", "refuted", "margin", "limits", "literature")
    return Claim(headline=tests[0], also=tuple(tests[1:]), digest=digest(values), **{name: getattr(written, name) for name in names})


def shipped() -> dict[str, Claim]:
    """Return name → claim of every experiment in ``conf/experiment/claims``, by number.

    Raises:
        ConfigError: for a block that is missing or wrong, or a number given twice.
    """
    found: dict[str, Claim] = {}
    for member, path in paths.members(FOLDER).items():
        sweeper = load_yaml(path).get("hydra", {}).get("sweeper", {})
        claim = read(sweeper.get("claim"), sweeper.get("arms") or {})
        if claim is None:
            raise ConfigError(explain(f"{path}: {WHERE}", got="nothing", allowed="a claim, since the file is in claims/"))
        found[member] = claim
    numbers = [claim.number for claim in found.values()]
    if doubled := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ConfigError(explain(f"{WHERE}.number", got=f"{doubled[0]} in two files", allowed="one number for each claim"))
    return dict(sorted(found.items(), key=lambda item: item[1].number))


def digest(values: Mapping[str, Any]) -> str:
    """Return the hash of a block as plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _test(values: Mapping[str, Any], where: str, arms: Collection[str]) -> Test:
    fields = dict(values)
    name = str(fields.pop("test", ""))
    if name not in TESTS:
        raise ConfigError(explain(f"{where}.test", got=repr(name), allowed=", ".join(TESTS), fix=did_you_mean(name, TESTS)))
    found: Test = build(TESTS[name], fields, where)
    for arm in found.named:
        plain = re.sub(r"\[coefficient=.*\]$", "", arm)
        if plain not in arms:
            allowed = ", ".join(arms) or "nothing: the experiment has no arms"
            raise ConfigError(explain(f"{where}: arm", got=repr(arm), allowed=allowed, fix=did_you_mean(plain, arms)))
    return found
