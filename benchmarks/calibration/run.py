"""`make calibrate`: analyse planted experiments and write the results into METHOD.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.calibration import changes, design, fits, gates, methods, pooling, prediction, stops, support, validity, verdicts
from benchmarks.calibration.seen import Seen, markdown

METHOD = Path(__file__).parents[1] / "METHOD.md"
ITEMS, FITS, POOLING, PREDICTIONS = "calibration", "calibration of fits", "calibration of pooling", "calibration of predictions"
"""Names in the marks of the tables in METHOD.md."""

Part = tuple[str, Callable[[], list[Seen]]]


def full() -> list[Part]:
    """Return all parts, with 2,000 planted nulls of each kind."""
    return [
        ("nulls", lambda: changes.nulls(2000)),
        ("a seed that is not seen to vary", lambda: changes.hidden_seeds(500)),
        ("power", lambda: changes.power(600)),
        ("coverage of changes", lambda: changes.coverage(300)),
        ("coverage beyond chance", lambda: changes.chance_adjusted(2000)),
        ("contrasts with a control", lambda: verdicts.contrasts(450)),
        ("rates that are too high", lambda: validity.checked(100)),
        ("verdicts of one run", lambda: verdicts.one_run(2000)),
        ("counts of verdicts", lambda: verdicts.counts(400)),
        ("gate", lambda: changes.gate(2000)),
        ("gate over suites", lambda: gates.over_suites(500)),
        ("items that decide the gate", lambda: gates.further_items(500)),
        ("trainings that are stopped", lambda: stops.stopped(500)),
        ("losses of a plan", lambda: design.power(1200)),
        ("equal gain", lambda: methods.at_equal_gain(200)),
        ("against the frontier of none", lambda: methods.against_the_frontier_of_none(300)),
        ("frontier", lambda: methods.on_the_frontier(300)),
        ("support of laws", lambda: support.judged(500)),
    ]


def quick() -> list[Part]:
    """Return small parts that take seconds."""
    return [
        ("nulls", lambda: changes.nulls(60, seeds=(3,), kinds=("items and seeds vary", "items in clusters of 4"))),
        ("power", lambda: changes.power(60, seeds=(8,))),
        ("coverage of changes", lambda: changes.coverage(60, seeds=(3,), kinds=("600 items of 4 tasks",))),
        ("coverage beyond chance", lambda: changes.chance_adjusted(100)),
        ("contrasts with a control", lambda: verdicts.contrasts(18, kinds=("98% right before",))),
        ("rates that are too high", lambda: validity.checked(20, kinds=("99% right before, 200, 120 and 200 items",), losses=("nothing",))),
        ("verdicts of one run", lambda: verdicts.one_run(60, sizes=(200,))),
        ("counts of verdicts", lambda: verdicts.counts(10, seeds=(3,))),
        ("gate", lambda: changes.gate(100)),
        ("gate over suites", lambda: gates.over_suites(20, kinds=("20 suites of 60 items, no change",))),
        ("trainings that are stopped", lambda: stops.stopped(40, kinds=("500 items, right or wrong, limit 0.05, 10 measurements",))),
        ("losses of a plan", lambda: design.power(120, seeds=(3,), kinds=("800 items, as many as in the earlier sweep",))),
        ("equal gain", lambda: methods.at_equal_gain(20, seeds=(3,), pairs=("one learns and forgets more",))),
        ("against the frontier of none", lambda: methods.against_the_frontier_of_none(8, seeds=(3,), rates=("equal rates",))),
        ("frontier", lambda: methods.on_the_frontier(10, seeds=(3,), fields=("two methods alike",))),
        ("support of laws", lambda: support.judged(40, seeds=(3,), quick=True)),
    ]


def carried_out(parts: Sequence[Part]) -> Iterator[Seen]:
    """Yield the results of the parts, with progress on standard error."""
    for name, part in parts:
        started = time.monotonic()
        found = part()
        sys.stderr.write(f"{name}: {len(found)} numbers in {time.monotonic() - started:.0f} s\n")
        yield from found


def written(text: str, table: str, name: str) -> str:
    """Return METHOD.md's text with the table between the marks of a name replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}{end}{rest.split(end)[1]}"


def _put(table: str, name: str, *, write: bool) -> None:
    """Print a table and write it into METHOD.md."""
    table = table.rstrip("\n") + "\n"
    sys.stdout.write(table)
    if write:
        METHOD.write_text(written(METHOD.read_text(encoding="utf-8"), table, name), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the calibration; return 1 if a promise fails by more than three standard errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each, for seconds; nothing is written")
    parts = ["items", "pooling", "fits", "predictions"]
    parser.add_argument("--only", choices=parts, help="changes and comparisons, spreads between seeds, fits of laws, or predictions")
    options = parser.parse_args(arguments)
    found: list[Seen] = []
    if options.only in (None, "items"):
        found = list(carried_out(quick() if options.quick else full()))
        _put(markdown(found), ITEMS, write=not options.quick)
    if options.only in (None, "pooling"):
        count = 20 if options.quick else 500
        few: dict[str, Any] = {"seeds": (3,), "layouts": ("9 cells × 5 volumes",)} if options.quick else {}
        _put(pooling.markdown(list(pooling.rows(count, **few)), count), POOLING, write=not options.quick)
    if options.only in (None, "fits"):
        of_fits = fits.rows(quick=options.quick)
        found += fits.promises(of_fits)
        _put(fits.markdown(of_fits), FITS, write=not options.quick)
    if options.only in (None, "predictions"):
        predicted = prediction.seen(quick=options.quick)
        found += predicted
        _put(markdown(predicted), PREDICTIONS, write=not options.quick)
    return 0 if all(seen.holds(errors=3.0) for seen in found) else 1


if __name__ == "__main__":
    sys.exit(main())
