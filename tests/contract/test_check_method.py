"""`harness check-method`: good classes pass, broken ones are named with their promise."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import PreTrainedModel

from harness.cli.app import main
from harness.core import Mitigation, Objective, Penalty, PenaltyContext, Source, Step, Tuning
from harness.core.rows import NO_LOSS, Example
from harness.methods.contract.command import results
from harness.methods.mitigation.l2 import L2
from harness.methods.mitigation.replay import Replay
from harness.methods.objective.sft import Sft
from harness.methods.tuning.frozen import Frozen
from harness.methods.tuning.full import Full

PULL = """
from dataclasses import dataclass
from typing import ClassVar

from harness.core import Mitigation


@dataclass(frozen=True, kw_only=True)
class Pull(Mitigation):
    strength: ClassVar[str] = "weight"

    weight: float

    def penalty(self, context):
        if self.weight == OFF:
            return None
        base, tuning = context.base, context.tuning
        return lambda model, step: self.weight * sum(delta.square().sum() for _, delta in tuning.deltas(model, base))
"""


def own_class(folder: Path, monkeypatch: pytest.MonkeyPatch, off: str) -> str:
    """The name of a class in a folder of HARNESS_PATH, off at a given value."""
    (folder / "ownpull.py").write_text(PULL.replace("OFF", off))
    monkeypatch.setenv("HARNESS_PATH", str(folder))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "ownpull", raising=False)
    importlib.invalidate_caches()
    return "ownpull:Pull"


def test_a_good_class_of_a_users_own_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a check, all of them ok, and exit code 0."""
    assert main(["check-method", own_class(tmp_path, monkeypatch, "0"), "weight=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:7] for line in lines} == {"ok     "}
    assert "ok     a mitigation acts, and switched off it is none" in lines


def test_the_skeleton_of_a_mitigation_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """That of `harness new mitigation`, as it is written."""
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["new", "mitigation", "keep_close"]) == 0
    assert main(["check-method", "keep_close:KeepClose"]) == 0
    checks = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("wrote", "next"))]
    assert {line[:7] for line in checks} == {"ok     "}


