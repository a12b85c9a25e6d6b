"""Table of the comparisons of `make test-exact`, printed at its end."""

from __future__ import annotations

import pytest

ROWS: list[tuple[str, ...]] = []
HEAD = ("suite", "shots", "model", "requests", "nats", "flags", "hf", "prefix", "computed", "s hf", "s prefix")


@pytest.fixture(scope="session")
def table() -> list[tuple[str, ...]]:
    """Lines of the tests, one each: see ``HEAD``.

    ``flags`` are greedy flags that differ, each with the gap of the two best tokens.
    """
    return ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if not ROWS:
        return
    terminalreporter.section("prefix against lm-eval's HFLM: largest difference in nats, scores of both")
    lines = [HEAD, *ROWS]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    for line in lines:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
