"""``harness mix``: from its arguments to a sweep over shares of old data, and its answer."""

from __future__ import annotations

import argparse
import json

from harness.cli import outcome
from harness.core.display import OUTPUT, display
from harness.report import mixing
from harness.report.evidence import Evidence
from harness.sweep import command, mix


def mix_command(arguments: argparse.Namespace) -> int:
    """Carry out the sweep, show table and answer, and write the page.

    Args:
        arguments: shares, seeds, wait, json, overrides.

    Returns:
        The exit code: 0 if every run is done, 1 if any failed.

    Raises:
        HarnessError: one line; nothing was written.
    """
    shares = mix.shares_of(arguments.shares)
    overrides = mix.overrides_of(arguments.overrides, arguments.seeds)
    with display() as progress:
        started = command.start(overrides, mix.arms_of(shares), warm=True, progress=progress)
        OUTPUT.message(_opening(overrides, shares, arguments.seeds))
        tally = command.carry(started, progress, wait=arguments.wait)
    if tally is None:
        OUTPUT.message("submitted; rerun the same command for the answer")
        return 0
    return outcome.finish(started, tally, _as_json if arguments.json else mixing.text)


def _opening(overrides: list[str], shares: list[float], seeds: int) -> str:
    """Return what is about to run, with the settings that the command chose."""
    chosen = " ".join(text for text in overrides if text.split("=")[0] in CHOSEN)
    return f"mix: {len(shares)} shares × {seeds} seed{'s' if seeds > 1 else ''} = {len(shares) * seeds} runs; {chosen}"


CHOSEN = ("name", "target_suites", "probe_suites", "data.volumes", "data.held_out", "anchor.held_out")
"""Keys that the first line shows: they have defaults of the command's own."""


def _as_json(evidence: Evidence) -> str:
    return json.dumps(mixing.values(evidence), indent=2, ensure_ascii=False, allow_nan=False)
