"""A comparison as JUnit XML, which shows losses as failed tests.

One test per suite and task, each a class of its own, and one of the gate's mean. With a gate, its
decision is the outcome: ``failure`` where more is lost than allowed, ``error`` where the gate
cannot pass because something is undecided or missing. So an exit code of 1 has a failure, 3 an
error and no failure, 0 neither. Without a gate, the verdicts are the outcomes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from harness.analysis.table.columns import SUITE_TASK
from harness.core import files
from harness.external import gate_lines, text
from harness.external.gate import Decision, Gate
from harness.external.judge import Comparison, dicts, shown

Outcome = Literal["passed", "failure", "error", "skipped"]

OF_DECISION: dict[Decision, Outcome] = {"lost more": "failure", "not lost": "passed", "undecided": "error"}
OF_VERDICT: dict[str, Outcome] = {"lost": "failure", "gained": "passed", "kept": "passed"}
"""Without a gate; any other verdict is ``skipped``."""

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot contain, not even escaped."""


class Case(NamedTuple):
    """A test of the report.

    Attributes:
        classname: suite, or suite and task.
        name: metric and filter.
        outcome: of the test.
        lines: what was measured, and the gate's decision on it.
    """

    classname: str
    name: str
    outcome: Outcome
    lines: tuple[str, ...]


def write(comparison: Comparison, gate: Gate | None, file: Path) -> None:
    """Write a comparison as JUnit XML, in place of an existing file."""
    files.write_text(file, document(comparison, gate))


def document(comparison: Comparison, gate: Gate | None) -> str:
    """Return a comparison as JUnit XML."""
    cases = list(_cases(comparison, gate))
    counts = Counter(case.outcome for case in cases)
    totals = {"tests": len(cases), "failures": counts["failure"], "errors": counts["error"], "skipped": counts["skipped"], "time": 0}
    root = ElementTree.Element("testsuites", _texts(totals))
    suite = ElementTree.SubElement(root, "testsuite", _texts({"name": "forgetting", **totals}))
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", _texts({"classname": case.classname, "name": case.name, "time": 0}))
        # GitLab shows the text of an element, other readers its message.
        found = {"message": case.lines[-1]} if case.outcome != "passed" else {}
        ElementTree.SubElement(element, case.outcome if found else "system-out", _texts(found)).text = _legal("\n".join(case.lines))
    ElementTree.indent(root)
    return DECLARATION + ElementTree.tostring(root, encoding="unicode")


def _cases(comparison: Comparison, gate: Gate | None) -> Iterator[Case]:
    if gate and gate.mean and len(gate.averaged) > 1:
        yield Case("gate", "mean of suites", OF_DECISION[gate.mean.decision], (gate_lines.of_mean(gate.mean, gate),))
    gated = {suite.name: suite for suite in gate.suites} if gate else {}
    for row in dicts(shown(comparison.rows)):
        is_judged = row["task"] in {SUITE_TASK, row["suite"]}
        classname = str(row["suite"]) if is_judged else f"{row['suite']}.{row['task']}"
        lines = [f"{text.sentence(row)} Verdict: {text.verdict_of(row)}."]
        outcome: Outcome = "passed" if gate else OF_VERDICT.get(text.verdict_of(row), "skipped")
        if gate and is_judged:
            suite = gated[str(row["suite"])]
            decision = gate.by_suite(suite)
            outcome = OF_DECISION[decision] if decision else "passed"
            lines.append(gate_lines.of_suite(suite, gate))
        yield Case(classname, text.metric_of(row), outcome, tuple(lines))
    for task in comparison.after.lacks:
        yield Case(task, "missing", "error" if gate else "skipped", (f"AFTER lacks {task}, which BEFORE has.",))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: _legal(str(value)) for name, value in values.items()}


def _legal(value: str) -> str:
    return NOT_XML.sub("\ufffd", value)
