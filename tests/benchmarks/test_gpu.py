"""``python -m benchmarks.gpu`` on a CPU: every section runs, and a planted fault fails it."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import losses, resume, training
from benchmarks.gpu.report import NO_CUDA, PASSED, Plan, Report, read
from benchmarks.gpu.sections import SECTIONS, Section, carry_out, run_section
from benchmarks.gpu.table import markdown
from harness.evaluation.backends import PrefixEvaluation
from harness.methods.contract import tiny
from harness.methods.tuning.full import Full
from harness.sweep.plan.device import needed
from harness.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]

FAULTS = {
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "hangs": "import time; time.sleep(60)",
    "raises": "raise ValueError('no such\\nkernel')",
}


def test_every_section_passes_on_a_cpu(tmp_path: Path) -> None:
    """In processes of their own; what needs CUDA is recorded as skipped."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--tiny"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in SECTIONS}
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(SECTIONS, PASSED), ended.stdout
    assert ended.returncode == 0
    skipped = {check["name"] for one in found.values() for check in one["checks"] if check["passed"] is None}
    assert skipped - {"QLoRA"} == {"GPUs are joined by NCCL"}
    assert ended.stdout == markdown(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".log"}, "work folders are deleted"


def test_a_section_that_dies_or_hangs_leaves_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in turn, from one process that goes on."""
    (tmp_path / "code").mkdir()
    for name, fault in FAULTS.items():
        code = f"def run(plan, report):\n    report.at_most('one', 1.0, 2.0)\n    {fault}\n"
        (tmp_path / "code" / f"section_that_{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    out = tmp_path / "out"
    out.mkdir()
    statuses = {name: carry_out(name, Section(f"section_that_{name}", "", 4), out, tiny=True) for name in FAULTS}
    assert statuses == {
        "dies": "died (signal 9)",
        "hangs": "timed out after 4 s",
        "raises": "error: ValueError: no such kernel",
    }
    for name, status in statuses.items():
        found = read(out / f"{name}.json") or {}
        assert found["status"] == status
        assert [check["name"] for check in found["checks"]] == ["one"]


def planted(section: str, folder: Path) -> set[str]:
    """The failed checks of a section, run in this process."""
    report = Report(folder / "found.json", section)
    run_section(SECTIONS[section].module, Plan(work=folder, tiny=True, device="cpu"), report)
    assert report.content["status"] == "failed"
    return {check["name"] for check in report.content["checks"] if check["passed"] is False}


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Restore what a section sets in its own process."""
    for name in ("HARNESS_CACHE", "HARNESS_PATH", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")
    yield
    torch.use_deterministic_algorithms(False)


def test_a_device_that_computes_otherwise_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of every weight."""
    moved = losses.moved

    def wrong(model: Any, device: str) -> Any:
        there: Any = moved(model, device)
        with torch.no_grad():
            for parameter in there.parameters():
                parameter.mul_(1.001)
        return there

    monkeypatch.setattr(losses, "moved", wrong)
    monkeypatch.setattr(losses, "CASES", {})
    failed = planted("losses", tmp_path)
    assert {f"llama, {how} logits, float32: {what}" for how in ("whole", "chunked") for what in ("loss", "gradient")} <= failed


def test_a_checkpoint_without_moments_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the optimizer."""
    newest = Checkpoints.newest

    def without(self: Checkpoints, *args: Any) -> Any:
        found = newest(self, *args)
        kept = {name: value for name, value in found.tensors.items() if not name.startswith("optimizer/")} if found else {}
        return found and dataclasses.replace(found, tensors=kept)

    monkeypatch.setattr(Checkpoints, "newest", without)
    assert planted("resume", tmp_path) == {f"{case}: weights of another bit" for case in resume.CASES}


def test_without_deterministic_kernels_resuming_is_compared_by_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits are recorded as skipped, with the kernel's own words."""
    trained = tiny.run

    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("some_backward does not have a deterministic implementation")
        return trained(*args, **kwargs)

    monkeypatch.setattr(tiny, "run", run)
    monkeypatch.setattr(resume, "CASES", {"full": (Full(), "float32")})
    report = Report(tmp_path / "found.json", "resume")
    run_section("benchmarks.gpu.resume", Plan(work=tmp_path, tiny=True, device="cpu"), report)
    assert report.content["status"] == PASSED
    passed = {check["name"]: check["passed"] for check in report.content["checks"]}
    assert passed == {"full: trained": True, "full: weights of another bit": None, "full: distance from straight through": True}


def test_a_formula_that_is_off_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a quarter."""
    cases = training.cases

    def off(prepared: Any) -> Any:
        setup, found = needed(prepared)
        return setup, dataclasses.replace(found, step=found.step * 5 // 4, stop=found.stop * 5 // 4)

    monkeypatch.setattr("benchmarks.gpu.training.needed", off)
    monkeypatch.setattr(training, "cases", lambda *given: dict([*cases(*given).items()][:1]))
    assert planted("training", tmp_path) == {"full: peak against the formula"}


def test_scores_of_other_requests_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``prefix`` sees a model whose embedding is a hundredth larger."""
    made = PrefixEvaluation.model

    def wrong(self: Any, model: Any, *args: Any) -> Any:
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.01)
        return made(self, model, *args)

    monkeypatch.setattr(PrefixEvaluation, "model", wrong)
    assert {"endings, float32", "whole texts, float32"} <= planted("scores", tmp_path)


def test_a_section_without_a_check_is_not_passed(tmp_path: Path) -> None:
    """Nor is nan; one whose checks all need CUDA is skipped."""
    report = Report(tmp_path / "found.json", "empty")
    report.end()
    assert report.content["status"] == "failed: no check was made"
    report.skip("one")
    report.end()
    assert report.content["status"] == NO_CUDA
    report.at_most("two", math.nan, 1.0)
    report.end()
    assert (read(tmp_path / "found.json") or {})["status"] == "failed"


def test_the_table_names_what_failed_and_what_did_not_run(tmp_path: Path) -> None:
    """From the files alone."""
    report = Report(tmp_path / "losses.json", "losses")
    report.at_most("llama: loss", 0.25, 1e-5, "nats")
    report.measured("llama", seconds=1.5)
    report.end()
    said = markdown(tmp_path)
    assert "| llama: loss | 0.25 | at most 1e-05 nats | **failed** |" in said
    assert "| resume | resumed training equals one straight through | not run | 0 of 0 |  |" in said
    assert "| llama | 1.5 |" in said
