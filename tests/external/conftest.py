"""`harness compare` on two folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import app
from tests.support.lm_eval_logs import Run


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command on tmp_path/before and tmp_path/after, as tests.support.lm_eval_logs.Run."""

    def command(*options: str) -> tuple[int, str, str]:
        code = app.main(["compare", str(tmp_path / "before"), str(tmp_path / "after"), *options])
        return code, *capsys.readouterr()

    return command