def test_a_penalty_that_cannot_be_switched_off_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The promise, the combination and what was found; exit code 1."""
    assert main(["check-method", own_class(tmp_path, monkeypatch, "-1"), "weight=0.5"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok ")]
    assert line.startswith(
        "wrong  a mitigation acts, and switched off it is none: Frozen-Sft-Pull, completion rows, llama: switched off (weight=0.0)"
    )
    assert "penalty returns None: got penalties of [" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope.Nope"], "check-method: got 'nope.Nope'; allowed: module.Class in harness.methods"),
        (["l2.Missing"], "check-method: got 'l2.Missing'"),
        (["no.such:Thing"], "got module no.such, which cannot be imported"),
        (["harness.data.sources:Files"], "check-method: got harness.data.sources:Files; allowed: a class derived from one of harness.core"),
        (["l2.L2", "wieght=1"], "mitigation.wieght: got an unknown key"),
        (["l2.L2", "weight=-1"], "mitigation.weight: got -1.0; allowed: 0 or greater"),
        (["l2.L2", "weight"], "check-method: got 'weight'; allowed: fields of the class as key=value"),
    ],
)
def test_what_cannot_be_checked_is_an_error_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and no line on standard output."""
    assert main(["check-method", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


@dataclass(kw_only=True)
class NotFrozen(Mitigation):
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Unhashable(L2):
    names: list[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", [])


@dataclass(frozen=True, kw_only=True)
class WithoutStrength(Mitigation):
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class StrengthIsAField(Mitigation):
    strength: float = 1.0  # type: ignore[misc, assignment]


@dataclass(frozen=True, kw_only=True)
class Idle(Mitigation):
    strength: ClassVar[str] = "weight"
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Lonely(L2):
    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        return "anything"


@dataclass(frozen=True, kw_only=True)
class Negative(L2):
    def penalty(self, context: PenaltyContext) -> Penalty | None:
        positive = super().penalty(context)
        return None if positive is None else lambda model, step: -1e-3 * positive(model, step)


@dataclass(frozen=True, kw_only=True)
class Random(L2):
    def penalty(self, context: PenaltyContext) -> Penalty | None:
        if self.weight == 0:
            return None
        generator = torch.Generator()
        generator.seed()
        factor = float(torch.rand((), generator=generator))

        def penalty(model: PreTrainedModel, _: Step) -> torch.Tensor:
            return factor * torch.stack([delta.square().sum() for _, delta in context.tuning.deltas(model, context.base)]).sum()

        return penalty


@dataclass(frozen=True, kw_only=True)
class Raising(L2):
    def penalty(self, context: PenaltyContext) -> Penalty | None:
        raise KeyError("oh\nno")


@dataclass(frozen=True, kw_only=True)
class DrawsFromTheEnd(Replay):
    fraction: float = 0.5

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        return [[*step, *(anchor[len(steps) : len(steps) + 1] if self.fraction else [])] for step in steps]


@dataclass(frozen=True, kw_only=True)
class MovesNothing(Full):
    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        model.requires_grad_(False)
        return model


@dataclass(frozen=True, kw_only=True)
class Detached(Full):
    def deltas(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        yield from ((name, delta.detach()) for name, delta in super().deltas(model, base))


@dataclass(frozen=True, kw_only=True)
class HalfMerged(Frozen):
    def merged(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        return {name: value for name, value in super().merged(model).items() if "embed" not in name}


@dataclass(frozen=True, kw_only=True)
class StaysAtItsBase(Full):
    @contextmanager
    def base_weights(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[None]:
        for name, parameter in model.named_parameters():
            parameter.data = base[name]
        yield


@dataclass(frozen=True, kw_only=True)
class LostAfterErrors(Full):
    @contextmanager
    def base_weights(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[None]:
        tuned = {name: parameter.data for name, parameter in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.data = base[name]
        yield
        for name, parameter in model.named_parameters():
            parameter.data = tuned[name]


@dataclass(frozen=True, kw_only=True)
class Pickles(Full):
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        super().save(model, folder)
        torch.save({}, folder / "more.pt")


@dataclass(frozen=True, kw_only=True)
class Miscounting(Full):
    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        return {"trainable": 1}


@dataclass(frozen=True, kw_only=True)
class Abstract(Tuning):
    pass


@dataclass(frozen=True, kw_only=True)
class TeachesNothing(Sft):
    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        batch = super().collate(examples, pad_id, max_length)
        return {**batch, "labels": torch.full_like(batch["labels"], NO_LOSS)}


BROKEN = [
    (NotFrozen, "it is a frozen, hashable value", "fix: frozen=True"),
    (Unhashable, "it is a frozen, hashable value", "unhashable type: 'list'"),
    (Abstract, "it can be built", "TypeError: Can't instantiate abstract class Abstract"),
    (WithoutStrength, "it declares how it is switched off", "got neither strength nor off"),
    (StrengthIsAField, "it declares how it is switched off", "strength is the name of a field: got 1.0"),
    (Lonely, "it combines with other methods", "got only rejections, such as mitigation=Lonely: got anything"),
    (Idle, "a mitigation acts, and switched off it is none", "the mitigation changes the weights: got those without it"),
    (Negative, "costs are counted", "a penalty is 0 or greater: got"),
    (Random, "a seed determines every bit", "the same seed gives the same weights: "),
    (Raising, "two steps train", "KeyError: 'oh\\nno'"),
    (DrawsFromTheEnd, "smaller volumes are prefixes of larger ones", "mix gives a smaller volume a prefix of a larger one"),
    (MovesNothing, "deltas are merged minus base weights", "the prepared model has no trainable parameter"),
    (Detached, "deltas are merged minus base weights", "deltas are differentiable: got"),
    (
        HalfMerged,
        "a plain model with merged weights computes as the tuned one",
        "merged has every parameter of the plain model, a tied one once: got a difference in",
    ),
    (StaysAtItsBase, "a tuned model computes as its base, and then as before", "after base_weights, logits are the tuned model's"),
    (LostAfterErrors, "a tuned model computes as its base, and then as before", "after an error inside base_weights, logits are"),
    (Pickles, "saved weights compute as the tuned model", "save writes safetensors and json: got more.pt"),
    (Miscounting, "a tuning reports its resolved settings", "facts has the number of trainable parameters, "),
    (TeachesNothing, "two steps train", "the loss is finite: got [nan, nan]"),
]


@pytest.mark.parametrize(("cls", "check", "said"), BROKEN, ids=[cls.__name__ for cls, *_ in BROKEN])
def test_a_broken_promise_is_named(cls: type, check: str, said: str) -> None:
    """The first wrong check is the one that the class breaks."""
    wrong = next(result for result in results(cls, {}) if result.wrong)
    assert wrong.name == check
    assert said in wrong.wrong
    assert "\n" not in wrong.line
