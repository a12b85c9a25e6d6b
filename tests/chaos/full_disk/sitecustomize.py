"""A full disk for the harness' own writes, while the file HARNESS_TEST_FULL exists."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _full(write: Callable[..., Any]) -> Callable[..., Any]:
    def maybe(*arguments: Any, **named: Any) -> Any:
        if Path(os.environ["HARNESS_TEST_FULL"]).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments, **named)

    return maybe


if os.environ.get("HARNESS_TEST_FULL"):
    from harness.core import files

    for name in ("rename_folder", "hidden_name"):
        setattr(files, name, _full(getattr(files, name)))
