"""The results of a folder as Markdown, to be committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import read
from benchmarks.gpu.sections import SECTIONS

MISSING = "not run"


def markdown(folder: Path) -> str:
    """Return the tables of all sections: how each ended, its checks, its measurements."""
    found = {name: read(folder / f"{name}.json") for name in SECTIONS}
    return "\n".join([*_overview(found), *(line for name, one in found.items() if one for line in _details(name, one))]) + "\n"


def _overview(found: dict[str, dict[str, Any] | None]) -> Iterator[str]:
    facts = next((one["facts"] for one in found.values() if one and one.get("facts")), {})
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in facts.items() if value is not None)
    yield ""
    yield "| section | checks | status | passed | seconds |"
    yield "|---|---|---|---|---|"
    for name, section in SECTIONS.items():
        one = found[name]
        checks = one["checks"] if one else []
        made = [check["passed"] for check in checks if check["passed"] is not None]
        skipped = f", {len(checks) - len(made)} skipped" if len(checks) > len(made) else ""
        status, seconds = (one["status"], one.get("seconds", "")) if one else (MISSING, "")
        yield f"| {name} | {section.says} | {status} | {sum(made)} of {len(made)}{skipped} | {seconds} |"


def _details(name: str, one: dict[str, Any]) -> Iterator[str]:
    """Yield the checks of a section and its measurements."""
    if one["checks"]:
        yield from ("", f"### {name}", "", "| check | found | allowed | |", "|---|---|---|---|")
    for check in one["checks"]:
        verdict = {True: "passed", False: "**failed**", None: ""}[check["passed"]]
        allowed = f"{check['rule']} {_number(check['limit'])} {check['unit']}".strip() if "rule" in check else ""
        value = _number(check["value"]) if "value" in check else check.get("got", "")
        yield f"| {check['name']} | {value} | {allowed} | {verdict} |"
    if one["measured"]:
        columns = list(dict.fromkeys(name for row in one["measured"] for name in row))
        yield from ("", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|")
        yield from ("| " + " | ".join(_number(row.get(column, "")) for column in columns) + " |" for row in one["measured"])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
