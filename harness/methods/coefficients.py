"""Grids of coefficients that a weight mitigation measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.config.strict import check


def check_coefficients(
    grid: Sequence[float], coefficient: float | None, allowed: str, accept: Callable[[float], bool], *, may_choose: bool = True
) -> None:
    """Check that a grid is not empty, in range, and without values that print alike.

    Args:
        grid: measured coefficients.
        coefficient: the one whose results are the run's; None is chosen later.
        allowed: the range of each, in words.
        accept: the same as a predicate.
        may_choose: whether ``coefficient`` may be None.

    Raises:
        ConfigError: for a grid or coefficient that is not allowed.
    """
    check("mitigation.grid", tuple(grid), "at least one number", lambda value: len(value) > 0)
    for i, value in enumerate(grid):
        check(f"mitigation.grid[{i}]", value, allowed, accept)
    names = [f"{value:g}" for value in grid]
    check("mitigation.grid", tuple(grid), "numbers that differ in their first six digits", lambda _: len({*names}) == len(names))
    if coefficient is not None or not may_choose:
        check("mitigation.coefficient", coefficient, allowed, lambda value: value is not None and accept(value))


def every_coefficient(grid: Sequence[float], coefficient: float | None) -> tuple[float, ...]:
    """Return the coefficients of a grid and a further one, each once, ascending."""
    return tuple(sorted({*grid, *(() if coefficient is None else (coefficient,))}))
