"""Every error a user can meet. Each is one line: what, got, allowed, how to fix.

HarnessError
├── ConfigError       a key, value or combination of the configuration (also a ValueError)
├── DataError         rows, fields, volumes, masks
├── ModelError        a model or tokenizer that cannot be loaded, or is not what it should be
├── EvaluationError   a suite, task or item that cannot be evaluated
├── TrainingError     a run that diverged or did nothing
│   └── ProcessDied   one of the processes that train a run together was killed
└── RecordError       a record that is missing, damaged, or of another version

All are built from one finished message, so they pickle across processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of every error the harness raises on purpose.

    The command line prints it as one line and exits with 2.
    """


class ConfigError(HarnessError, ValueError):
    """A configuration key, value or combination that is not allowed.

    Nothing has run or been written.
    """


class DataError(HarnessError):
    """Data that cannot be read, or cannot be trained on."""


class ModelError(HarnessError):
    """A model or tokenizer that cannot be loaded."""


class EvaluationError(HarnessError):
    """A suite or task that cannot be evaluated."""


class TrainingError(HarnessError):
    """Training that diverged, or that changed nothing."""


class ProcessDied(TrainingError):
    """One of the processes that train a run together was killed, which is no failure of the run."""


class RecordError(HarnessError):
    """A record that is missing, damaged, or written by another version."""


def explain(what: str, *, got: object, allowed: str = "", fix: str = "") -> str:
    """Build the one-line message of an error.

    Args:
        what: the key, file or thing that is wrong.
        got: what was found there.
        allowed: what would have been accepted.
        fix: the next step for the reader.

    Returns:
        ``what: got …; allowed: …; fix: …`` on a single line, empty parts left out.
    """
    parts = [f"{what}: got {got}"]
    if allowed:
        parts.append(f"allowed: {allowed}")
    if fix:
        parts.append(f"fix: {fix}")
    return " ".join("; ".join(parts).split())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest known word, as ``did you mean 'x'?``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


class AnalysisError(HarnessError):
    """An analysis that cannot say what was asked: too few points, no such column, a law that these data cannot identify."""
