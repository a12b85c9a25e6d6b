"""The notebook of an example, made of its script: ``python -m tests.support.notebook``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "read_results" / "read_results.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def made() -> str:
    """Return the text of the notebook: the cells of the script, without outputs (nbformat 4.5)."""
    cells: list[dict[str, Any]] = []
    for number, (kind, body) in enumerate(_cells(SCRIPT.read_text(encoding="utf-8"))):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": body.splitlines(keepends=True)}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return json.dumps({"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def _cells(script: str) -> list[tuple[str, str]]:
    """Return kind and text of each cell; lines of a markdown cell are comments in the script."""
    parts = re.split(r"^# %%( \[markdown\])?\n", script, flags=re.MULTILINE)
    assert not parts[0], "the script begins with a cell"
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [("markdown", re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)) if mark else ("code", body.strip()) for mark, body in pairs]


if __name__ == "__main__":
    NOTEBOOK.write_text(made(), encoding="utf-8")
