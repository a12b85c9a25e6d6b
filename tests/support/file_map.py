"""File map of docs/architecture.md, made of docstrings: ``python -m tests.support.file_map``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.support.structure import PACKAGE, ROOT

DOCUMENT = ROOT / "docs" / "architecture.md"
ROOMS = "cli sweep external run methods report training evaluation analysis models data records config core".split()
BLOCK = re.compile(r"(^## File map\n\n```\n).*?(^```$)", flags=re.MULTILINE | re.DOTALL)
WIDTH = 52


def summary(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def made() -> str:
    """Return the map: the top, then each room with its contract and its files with summaries."""
    tops = [ROOT / PACKAGE / name for name in ("api.py", "callback.py")]
    lines = [*(f"{top.relative_to(ROOT).as_posix():<{WIDTH}} {summary(top)}" for top in tops), ""]
    for room in ROOMS:
        for path in sorted((ROOT / PACKAGE / room).rglob("*.py"), key=lambda path: (path.parent, path.name)):
            place = path.parent if path.name == "__init__.py" else path
            name = place.relative_to(ROOT).as_posix() + ("/" if place.is_dir() else "")
            lines.append(f"{name:<{WIDTH}} {summary(path)}")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def main() -> None:
    """Write it into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(BLOCK.sub(lambda found: found[1] + made() + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
