from __future__ import annotations

import re
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.analysis.findings import contrasts, envelope, equal_gain, finding_columns, frontier, method_pairs, paths, sequences
from harness.analysis.fits import fitting, laws, support
from harness.analysis.statistics import detectable, metrics, multiple, stats, two_level
from harness.analysis.table import columns

TEXT = (Path(__file__).parents[2] / "benchmarks" / "METHOD.md").read_text(encoding="utf-8")
WORKED = re.findall(r"^\| `(.+?)` \| (\S+) \| (.+?) \|$", TEXT.split("## 14. Worked numbers")[1].split("## 15.")[0], flags=re.MULTILINE)


def changes(lost: int, gained: int, n: int) -> np.ndarray:
    """Return changes of n items: the first lost, the next gained."""
    return np.array([-1.0] * lost + [1.0] * gained + [0.0] * (n - lost - gained))


def path(gains: tuple[int, ...], losses: tuple[int, ...]) -> paths.Path:
    """Return a path of one seed and ten items per suite, in items."""
    gain, forgetting = ([[np.array([[1.0] * count + [0.0] * (10 - count)])] for count in counts] for counts in (gains, losses))
    return paths.Path(tuple(range(1, len(gains) + 1)), gain, forgetting)


NAMES: dict[str, Any] = {
    **{"detectable": detectable, "metrics": metrics, "multiple": multiple, "paths": paths, "stats": stats, "two_level": two_level},
    **{"inf": inf, "array": np.array, "ones": np.ones, "full": np.full, "changes": changes, "path": path},
}


def test_the_worked_numbers_are_read() -> None:
    """All rows of the table are found."""
    assert len(WORKED) == TEXT.split("## 14. Worked numbers")[1].split("## 15.")[0].count("\n| `")


@pytest.mark.parametrize(("expression", "value"), [(expression, value) for expression, value, _ in WORKED])
def test_worked_numbers_agree_with_the_code(expression: str, value: str) -> None:
    """Each expression of the table has the value next to it, to the digits shown."""
    found = eval(expression, NAMES)
    if value in ("True", "False"):
        assert str(found) == value
    else:
        assert float(found) == pytest.approx(float(value), abs=0.6 * 10 ** -len(value.partition(".")[2]))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(list(columns.COLUMNS), id="table"),
        pytest.param(list(finding_columns.COLUMNS), id="findings"),
        pytest.param(list(frontier.COLUMNS), id="frontier"),
        pytest.param(list(equal_gain.COLUMNS), id="equal gain"),
        pytest.param(list(contrasts.COLUMNS), id="trajectories"),
        pytest.param([*sequences.COLUMNS, *sequences.METRICS], id="stages"),
    ],
)
def test_every_column_is_explained(names: list[str]) -> None:
    """METHOD.md contains every column of all tables."""
    assert [name for name in names if f"`{name}`" not in TEXT] == []


def test_every_law_is_there_with_its_formula() -> None:
    """The table has every law, with the formula of the code except for signs."""
    for name in laws.names():
        formula = (
            laws.named(name)
            .formula.replace(" * ", " · ")
            .replace("kl^2", "kl²")
            .replace(" - ", " − ")
            .replace(" / p", "/p")
            .replace(" / s", "/s")
        )
        assert f"| `{name}` | {formula} |" in TEXT


def test_levels_and_margins_are_those_of_the_code() -> None:
    """Numbers in the text are those of the code."""
    assert (envelope.LOW, envelope.BINS, method_pairs.ALL_PAIRS, columns.ACTED) == (0.1, 9, 6, 0.2)
    assert (stats.LEVEL, two_level.MIN_SEEDS, detectable.POWER, stats.RESAMPLES, stats.EXACT_ITEMS) == (0.95, 3, 0.8, 10_000, 16)
    assert metrics.NEAR_CHANCE == 2.0
    assert (support.FALSE, support.MIN_SIZES, fitting.LEVEL) == (0.05, 3, 0.9)
    laws_text = TEXT.split("## 10. Laws")[1].split("## 11.")[0]
    assert f"below {support.FALSE:g}" in laws_text
    assert f"**Intervals** are at {100 * fitting.LEVEL:g}%" in laws_text
