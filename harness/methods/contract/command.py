"""``harness check-method CLASS``: the contract of one class, a line for each check."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.config import composition, paths
from harness.config.overrides import PACKAGES, value_of
from harness.config.strict import build
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, HarnessError, explain
from harness.methods.contract.broken import ContractBroken
from harness.methods.contract.case import GROUPS, SETTINGS, Case, cases_of
from harness.methods.contract.checks import CHECKS, Check, can_be_switched_off, combines, is_a_value

WHERE = "check-method"


@dataclass(frozen=True)
class Result:
    """The result of one check; ``wrong`` is empty if it holds."""

    name: str
    wrong: str = ""

    @property
    def line(self) -> str:
        """The result as one line."""
        return f"{'wrong' if self.wrong else 'ok':<7}{self.name}{f': {self.wrong}' if self.wrong else ''}"


def check_method(name: str, settings: Sequence[str], say: Callable[[str], None]) -> int:
    """Check a class and print a line for each check.

    Args:
        name: ``module.Class`` of ours, or ``package.module:Class`` of a user's own.
        settings: its fields as ``key=value``.
        say: prints a line.

    Returns:
        The exit code: 0 if every check holds, else 1.

    Raises:
        ConfigError: for a class that does not exist or is no method, and for invalid settings.
    """
    cls = found_class(name)
    texts = _texts(settings)
    torch.set_num_threads(1)  # more threads only wait on models this small
    broken = False
    for result in results(cls, {key: value_of(text) for key, text in texts.items()}, texts):
        say(result.line)
        broken = broken or bool(result.wrong)
    return 1 if broken else 0


def found_class(name: str) -> type[Any]:
    """Return a method's class by name. Raises ConfigError."""
    cls = composition.find_class(name, "harness.methods", WHERE) if ":" in name else _shipped_class(name)
    if not issubclass(cls, tuple(GROUPS.values())):
        bases = ", ".join(base.__name__ for base in GROUPS.values())
        raise ConfigError(explain(WHERE, got=name, allowed=f"a class derived from one of harness.core: {bases}"))
    return cls


def _shipped_class(name: str) -> type[Any]:
    for group in GROUPS:
        try:
            return composition.find_class(name, PACKAGES[group], WHERE)
        except ConfigError:
            continue
    allowed = f"module.Class in harness.methods.{{{','.join(GROUPS)}}}, such as l2.L2, or package.module:Class of your own"
    known = {str(load_yaml(path)["class"]) for group in GROUPS for path in paths.members(f"conf/{group}").values()}
    shipped = {one.lower(): one for one in known if ":" not in one}
    near = difflib.get_close_matches(name.lower(), [*shipped, *(one.rpartition(".")[2] for one in shipped)], n=1)
    meant = next((one for key, one in sorted(shipped.items()) if near and near[0] in (key, key.rpartition(".")[2])), "")
    fix = f"did you mean '{meant}'?" if meant else "`harness new mitigation NAME` writes a class of your own"
    raise ConfigError(explain(WHERE, got=repr(name), allowed=allowed, fix=fix))


def _texts(settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise ConfigError(explain(WHERE, got=repr(setting), allowed="fields of the class as key=value, such as weight=0.5"))
        found[key] = text
    return found


def results(cls: type[Any], settings: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> Iterator[Result]:
    """Check a class, and yield the results one by one.

    Args:
        cls: derived from a base class of ``GROUPS``.
        settings: values of its fields; a shipped class also has those of ``SETTINGS``.
        texts: the same as typed, by field.

    Raises:
        ConfigError: for invalid settings.
    """
    group = next(group for group, base in GROUPS.items() if issubclass(cls, base))
    values = {**(SETTINGS.get(cls.__name__, {}) if cls.__module__.startswith(PACKAGES[group]) else {}), **settings}
    raw = {f"{group}.{key}": text for key, text in (texts or {}).items()}

    def make() -> Any:
        return build(cls, values, group, raw)

    for name, run in {"it can be built": make, "it is a frozen, hashable value": lambda: is_a_value(make(), make())}.items():
        yield (result := _result(name, run))
        if result.wrong:
            return  # the other checks need a value
    method = make()
    if group == "mitigation":
        yield (result := _result("it declares how it is switched off", lambda: can_be_switched_off(method)))
        if result.wrong:
            return
    cases = cases_of(method)
    yield (result := _result("it combines with other methods", lambda: combines(cases)))
    if result.wrong:
        return
    yield from (_over(check, applicable) for check in CHECKS if (applicable := [case for case in cases if check.applies(case)]))


def _result(name: str, run: Callable[[], object]) -> Result:
    """Run a check; errors of the method become its result, invalid settings are raised."""
    try:
        run()
    except ConfigError:
        raise
    except ContractBroken as broken:
        return Result(name, str(broken))
    except Exception as error:  # noqa: BLE001 - a method may raise anything
        return Result(name, _one_line(error))
    return Result(name)


def _over(check: Check, cases: Sequence[Case]) -> Result:
    """Return the result of a check over cases: the first broken one, named."""
    for case in cases:
        try:
            result = _result(check.name, lambda case=case: check.run(case))  # type: ignore[misc]
        except ConfigError as error:
            result = Result(check.name, str(error))
        if result.wrong:
            return Result(check.name, f"{case.id}: {result.wrong}")
    return Result(check.name)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, HarnessError) else f"{type(error).__name__}: {text}"
