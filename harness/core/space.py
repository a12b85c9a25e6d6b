"""A full disk is waited for: a write that finds no space is held and tried again.

Where nobody said how to wait, its error is raised as any other.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Wait = Callable[[str], None]

_WAIT: ContextVar[Wait | None] = ContextVar("wait", default=None)  # of one thread: heartbeats do not wait


def is_lacking(error: BaseException) -> bool:
    """Return whether an error comes from a full disk or quota, through any library."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if "No space left on device" in str(seen) or "Disk quota exceeded" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextlib.contextmanager
def waited_for(wait: Wait) -> Iterator[None]:
    """Let held writes of this thread wait for space until the block ends.

    Args:
        wait: called with the reason before each new try; an error that it raises ends the wait.
    """
    token = _WAIT.set(wait)
    try:
        yield
    finally:
        _WAIT.reset(token)


def held(write: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a write that finds a full disk wait and try again, see ``waited_for``.

    Its second call with the same arguments must do what the first one could not.
    """

    @functools.wraps(write)
    def tried(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        while True:
            try:
                return write(*args, **kwargs)
            except Exception as error:
                wait = _WAIT.get()
                if wait is None or not is_lacking(error):
                    raise
                lack = str(error)  # the error itself would keep what its frames hold
            wait(lack)

    return tried
