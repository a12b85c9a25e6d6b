"""Overlap of evaluation items with training rows: exact matches and 13-grams of words.

Reference: Brown et al. 2020, arXiv 2005.14165, appendix C (13-grams of lowercased words). Differs
from the paper: an item counts as overlapping by a single shared 13-gram; nothing is removed, only
reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NGRAM_WORDS = 13

CHUNK_ROWS = 4096
"""Texts hashed at a time; bounds the memory."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_BASE = 0x9E3779B97F4A7C15  # odd, so that multiplying by it is one to one modulo 2^64


def words(text: str) -> list[str]:
    """Split into lowercased words without punctuation.

    A Chinese or Japanese character is a word.
    """
    return _WORD.findall(text.lower())


def shares(row_texts: Sequence[str], item_texts: Sequence[str]) -> dict[str, int | float]:
    """Count the evaluation items that overlap with training rows.

    Args:
        row_texts: texts of the training rows.
        item_texts: texts of the items, question and answer.

    Returns:
        ``items``; ``exact`` and ``exact_share``: items whose words are those of a row;
        ``ngram_items``: items of at least 13 words; ``ngram`` and ``ngram_share``: of these, those
        that share a 13-gram with a row. Shares are in [0, 1], 0 where there is no item.
    """
    vocabulary: dict[str, int] = {}
    items = [tuple(_numbers(text, vocabulary)) for text in item_texts]
    grams, item_of = _ngrams(items)
    in_rows = np.zeros(len(grams), dtype=bool)
    whole, exact_rows = set(items), set[tuple[int, ...]]()
    for start in range(0, len(row_texts), CHUNK_ROWS):
        rows = [tuple(_numbers(text, vocabulary)) for text in row_texts[start : start + CHUNK_ROWS]]
        exact_rows |= whole.intersection(rows)
        in_rows |= np.isin(grams, _ngrams(rows)[0])
    exact = sum(item in exact_rows for item in items if item)
    long_enough, overlapping = len(np.unique(item_of)), len(np.unique(item_of[in_rows]))
    return {
        "items": len(items),
        "exact": exact,
        "exact_share": exact / len(items) if items else 0.0,
        "ngram_items": long_enough,
        "ngram": overlapping,
        "ngram_share": overlapping / long_enough if long_enough else 0.0,
    }


def _numbers(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Return the words of a text as numbers, from 1 in order of first use."""
    return [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words(text)]


def _ngrams(texts: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return a hash of every 13-gram within a text, and the index of its text.

    The hash is Σ_k w_(i+k) · base^(12-k) modulo 2^64.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    if lengths.sum() < NGRAM_WORDS:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    flat = np.fromiter((word for text in texts for word in text), dtype=np.uint64, count=int(lengths.sum()))
    count = len(flat) - NGRAM_WORDS + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(NGRAM_WORDS):
        hashes = hashes * np.uint64(_BASE) + flat[offset : offset + count]
    text_of = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
    inside = text_of[:count] == text_of[NGRAM_WORDS - 1 :]
    return hashes[inside], text_of[:count][inside]
