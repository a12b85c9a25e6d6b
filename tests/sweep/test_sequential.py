"""Jobs one after another."""

from __future__ import annotations

from harness.interfaces import Progress, Silent
from harness.sweep.sequential import Job, run_all


def job(label: str, outcome: str | Exception, recorded: list[str]) -> Job:
    def execute(progress: Progress) -> str:
        progress.say(label)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Job(label, execute, lambda error: recorded.append(f"{label}: {error}"))


def test_a_failure_is_recorded_and_the_others_go_on() -> None:
    """The tally tells what was done, what was done before, and what failed with its reason."""
    recorded: list[str] = []
    seen: list[int] = []
    jobs = [job("a", "done", recorded), job("b", ValueError("two\nlines"), recorded), job("c", "already done", recorded)]
    tally = run_all(jobs, Silent(), seen.append)
    assert (tally.done, tally.already_done, tally.failed) == (1, 1, [("b", "ValueError: two lines")])
    assert recorded == ["b: two\nlines"]
    assert seen == [0, 1, 2, 3]


def test_a_failure_that_cannot_be_recorded_stops_nothing() -> None:
    """A full disk fails twice; the next run still has its turn."""

    def full(_: Exception) -> None:
        raise OSError(28, "No space left on device")

    broken = Job("a", job("a", ValueError("x"), []).execute, full)
    tally = run_all([broken, job("b", "done", [])], Silent(), lambda _: None)
    assert (tally.done, len(tally.failed)) == (1, 1)


def test_a_run_measured_in_part_counts_as_failed() -> None:
    """Missing measurements are said at the end, by exit code and by name."""
    tally = run_all([job("a", "measured in part", [])], Silent(), lambda _: None)
    assert tally.done == 0
    assert "measured in part" in tally.failed[0][1]
