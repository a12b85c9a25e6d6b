"""A comparison as Markdown, for a pull request's comment and the summary of a job.

The verdict comes first, then suites, then the items that changed most, then all that ``harness
compare`` prints. Texts of items and names are code, so that they mention nobody and format nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.statistics.stats import LEVEL
from harness.external import gate_lines, text
from harness.external.gate import Gate, GatedSuite
from harness.external.judge import Comparison, dicts
from harness.external.sides import Side

MOST_BYTES = 65_000
"""Of a summary: GitHub rejects comments of more than 65,536 characters."""

STEP_BYTES = 1024 * 1024
"""Of all summaries of a step: GitHub drops them all beyond it."""

MAX_SUITES = 40
MAX_ITEMS = 10
MAX_NAME = 80
MAX_PROMPT = 160
MAX_ANSWER = 60
MAX_SENTENCE = 2000

CUT = "… cut to GitHub's limit of size"


def append(comparison: Comparison, gate: Gate | None, file: Path) -> None:
    """Append a comparison to a file, such as that of ``$GITHUB_STEP_SUMMARY``.

    It is cut to what fits into MOST_BYTES, and with what the file has into STEP_BYTES.
    """
    has = file.stat().st_size if file.is_file() else 0
    text_of = document(comparison, gate, min(MOST_BYTES, STEP_BYTES - has))
    with file.open("a", encoding="utf-8", errors="replace") as out:
        out.write(f"\n{text_of}" if has else text_of)


def document(comparison: Comparison, gate: Gate | None, most: int = MOST_BYTES) -> str:
    """Return a comparison as Markdown.

    Args:
        comparison: of two sides.
        gate: its decision, if limits are given.
        most: largest number of bytes of the result, in UTF-8.
    """
    parts = ["\n".join(_head(comparison, gate)), "\n".join(_table(comparison, gate)), "\n".join(_items(comparison.items))]
    kept = ""
    for part in filter(None, parts):
        if _size(kept) + _size(part) + 2 > most:
            return kept
        kept += f"{part}\n\n"
    return kept + _folded("All tasks, explanations and notes", text.lines(comparison, gate), most - _size(kept))


def _head(comparison: Comparison, gate: Gate | None) -> list[str]:
    title = f"### Forgetting gate: {gate_lines.VERDICTS[gate.decision]}" if gate else "### Forgetting"
    lines = [
        title,
        "",
        f"{_model(comparison.after)}, compared with {_model(comparison.before)}.",
        "",
        _plain(text.headline(comparison.rows)),
    ]
    return lines + (["", _plain(gate_lines.sentences(gate)[-1])] if gate else [])


def _model(side: Side) -> str:
    """Return a side's model, with the end of its source where the name does not contain it."""
    model = code(side.model, MAX_NAME, tail=True)
    return model if side.source in side.model else f"{model} ({code(side.source, MAX_NAME, tail=True)})"


def _table(comparison: Comparison, gate: Gate | None) -> list[str]:
    rows = sorted(text.judged(comparison.rows), key=lambda row: text.verdict_of(row) != "lost")
    headings = ["suite", "metric", "items", "before", "after", f"change [{LEVEL:.0%}]", "lost", "gained", "verdict"]
    table = [headings, [":--", ":--", *["--:"] * 6, ":--"], *(_cells(row) for row in rows[:MAX_SUITES])]
    if gate:
        places = {suite.name: _decision(gate, suite) for suite in gate.suites}
        for cells, more in zip(table, ["gate", ":--", *(places[str(row["suite"])] for row in rows)], strict=False):
            cells.append(more)
    left = ["", f"{len(rows) - MAX_SUITES} more suites are in the text below."] if len(rows) > MAX_SUITES else []
    return [*(f"| {' | '.join(cells)} |" for cells in table), *left]


def _decision(gate: Gate, suite: GatedSuite) -> str:
    """Return the decision of a suite; its place in the gate if it makes none alone."""
    decision = gate.by_suite(suite)
    found = gate_lines.VERDICTS[decision] if decision else suite.place
    return f"**{found}**" if decision == "lost more" else found


def _cells(row: Mapping[str, Any]) -> list[str]:
    verdict = text.verdict_of(row)
    numbers = [text.whole(row["n"]), text.number(row["before"]), text.number(row["value"]), text.change(row)]
    counts = [text.whole(row["lost"]), text.whole(row["gained"])]
    names = [code(text.name_of(row).strip(), MAX_NAME), code(text.metric_of(row), MAX_NAME)]
    return [*names, *numbers, *counts, f"**{verdict}**" if verdict == "lost" else verdict]


def _items(items: pd.DataFrame) -> list[str]:
    """Return the items that lost most confidence, in a part that readers unfold."""
    if items.empty:
        return []
    first = dicts(items.head(MAX_ITEMS))
    title = f"The {len(first)} items that changed most, of {len(items):,} that were lost or gained"
    return [f"<details><summary>{title}</summary>", "", *(_item(one) for one in first), "", "</details>"]


def _item(item: Mapping[str, Any]) -> str:
    answers = {"expected": "target", "before": "answer_before", "after": "answer_after"}
    parts = [f"{name} {code(item[column], MAX_ANSWER)}" for name, column in answers.items() if not pd.isna(item[column])]
    prompt = code(item["prompt"], MAX_PROMPT, tail=True)
    return f"- {item['outcome']} in {code(item['task'], MAX_NAME)}: {', '.join([prompt, *parts])}"


def code(value: Any, most: int, *, tail: bool = False) -> str:
    """Return a text as inline code on one line, also in a table.

    Args:
        value: the text.
        most: largest number of its characters.
        tail: whether to keep its end, not its beginning, if it is longer.
    """
    plain = " ".join(str(value).split()).replace("|", "¦")  # a pipe would end a cell of a table
    if len(plain) > most:
        plain = f"…{plain[1 - most :]}" if tail else f"{plain[: most - 1]}…"
    fence = "`" * _longest_fence(plain)
    return f"{fence} {plain} {fence}" if "`" in plain else f"`{plain}`" if plain else "(empty)"


def _longest_fence(plain: str) -> int:
    """Return the length of the shortest fence of backticks that the text does not contain."""
    return 1 + max((len(run) for run in re.findall("`+", plain)), default=0)


def _plain(sentence: str) -> str:
    """Return a sentence whose names format and mention nothing."""
    escaped = re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", " ".join(sentence.split()))
    return escaped.replace("@", "@\u200b")[:MAX_SENTENCE]


def _folded(title: str, body: str, most: int) -> str:
    """Return a text as code that readers unfold, cut to a number of bytes; empty if too few."""
    fence = "`" * max(3, _longest_fence(body))
    start, end = f"<details><summary>{title}</summary>\n\n{fence}text\n", f"{fence}\n\n</details>\n"
    room = most - _size(start) - _size(end)
    lines = _that_fit(body.splitlines(), room)
    return f"{start}{''.join(lines)}{end}" if lines else ""


def _that_fit(lines: Sequence[str], room: int) -> list[str]:
    """Return lines with line breaks; where not all fit, the first ones and CUT."""
    sizes = [_size(line) + 1 for line in lines]
    if sum(sizes) <= room:
        return [f"{line}\n" for line in lines]
    kept, left = [], room - _size(CUT) - 1
    for line, size in zip(lines, sizes, strict=True):
        if size > left:
            break
        kept.append(f"{line}\n")
        left -= size
    return [*kept, f"{CUT}\n"] if left >= 0 else []


def _size(value: str) -> int:
    return len(value.encode(errors="replace"))
