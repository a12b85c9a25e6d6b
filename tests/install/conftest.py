from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


class Installed:
    """The ``harness`` command of this environment, which has the wheel, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command without environment variables that point to the checkout."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run([BIN / "harness", *arguments], cwd=self.folder, env=own, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The installed command."""
    return Installed(tmp_path_factory.mktemp("installed"))
