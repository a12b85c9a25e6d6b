from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets


def _words(answer: str) -> int:
    return sum(any(sign.isalnum() for sign in word) for word in answer.split())


def _lines(answer: str) -> list[str]:
    return [line.strip() for line in answer.splitlines() if line.strip()]


def word(answer: str) -> bool:
    """One word; a full stop may follow."""
    return _words(answer) == 1


def words(answer: str, want: int) -> bool:
    """This many words, separated by white space, each with a letter or digit."""
    return _words(answer) == want


def yes_no(answer: str) -> bool:
    """Yes or no, in any case; a full stop or the like may follow."""
    return answer.strip().rstrip(".!").lower() in {"yes", "no"}


def at_most(answer: str, want: int) -> bool:
    """At least one word and at most this many."""
    return 1 <= _words(answer) <= want


def repeat(answer: str, want: str) -> bool:
    """These words and no others, in any case.

    Quotation marks around them and a full stop or the like are allowed.
    """
    return answer.strip().strip("\"'.!").lower() == want.lower()


def question(answer: str) -> bool:
    """One sentence, which ends with a question mark; a quotation mark may follow."""
    return sentences(answer.strip().strip("\"'"), 1) and answer.strip().rstrip("\"'").endswith("?") and _words(answer) > 0


def mention(answer: str, want: Sequence[str]) -> bool:
    """Each of these words occurs, whole, in any case."""
    return all(re.search(rf"\b{re.escape(one.lower())}\b", answer.lower()) for one in want)


def commas(answer: str, want: int) -> bool:
    """One line of this many parts between commas.

    Each part has one to three words: a sentence with commas is not a list.
    """
    lines = _lines(answer)
    parts = [part.removeprefix(" and") for part in lines[0].split(",")] if lines else []
    return len(lines) == 1 and len(parts) == want and all(1 <= _words(part) <= 3 for part in parts)


def json_keys(answer: str, want: Sequence[str]) -> bool:
    """One JSON object with these keys and no others.

    A fence of back-quotes around it is allowed.
    """
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n```", answer.strip(), re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else answer)
    except ValueError:
        return False
    return isinstance(found, dict) and set(found) == set(want)


def capitals(answer: str) -> bool:
    """Letters, all of them capital."""
    return any(sign.isalpha() for sign in answer) and answer == answer.upper()


def begin(answer: str, want: str) -> bool:
    """Begins with these words, in any case; a quotation mark may come before."""
    return re.match(re.escape(want.lower()) + r"\b", answer.strip().lstrip("\"'").lower()) is not None


def end(answer: str, want: str) -> bool:
    """Ends with these words, in any case.

    A full stop, an exclamation mark or a quotation mark may follow.
    """
    return re.search(r"\b" + re.escape(want.lower()) + r"$", answer.strip().rstrip(".!\"'").lower()) is not None


def sentences(answer: str, want: int) -> bool:
    """This many ends of sentences, each before white space, one at the end."""
    return len(re.findall(r"[.!?]+(?=\s|$)", answer.strip())) == want and answer.strip()[-1:] in {".", "!", "?"}


def numbered(answer: str, want: int) -> bool:
    """Lines numbered from 1 to this number, and no others; empty lines do not count."""
    found = [re.match(r"(\d+)[.)]\s+\S", line) for line in _lines(answer)]
    return [int(one[1]) if one else 0 for one in found] == list(range(1, want + 1))


CHECKS: dict[str, Callable[..., bool]] = {
    "word": word,
    "words": words,
    "yes_no": yes_no,
    "at_most": at_most,
    "repeat": repeat,
    "question": question,
    "mention": mention,
    "commas": commas,
    "json": json_keys,
    "capitals": capitals,
    "begin": begin,
    "end": end,
    "sentences": sentences,
    "numbered": numbered,
}
"""Kind of demand → check of an answer, with the item's ``want`` as an argument if it has one."""


def followed(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score an answer by its form alone, not by its content."""
    wanted = (doc["want"],) if "want" in doc else ()
    return {"followed": float(CHECKS[doc["kind"]](results[0], *wanted))}


def items(kind: str, **_: object) -> dict[str, datasets.Dataset]:
    """Read the prompts of a kind."""
    lines = (Path(__file__).parent / "items.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([item for item in map(json.loads, lines) if item["kind"] == kind])}
