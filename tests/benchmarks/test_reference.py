"""Comparison of a fresh sweep with the committed reference, on fabricated findings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import reference
from benchmarks.reference import compare, described
from tests.support import sealing

LABELS = {
    "model": "nursery-xs",
    "tuning": "full",
    "objective": "sft",
    "mitigation": "none",
    "data": "tinyworld-people",
    "anchor": None,
    "trajectory": "shared",
    "epochs": 1,
    "variant": None,
    "volume": 64,
    "role": "probe",
    "suite": "tinyworld",
    "task": "*",
    "metric": "acc",
    "filter": "none",
    "verdict": "lost",
}


def finding(delta: float | None, low: float | None, high: float | None, **labels: Any) -> dict[str, Any]:
    return LABELS | {"delta": delta, "delta_low": low, "delta_high": high} | labels


def many(count: int, delta: float = -0.1, **labels: Any) -> list[dict[str, Any]]:
    """Return findings of a number of tasks, each ±0.03."""
    return [finding(delta, delta - 0.03, delta + 0.03, task=f"t{i}", **labels) for i in range(count)]


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows)


def agrees(reference_row: dict[str, Any], fresh_row: dict[str, Any]) -> bool:
    return bool(compare(frame([reference_row]), frame([fresh_row])).compared["agree"].item())


def test_two_changes_agree_if_their_difference_may_be_zero() -> None:
    """±0.03 and ±0.04 give a difference of ±0.05."""
    before = finding(-0.10, -0.13, -0.07)
    for apart, expected in {0.0: True, 0.049: True, -0.049: True, 0.051: False, -0.051: False}.items():
        delta = -0.10 + apart
        assert agrees(before, finding(delta, delta - 0.04, delta + 0.04)) is expected, apart


def test_the_ends_that_face_each_other_decide() -> None:
    """The tolerance is √(0.01² + 0.02²) = 0.0224, from the ends between the values.

    The fresh change is the larger, so these are its lower end and the reference's upper end.
    """
    before = finding(-0.10, -0.50, -0.08)
    assert agrees(before, finding(-0.078, -0.088, 0.9))
    assert not agrees(before, finding(-0.077, -0.087, 0.9))
    assert math.hypot(0.01, 0.02) == pytest.approx(0.02236, abs=1e-5)


def test_the_same_sweep_agrees_with_itself_where_nothing_varies() -> None:
    """So do intervals without width, rounded numbers, and keys read as text."""
    assert agrees(finding(0.1234564999, 0.1234564999, 0.1234564999), finding(0.123456, 0.123456, 0.123456))
    assert agrees(finding(-0.1, -0.2, 0.0, volume="64", epochs="1", anchor=""), finding(-0.1, -0.2, 0.0))


@pytest.mark.parametrize(("wrong", "holds"), [(0, True), (2, True), (3, False)])
def test_one_in_twenty_may_disagree(wrong: int, holds: bool) -> None:
    """Of 59 findings two may disagree, since 5% are 2.95.

    A third fails the comparison. Each is named with both of its intervals.
    """
    fresh = [*many(59)[wrong:], *many(wrong, delta=0.2)]
    found = compare(frame(many(59)), frame(fresh))
    assert (len(found.compared), found.allowed, len(found.disagree), found.holds) == (59, 2, wrong, holds)
    text = described(found)
    assert f"{59 - wrong} of 59 findings agree within their intervals; 2 may disagree" in text
    assert text.count("disagrees: ") == wrong
    assert wrong == 0 or "t0 acc none: -0.1 [-0.13, -0.07] → 0.2 [0.17, 0.23]" in text
    assert text.endswith("the reference holds" if holds else "FAILED: the reference does not hold")


@pytest.mark.parametrize(("apart", "holds"), [(0.9e-5, True), (1.1e-5, False)])
def test_on_the_same_kind_of_processor_every_number_is_equal(apart: float, holds: bool) -> None:
    """One end of one interval in a hundred is apart by 0.000011: intervals alone would hold."""
    fresh = [*many(99), finding(-0.1, -0.13, -0.07 + apart, task="t99")]
    found = compare(frame(many(100)), frame(fresh), is_same_kind=True)
    assert (found.allowed, found.holds) == (0, holds)
    text = described(found)
    assert text.startswith("checked: numbers to 1e-05, since the reference was made on the same kind of processor")
    assert f"{99 + holds} of 100 findings agree to 1e-05; 0 may disagree" in text
    elsewhere = compare(frame(many(100)), frame(fresh))
    assert elsewhere.holds
    assert described(elsewhere).startswith("checked: intervals, since the reference was made on another kind of processor")


def test_the_kind_of_processor_is_that_of_the_records(tmp_path: Path) -> None:
    """Records of two kinds, or of versions that did not state it, have none."""
    for name, instructions in {"same": "AVX2", "mixed": "AVX512", "unknown": None}.items():
        for run, known in {"a": "AVX2", "b": instructions}.items():
            values = {"provenance": {"processor": "P", "instructions": known, "versions": {"torch": "2"}}}
            sealing.write(tmp_path / name / "runs" / run / "record.json", values)
    assert reference.kind(tmp_path / "same") == {"processor": "P", "instructions": "AVX2", "torch": "2"}
    assert reference.kind(tmp_path / "mixed") == reference.kind(tmp_path / "unknown") == {}


def test_the_kind_is_what_decides_rounding_and_not_a_name(tmp_path: Path) -> None:
    """Name and cores may differ; model, instructions, torch and threads may not.

    A reference of an earlier version is known by its name, its instructions and torch.
    """
    known = {"processor": "P", "processor_model": "M", "vector_flags": "avx2", "instructions": "AVX2", "cores": 2}
    record = {"provenance": known | {"versions": {"torch": "2"}}, "threads": 1}
    sealing.write(tmp_path / "new" / "runs" / "a" / "record.json", record)
    new = reference.kind(tmp_path / "new")
    assert new == known | {"cores": "2", "torch": "2", "threads": "1"}
    assert reference.is_same_kind(new, new | {"processor": "P on a cloud", "cores": "8"})
    for name in reference.KIND:
        assert not reference.is_same_kind(new, new | {name: "other"}), name
    earlier = {"processor": "P", "instructions": "AVX2", "torch": "2"}
    assert reference.is_same_kind(new, earlier)
    assert not reference.is_same_kind(new, earlier | {"processor": "other"})
    assert not reference.is_same_kind({}, {})


@pytest.mark.parametrize("side", ["reference", "fresh sweep"])
def test_a_finding_that_one_side_alone_has_fails_the_comparison(side: str) -> None:
    """Not one in a hundred may be missing, nor may its interval."""
    whole, short = many(100), many(99)
    found = compare(*map(frame, (whole, short) if side == "reference" else (short, whole)))
    assert not found.holds
    assert f"only in the {side}: nursery-xs full sft none tinyworld-people shared 1 64 probe tinyworld t99 acc none" in described(found)
    without = [*short, finding(-0.1, None, None, task="t99")]
    found = compare(*map(frame, (whole, without) if side == "reference" else (without, whole)))
    assert not found.holds
    assert (len(found.compared), found.without_interval) == (99, 0)


def test_findings_without_an_interval_are_counted_and_not_compared() -> None:
    """The comparison counts findings without an interval on both sides."""
    rows = [*many(3), finding(None, None, None, task="drift")]
    found = compare(frame(rows), frame(rows))
    assert (len(found.compared), found.without_interval, found.holds) == (3, 1, True)
    assert "1 have no interval and are not compared" in described(found)


def test_a_comparison_without_common_findings_does_not_hold() -> None:
    """Without a compared finding there is no agreement."""
    assert not compare(frame([finding(None, None, None)]), frame([finding(None, None, None)])).holds


def test_another_verdict_is_shown_and_does_not_count() -> None:
    """Near its threshold a verdict may differ although the changes agree."""
    found = compare(frame(many(2)), frame([many(1)[0], many(2, verdict="not enough evidence")[1]]))
    assert found.holds
    assert "1 have another verdict" in described(found)
    assert "lost → not enough evidence" in described(found)


def test_repeated_findings_and_missing_columns_are_rejected() -> None:
    """It would be arbitrary which of two findings is compared."""
    with pytest.raises(ValueError, match="fresh: two findings of nursery-xs full"):
        compare(frame(many(1)), frame([*many(1), *many(1)]))
    with pytest.raises(ValueError, match="reference: no column filter"):
        compare(frame(many(1)).drop(columns="filter"), frame(many(1)))


def test_a_written_reference_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It has findings, small figures and their origin.

    The same sweep agrees with it; one with losses of 1.5 times the size does not.
    """
    report, place = tmp_path / "report", tmp_path / "reference"
    (report / "figures").mkdir(parents=True)
    (report / "figures" / "small.png").write_bytes(b"x" * 10)
    (report / "figures" / "large.png").write_bytes(b"x" * (reference.MAX_FIGURES_BYTES + 1))
    rows = [*many(40), finding(None, None, None, task="drift")]
    typed = frame(rows).astype({"epochs": "Int64", "volume": "Int64", "anchor": "string", "variant": "string"})
    facts = {
        "git": {"commit": "abc123", "dirty": False},
        "cores": 2,
        "processor": "a processor",
        "seconds": 300.0,
        "versions": {"torch": "2"},
    }
    made_on = {"processor": "a processor", "instructions": "AVX2", "torch": "2"}
    reference.write(typed, report, place, facts, made_on)
    assert sorted(path.name for path in place.iterdir()) == ["README.md", "findings.csv", "machine.json", "small.png"]
    readme = (place / "README.md").read_text()
    assert all(word in readme for word in ["41 findings", "commit abc123.", "2 cores, a processor", "300 s", "torch 2", "(small.png)"])

    monkeypatch.setattr(reference, "derive", lambda folder: typed)
    assert reference.main(["--sweep", str(tmp_path), "--reference", str(place)]) == 0
    assert "40 of 40 findings agree within" in capsys.readouterr().out
    monkeypatch.setattr(reference, "kind", lambda folder: made_on)
    assert reference.main(["--sweep", str(tmp_path), "--reference", str(place)]) == 0
    assert "40 of 40 findings agree to 1e-05" in capsys.readouterr().out
    monkeypatch.setattr(reference, "derive", lambda folder: frame([*many(40, delta=-0.15), rows[-1]]))
    assert reference.main(["--sweep", str(tmp_path), "--reference", str(place)]) == 1
    assert "0 of 40 findings agree" in capsys.readouterr().out


def test_without_a_reference_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error comes before the sweep."""
    assert reference.main(["--reference", str(tmp_path)]) == 2
    assert "fix: make reference ARGS=--write" in capsys.readouterr().err


def test_the_committed_reference_is_small_and_agrees_with_itself() -> None:
    """It is smaller than a megabyte, and the comparison can read it."""
    assert sum(path.stat().st_size for path in reference.REFERENCE.glob("*")) <= reference.MAX_BYTES
    for file in reference.REFERENCE.glob("findings.csv"):
        found = compare(reference.read(file), reference.read(file))
        assert found.holds
        assert found.disagree.empty
