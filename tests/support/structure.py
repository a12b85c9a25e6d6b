"""The structure of the package in numbers: ``python -m tests.support.structure``.

A room is a module or package directly in ``harness/``; an arrow is an import of one room by
another, TYPE_CHECKING imports included. Floors are layers: the rooms of a floor import only rooms
below it, or each other in a circle.
"""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

import grimp

from tests.support import prose

PACKAGE = "harness"
ROOT = Path(__file__).resolve().parent.parent.parent

Arrows = dict[str, set[str]]


def arrows() -> Arrows:
    """Return room → the rooms it imports."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=False, cache_dir=None)
    rooms = {module.split(".")[1] for module in graph.modules if "." in module}
    found: Arrows = {room: set() for room in sorted(rooms)}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            parts = importer.split("."), imported.split(".")
            if all(len(part) > 1 for part in parts) and parts[0][1] != parts[1][1]:
                found[parts[0][1]].add(parts[1][1])
    return found


def module_arrows() -> Arrows:
    """Return module → the modules it imports, TYPE_CHECKING imports included.

    Without those of the package itself: it offers names of ``harness.api``, imported on first use,
    and modules below read its version.
    """
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=False, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in sorted(graph.modules - {PACKAGE})}


def reachable(found: Arrows, start: str) -> set[str]:
    """Return the rooms that a room imports, directly or through others."""
    seen: set[str] = set()
    to_do = [start]
    while to_do:
        for room in found.get(to_do.pop(), set()) - seen:
            seen.add(room)
            to_do.append(room)
    return seen


def circles(found: Arrows) -> list[list[str]]:
    """Return the sets of rooms that import each other."""
    below = {room: reachable(found, room) for room in found}
    groups = {frozenset(other for other in found if other in below[room] and room in below[other]) for room in found}
    return sorted(sorted(group) for group in groups if group)


def floors(found: Arrows) -> list[list[str]]:
    """Return the rooms by floor, the lowest first."""
    below = {room: reachable(found, room) for room in found}
    left, done, result = set(found), set[str](), list[list[str]]()
    while left:
        floor = sorted(room for room in left if {other for other in below[room] if room not in below[other]} <= done)
        result.append(floor)
        done |= set(floor)
        left -= set(floor)
    return result


def main() -> None:
    """Print the numbers."""
    found = arrows()
    sys.stdout.write(
        f"rooms {len(found)}, arrows {sum(map(len, found.values()))}, floors {len(floors(found))}, circles {len(circles(found))}\n"
    )
    for number, floor in enumerate(floors(found)):
        sys.stdout.write(f"  floor {number}: {' '.join(floor)}\n")
    for circle in circles(found):
        sys.stdout.write(f"  circle: {' '.join(circle)}\n")
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    longest = max(texts, key=lambda path: texts[path].count("\n"))
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for node in functions]
    sys.stdout.write(f"files {len(texts)}, longest {longest.relative_to(ROOT)} with {texts[longest].count(chr(10))} lines\n")
    sys.stdout.write(f"functions {len(lengths)}, 90% have at most {statistics.quantiles(lengths, n=10)[-1]:.0f} lines\n")
    found_summaries = list(prose.summaries(texts))
    banned = [summary for summary in found_summaries if summary.hides_its_noun]
    share = len(banned) / len(found_summaries)
    sys.stdout.write(f"summaries {len(found_summaries)}, banned openings {len(banned)} ({share:.1%})\n")


if __name__ == "__main__":
    main()
