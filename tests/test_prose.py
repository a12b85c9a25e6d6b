"""The prose follows its rules: clear summaries, and one word for one thing."""

from __future__ import annotations

from tests.support import prose

MOST_BANNED = 0.02


def test_summaries_name_their_subject() -> None:
    """Under 2% of docstring summaries open with a word that hides their noun."""
    texts = {file: file.read_text(encoding="utf-8") for file in prose.files_under("harness") if file.suffix == ".py"}
    found = list(prose.summaries(texts))
    banned = [summary for summary in found if summary.hides_its_noun]
    assert len(found) > 1000
    assert len(banned) < MOST_BANNED * len(found), banned


def test_texts_that_users_read_have_one_word_for_one_thing() -> None:
    """Messages, help, templates, comments of conf/ and documents have no banned word."""
    documents = prose.files_under("README.md", "CONTRIBUTING.md", "docs", "benchmarks")
    assert list(prose.breaches(prose.files_under("harness", "conf", "examples") + [one for one in documents if one.suffix == ".md"])) == []
