"""Check rules of prose: ``python -m tests.support.prose harness/sweep conf`` lists breaches.

Summaries of docstrings name what a thing is or does. Texts that users read (string literals of the
package, templates, comments of conf/) use the field's words, and one word for one thing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

MOST_WORDS = 15
"""Most words of a summary."""

OPENING = re.compile(r"(what|who|whatever|how far|all that|say whether)\b", re.IGNORECASE)
"""Openings that hide the noun of a summary."""

BANNED = {
    r"remed(?:y|ies)": "mitigation",
    r"refus(?:e|es|ed|ing)(?! to)": "reject",
    r"(?:go|goes|going|went|gone) on\b": "continue, resume",
    r"beside": "next to",
    r"work(?:s|ed|ing)? out": "compute",
    r"none that matters?": "negligible",
    r"means? nothing": "invalid",
    r"no (?:folder|file|number|yaml)\b(?= that|,|;|$)": "not a …",
    r"(?:stands|lies)\b": "is",
    r"whatever": "any",
    r"errs": "is conservative",
    r"so many": "a number",
}
"""Word → what to write instead."""

ALLOWED = {"refuse", "refuses", "refused", "refusal", "refusals", "refusing", "overrefusal"}
"""The field's words for chat models, in files about suites and tinyworld's chat stage."""

ABOUT_REFUSALS = (
    "benchmarks/",
    "conf/data/",
    "harness/data/tinyworld/",
    "conf/experiment/",
    "harness/models/nursery/",
    "docs/CLAIMS.md",
    "docs/methods.md",
    "docs/evaluation.md",
    "README.md",
)


@dataclass(frozen=True)
class Summary:
    """The first line of a docstring, with its place."""

    file: Path
    line: int
    text: str

    @property
    def hides_its_noun(self) -> bool:
        """Whether it opens with a banned word."""
        return OPENING.match(self.text) is not None

    @property
    def words(self) -> int:
        """Its number of words."""
        return len(self.text.split())


@dataclass(frozen=True)
class Breach:
    """A banned word in a text that users read."""

    file: Path
    line: int
    word: str
    instead: str


def summaries(texts: Mapping[Path, str]) -> Iterator[Summary]:
    """Yield the summaries of Python files, given with their sources."""
    for file, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and (found := ast.get_docstring(node)):
                yield Summary(file, getattr(node, "lineno", 1), found.splitlines()[0])


def breaches(files: Iterable[Path]) -> Iterator[Breach]:
    """Yield the banned words in texts that users read."""
    for file in files:
        place = file.relative_to(ROOT).as_posix()
        for line, text in _read_by_users(file):
            for pattern, instead in BANNED.items():
                for found in re.finditer(rf"\b{pattern}", text, re.IGNORECASE | re.MULTILINE):
                    if found[0].lower() in ALLOWED and place.startswith(ABOUT_REFUSALS):
                        continue
                    yield Breach(file, line, found[0], instead)


def _read_by_users(file: Path) -> Iterator[tuple[int, str]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        tree = ast.parse(text)
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings and " " in node.value:
                yield node.lineno, node.value
    elif file.suffix == ".yaml":
        yield from ((number, line) for number, line in enumerate(text.splitlines(), 1) if "#" in line)
    else:
        yield from enumerate(text.splitlines(), 1)


def files_under(*places: str) -> list[Path]:
    """Return the files with prose below some folders of the repository."""
    found = []
    for place in places:
        path = ROOT / place
        found += (
            [path] if path.is_file() else [one for one in sorted(path.rglob("*")) if one.suffix in {".py", ".yaml", ".j2", ".js", ".md"}]
        )
    return found


def main(places: list[str]) -> None:
    """Print the breaches in some folders."""
    files = files_under(*places)
    texts = {file: file.read_text(encoding="utf-8") for file in files if file.suffix == ".py"}
    for summary in summaries(texts):
        if summary.hides_its_noun or summary.words > MOST_WORDS:
            reason = "opening" if summary.hides_its_noun else f"{summary.words} words"
            sys.stdout.write(f"{summary.file.relative_to(ROOT)}:{summary.line}: {reason}: {summary.text}\n")
    for breach in breaches(files):
        sys.stdout.write(f"{breach.file.relative_to(ROOT)}:{breach.line}: '{breach.word}', write: {breach.instead}\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["harness", "conf"])
