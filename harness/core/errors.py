"""Errors for users, each one line: what, got, allowed, how to fix.

HarnessError
├── ConfigError       a key, value or combination of the configuration (also a ValueError)
├── DataError         rows, fields, volumes, masks
├── ModelError        a model or tokenizer that cannot be loaded, or has the wrong weights
├── EvaluationError   a suite, task or item that cannot be evaluated
├── TrainingError     a run that diverged or changed nothing
│   └── ProcessDied   one of the processes that train a run together was killed
├── RecordError       a record that is missing, or of another version
│   └── DamagedError  a file of results that was cut off, or changed after it was written
├── AnalysisError     an analysis that its data do not allow
└── InstallError      a package that is not installed

Each is built from its finished message, so that it pickles across processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base class of every error that the harness raises on purpose.

    The command line prints it as one line and exits with 2.
    """


class ConfigError(HarnessError, ValueError):
    """A configuration key, value or combination that is not allowed.

    Raised before anything runs or is written.
    """


class DataError(HarnessError):
    """Data that cannot be read, or cannot be trained on."""


class FinalDataError(DataError):
    """Data that another try finds as they are: the run is failed at once."""


class ModelError(HarnessError):
    """A model or tokenizer that cannot be loaded."""


class EvaluationError(HarnessError):
    """A suite or task that cannot be evaluated."""


class TrainingError(HarnessError):
    """Training that diverged, or that changed nothing."""


class ProcessDied(TrainingError):
    """A process that trains a run with others was killed; the run did not fail."""


class RecordError(HarnessError):
    """A record that is missing, damaged, or written by another version."""


class DamagedError(RecordError):
    """A file of results that is cut off, or was changed or replaced after it was written.

    The command line exits with 1, except ``compare``.
    """


class AnalysisError(HarnessError):
    """An analysis that its data do not allow.

    Too few points, a column that does not exist, a law that these data cannot identify.
    """


class InstallError(HarnessError):
    """A package of an extra that is not installed."""


def explain(what: str, *, got: object, allowed: str = "", fix: str = "") -> str:
    """Build the one-line message of an error.

    Args:
        what: the key, file or thing that is wrong.
        got: the value found there, a noun phrase.
        allowed: accepted values.
        fix: the next step for the reader.

    Returns:
        ``what: got …; allowed: …; fix: …`` on a single line, without empty parts.
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


def once_online(otherwise: str) -> str:
    """Return advice where something cannot be fetched: go online once, or ``otherwise``."""
    return f"the same command with HF_HUB_OFFLINE=0 in front, once, where there is a network; or {otherwise}"


def shortened(text: str, length: int = 200) -> str:
    """Return a text as a message quotes it: its beginning, if it is long."""
    return text if len(text) <= length else f"{text[:length]}…"


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether an error is a lack of memory, which also ends imports and new threads."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in ("failed to map segment", "can't start new thread"))
