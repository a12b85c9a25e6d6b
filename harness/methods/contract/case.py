"""Cases of the contract: tuning, objective and mitigation, with rows of one kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.config import combinations, composition, paths
from harness.config.run_config import RunConfig
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError
from harness.core.methods import Mitigation, Objective
from harness.core.rows import PromptFormat, Row, RowKind, Split
from harness.core.sources import Source
from harness.core.tuning import Tuning
from harness.methods.contract import tiny
from harness.methods.mitigation.none import NoMitigation
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full

GROUPS: Mapping[str, type[Any]] = {"tuning": Tuning, "objective": Objective, "mitigation": Mitigation}
"""Group of methods → base class."""

BATCH, STEPS = 8, 2
ROWS = 96
"""Of a source: more than are trained on, so that a method may drop rows."""

FORMATS: Mapping[RowKind, PromptFormat] = {"completion": "plain", "text": "plain", "chat": "chat", "preference": "plain"}
"""Row kind → prompt format of its cases."""

RIGHT = {"check": "last_number"}
"""Compares the number in the last word, w0 … w39, and ignores the words before it."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "Rft": RIGHT,
    "SelfOutput": RIGHT,
    "MinimumChange": RIGHT,
    "Grpo": {"reward": ["last_number"], "max_new_tokens": 4},
    "Rlaif": {"judge": {"template": "{prompt} {answer}", "words": ["w0", "w1"]}},
    "Peft": {"config": str(Path(__file__).with_name("dora.yaml"))},
    "ChatVector": {"vectors": [{"chat": "nursery-m-chat", "base": "nursery-m"}]},
}
"""Shipped class → settings that fit the words w0 … w39, or that have no default."""

Method = Tuning | Objective | Mitigation


@dataclass(frozen=True)
class Rows(Source):
    """A data set of random rows of one kind, the same in both splits."""

    kind: RowKind
    volumes: tuple[int, ...] = (BATCH, BATCH * STEPS)

    def rows(self, split: Split) -> Sequence[Row]:
        return tiny.rows(self.kind, ROWS)


@dataclass(frozen=True)
class Case:
    """One combination of methods, rows and a model."""

    tuning: Tuning
    objective: Objective
    kind: RowKind
    mitigation: Mitigation
    model: str = "llama"

    @property
    def id(self) -> str:
        """Name of the case, for messages."""
        methods = "-".join(type(method).__name__ for method in (self.tuning, self.objective, self.mitigation))
        return f"{methods}, {self.kind} rows, {self.model}"

    @property
    def is_plain(self) -> bool:
        """Whether the tuning alone is not the default: supervised training without a mitigation."""
        return (self.objective, self.kind, self.mitigation) == (Sft(), "completion", NoMitigation())

    @property
    def anchor_kind(self) -> RowKind:
        """Kind of the anchor's rows: that of the target, and prompt and completion for pairs."""
        return "completion" if self.kind == "preference" else self.kind


@cache
def shipped(group: str) -> Mapping[str, Any]:
    """Return the shipped methods of a group by name, with ``SETTINGS``."""
    found = {}
    for path in sorted((paths.roots()[-1] / "conf" / group).glob("*.yaml")):
        values = load_yaml(path)
        settings = SETTINGS.get(str(values["class"]).rpartition(".")[2], {})
        found[path.stem] = composition.instantiate(group, {**values, **settings}, f"{group}={path.stem}")
    return found


def pairs() -> list[Case]:
    """Return a case for every pair of shipped methods; the third method is the default."""
    tunings, objectives, mitigations = (list(shipped(group).values()) for group in GROUPS)
    found = [
        *_tuning_with_objective(tunings, objectives),
        *_tuning_with_mitigation(tunings, mitigations),
        *_objective_with_mitigation(objectives, mitigations),
    ]
    return list(dict.fromkeys(found))


def cases_of(method: Method) -> list[Case]:
    """Return the cases of one method with every shipped method of the other groups."""
    tunings, objectives, mitigations = (list(shipped(group).values()) for group in GROUPS)
    if isinstance(method, Tuning):
        found = [*_tuning_with_objective([method], objectives), *_tuning_with_mitigation([method], mitigations)]
    elif isinstance(method, Objective):
        found = [*_tuning_with_objective(tunings, [method]), *_objective_with_mitigation([method], mitigations)]
    else:
        found = [*_tuning_with_mitigation(tunings, [method]), *_objective_with_mitigation(objectives, [method])]
    return list(dict.fromkeys(found))


def _tuning_with_objective(tunings: Sequence[Tuning], objectives: Sequence[Objective]) -> list[Case]:
    return [
        Case(tuning, objective, kind, NoMitigation(), model)
        for tuning in tunings
        for kind, objective in _with_kinds(objectives)
        for model in tiny.MODELS
    ]


def _tuning_with_mitigation(tunings: Sequence[Tuning], mitigations: Sequence[Mitigation]) -> list[Case]:
    return [Case(tuning, Sft(), "completion", mitigation) for tuning in tunings for mitigation in mitigations]


def _objective_with_mitigation(objectives: Sequence[Objective], mitigations: Sequence[Mitigation]) -> list[Case]:
    return [Case(Full(), objective, kind, mitigation) for kind, objective in _with_kinds(objectives) for mitigation in mitigations]


def _with_kinds(objectives: Sequence[Objective]) -> list[tuple[RowKind, Objective]]:
    """Return (kind, objective in its prompt format) for every accepted kind.

    An objective without a field ``prompt_format`` has the kinds of its one format.
    """
    found: list[tuple[RowKind, Objective]] = []
    for objective in objectives:
        settable = any(field.name == "prompt_format" for field in dataclasses.fields(objective))  # type: ignore[arg-type]
        for kind, wanted in FORMATS.items():
            if kind in objective.needs and (settable or objective.prompt_format == wanted):
                made: Any = dataclasses.replace(objective, prompt_format=wanted) if settable else objective  # type: ignore[type-var]
                found.append((kind, made))
    return found


@cache
def rejection(case: Case) -> str:
    """Return why a combination is rejected before anything loads; empty if it is valid."""
    anchor = Rows(case.anchor_kind) if case.mitigation.needs_anchor else None
    names: dict[str, Any] = {group: type(getattr(case, group)).__name__ for group in GROUPS}
    methods: dict[str, Any] = {group: getattr(case, group) for group in GROUPS}
    labels = dataclasses.replace(_config().labels, **names, data=f"{case.kind} rows")
    try:
        combinations.check(dataclasses.replace(_config(), **methods, data=Rows(case.kind), anchor=anchor, labels=labels))
    except ConfigError as error:
        return str(error)
    return ""


@cache
def _config() -> RunConfig:
    return composition.compose(["target_suites=[tinyworld-people]", "probe_suites=[tinyworld]"])
