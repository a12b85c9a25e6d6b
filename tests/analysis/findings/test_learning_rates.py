"""The searched learning rates of a sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.findings.learning_rates import as_yaml, gained, merge, remarks, require_rates, require_select
from harness.config.resolution import SearchedRate, SearchedRates
from harness.config.strict import build
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, RecordError
from harness.records.writer import ExperimentWriter
from harness.report.evidence import measured
from tests.support.experiments import share
from tests.support.searches import N, Tried, search


def searched(folder: Path, tried: Tried, **more: Any) -> SearchedRate:
    """Return the rate of a search of one combination."""
    (found,) = measured(search(folder / "x", tried, **more)).rates
    return found


def right(*counts: int) -> list[list[float]]:
    """Return the items of seeds that have the first so many right."""
    return [share(count, N) for count in counts]


def test_the_smallest_rate_within_one_standard_error_of_the_best_is_taken(tmp_path: Path) -> None:
    """0.01 has 20 items right that 0.1 has wrong, and 24 wrong that it has right: 0.01 ± 0.017."""
    tried = {0.001: right(100), 0.01: [[1.0] * 196 + [0.0] * 204], 0.1: [[0.0] * 20 + [1.0] * 200 + [0.0] * 180]}
    found = searched(tmp_path, tried)
    assert (found.learning_rate, found.rule, found.best) == (0.01, 0.01, 0.1)
    assert (found.score, found.before, found.candidates) == (196 / N, 0.0, (0.001, 0.01, 0.1))
    behind = found.curve[1]
    mean, squares = 4 / N, 44 / N
    assert behind.behind == pytest.approx(mean)
    assert behind.behind_stderr == pytest.approx(math.sqrt((squares - mean**2) / (N - 1)), abs=1e-6)


def test_what_all_rates_find_hard_is_no_reason_to_prefer_one(tmp_path: Path) -> None:
    """8 items more, and none fewer: 0.02 ± 0.007, though the mean itself is known to ± 0.025."""
    found = searched(tmp_path, {0.001: right(192), 0.01: right(200)})
    assert (found.learning_rate, found.best) == (0.01, 0.01)
    assert found.curve[0].behind_stderr == pytest.approx(0.007, abs=1e-4)
    assert found.curve[0].stderr == pytest.approx(0.025, abs=1e-4)


def test_seeds_that_disagree_widen_the_error(tmp_path: Path) -> None:
    """The same 8 items in the mean of three seeds that differ by 20 points are no difference."""
    found = searched(tmp_path, {0.001: right(152, 192, 232), 0.01: right(160, 200, 240)})
    assert (found.learning_rate, found.best, found.seeds) == (0.001, 0.01, (0, 1, 2))


def test_of_a_loss_the_lowest_is_best(tmp_path: Path) -> None:
    found = searched(tmp_path, {0.001: right(10), 0.01: right(100), 0.1: right(200)}, higher=False)
    assert (found.learning_rate, found.best) == (0.001, 0.001)
    assert [one.behind for one in found.curve] == [0.0, 90 / N, 190 / N]


def test_a_rate_that_failed_on_a_seed_is_not_a_candidate(tmp_path: Path) -> None:
    """A rate with fewer seeds than the others is left out."""
    assert searched(tmp_path, {0.001: right(200, 200), 0.01: right(100, 100), 0.1: right(390)}).candidates == (0.001, 0.01)


def test_one_rate_is_not_a_search(tmp_path: Path) -> None:
    """A combination with a single rate has no best rate."""
    rates = measured(search(tmp_path / "x", {0.001: right(5)})).rates
    with pytest.raises(RecordError, match="two rates"):
        require_rates(rates)


def test_two_searches_of_one_combination_are_rejected() -> None:
    """They differ in what the file does not name."""
    with pytest.raises(RecordError, match="m, full, sft, d, none: got 2 searches; allowed: one"):
        require_rates([rate(1e-05), rate(1e-04)])


TRIED = {0.001: right(100), 0.01: right(200), 0.1: right(300), 1.0: right(200)}


@pytest.mark.parametrize(
    ("lost", "used", "remark"),
    [
        ((0, 0, 0, 0), 0.1, ""),
        ((0, 0, 0, 90), 0.1, ""),  # only the control at the rate itself decides
        ((0, 0, 90, 0), 0.01, "the same-data control lost too much at 0.1: 0.01, the next lower rate that passes, is used"),
        ((0, 90, 90, 0), 0.001, "the same-data control lost too much at 0.1: 0.001, the next lower rate that passes, is used"),
        ((90, 90, 90, 0), 0.001, "the same-data control lost too much at every rate up to 0.1: the smallest is used"),
    ],
)
def test_where_the_control_is_too_high_the_next_lower_rate_is_used(tmp_path: Path, lost: tuple[int, ...], used: float, remark: str) -> None:
    """90 of 400 items are lost: more than the margin, and not 0."""
    found = searched(tmp_path, TRIED, lost=dict(zip(TRIED, lost, strict=True)))
    assert (found.learning_rate, found.rule, found.best) == (used, 0.1, 0.1)
    assert remarks(found) == ([remark] if remark else [])
    assert [dict(one.control) for one in found.curve] == [{"old": -count / N} for count in lost]
    assert [one.control_check == "too high" for one in found.curve] == [count > 0 for count in lost]


def test_a_loss_beyond_the_margin_does_not_pass_before_it_is_proven(tmp_path: Path) -> None:
    """Of three seeds one lost 15 points: 5 in the mean, which may be chance. 0.5 ± 0.5 pass."""
    tried = {0.001: right(100, 110, 120), 0.01: right(200, 210, 220), 0.1: right(300, 310, 320)}
    found = searched(tmp_path, tried, lost={0.001: 0, 0.01: (0, 0, 6), 0.1: (0, 0, 60)})
    assert [one.control_check for one in found.curve][1:] == ["not settled", "not settled"]
    assert [one.passes for one in found.curve] == [True, True, False]
    assert (found.rule, found.learning_rate) == (0.1, 0.01)


def test_a_loss_within_the_margin_by_less_than_a_standard_error_does_not_pass(tmp_path: Path) -> None:
    """0, 0 and 4.5 points: 1.5 ± 1.5 in the mean, with a margin of 2."""
    tried = {0.001: right(100, 110, 120), 0.01: right(200, 210, 220), 0.1: right(300, 310, 320)}
    found = searched(tmp_path, tried, lost={0.001: 0, 0.01: (0, 0, 6), 0.1: (0, 0, 18)})
    assert [one.passes for one in found.curve] == [True, True, False]


def test_a_control_that_was_not_measured_does_not_pass(tmp_path: Path) -> None:
    """A rate that broke its control's evaluation is not approved by that."""
    found = searched(tmp_path, TRIED, lost={0.001: 0, 0.01: 0, 0.1: None, 1.0: 0})
    assert [one.passes for one in found.curve] == [True, True, False, True]
    assert (found.rule, found.learning_rate) == (0.1, 0.01)


def test_where_no_rate_gained_none_is_chosen(tmp_path: Path) -> None:
    """Before training, 0 items are right; after, too."""
    found = searched(tmp_path, {0.001: right(0), 0.01: right(0)}, lost={0.001: 0, 0.01: 0})
    assert (gained(found), remarks(found)) == (False, ["no rate gained on the target: none is chosen"])
    assert gained(searched(tmp_path / "other", TRIED))


@pytest.mark.parametrize(
    ("rights", "sides", "words"),
    [
        ((100, 200, 300, 200), "", []),
        ((100, 200, 300, 390), "above", ["not bracketed above: the best rate, 1, is the largest candidate"]),
        ((300, 200, 100, 50), "below", ["not bracketed below: 0.001, within one standard error of the best, is the smallest candidate"]),
        ((300, 200, 100, 300), "below", ["not bracketed below: 0.001, within one standard error of the best, is the smallest candidate"]),
    ],
)
def test_a_grid_that_ends_too_early_is_named(tmp_path: Path, rights: tuple[int, ...], sides: str, words: list[str]) -> None:
    """Above: no worse rate follows the best. Below: a smaller rate might do as well."""
    found = searched(tmp_path, dict(zip(TRIED, map(right, rights), strict=True)), lost=dict.fromkeys(TRIED, 0))
    assert (found.not_bracketed, remarks(found)) == (sides, words)
    assert all(f"  # {word}\n" in as_yaml([found]) for word in words)


def test_a_search_without_controls_says_so(tmp_path: Path) -> None:
    assert remarks(searched(tmp_path, TRIED)) == ["no same-data control was run"]


def test_the_whole_curve_is_in_the_file(tmp_path: Path) -> None:
    """Nothing of a search need be read again."""
    found = searched(tmp_path, TRIED, lost=dict.fromkeys(TRIED, 3))
    merge([rate(1e-05)], tmp_path / "rates.yaml")
    merge([found], tmp_path / "rates.yaml")
    assert build(SearchedRates, load_yaml(tmp_path / "rates.yaml"), "").rates == (rate(1e-05), found)


def rate(learning_rate: float, tuning: str = "full") -> SearchedRate:
    """Return a rate as an earlier file has it, without a curve."""
    fixed: dict[str, Any] = {"model": "m", "objective": "sft", "data": "d", "mitigation": "none", "suite": "s", "metric": "acc"}
    return SearchedRate(
        **fixed, tuning=tuning, learning_rate=learning_rate, candidates=(learning_rate, 0.5), score=0.9, volume=64, seeds=(0,)
    )


def test_rates_are_merged_into_a_file_that_compose_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new search replaces its own combinations only; 1e-05 stays a number."""
    file = tmp_path / "conf" / "learning_rates.yaml"
    file.parent.mkdir()
    first = [rate(1e-05)]
    merge(first, file)
    merge([rate(0.2, "lora")], file)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    pytest.importorskip("hydra", reason="composing needs the extra `measure`")
    from harness.config import composition

    found = {(one.model, one.tuning): one.learning_rate for one in composition.searched_rates()}
    assert found[("m", "full")] == 1e-05
    assert found[("m", "lora")] == 0.2
    assert as_yaml(first).startswith("# Learning rates")


OWN = """# Ours.
rates:
  # measured by hand
  - model: a
    tuning: lora  # rank 8
    objective: sft
    data: d
    mitigation: none
    learning_rate: 1e-4
    candidates:
    - 1e-4
    - 1e-3  # too high
    suite: s
    metric: acc
    score: 0.5
    volume: 8
    seeds: [0]

  - {model: m, tuning: full, objective: sft, data: d, mitigation: none, learning_rate: 5e-1, MORE}  # the last one
  # after it
# the end
other: [1, 2]
"""
MORE = "candidates: [0.5], suite: s, metric: acc, score: 0.9, volume: 8, seeds: [0]"
OWN = OWN.replace("MORE", MORE)
ENTRY = f"{{model: m, tuning: full, objective: sft, data: d, mitigation: none, learning_rate: 5e-1, {MORE}}}"
BLOCK = "model: m\n    tuning: full\n    objective: sft\n    data: d\n    mitigation: none\n    learning_rate: 5e-1\n    "
BLOCK += (
    MORE.replace("], ", "]\n    ")
    .replace(": s, ", ": s\n    ")
    .replace("acc, ", "acc\n    ")
    .replace("0.9, ", "0.9\n    ")
    .replace("8, ", "8\n    ")
)


@pytest.mark.parametrize("own", [OWN, OWN.replace(ENTRY, BLOCK), OWN.replace("\n", "\r\n")])
def test_entries_and_comments_of_the_user_are_kept(tmp_path: Path, own: str) -> None:
    """One entry is replaced where it stands, a new one comes after the list, all else stays."""
    file, neighbour = tmp_path / "rates.yaml", tmp_path / "rates.tmp"
    (tmp_path / "real.yaml").write_bytes(own.encode())
    (tmp_path / "real.yaml").chmod(0o640)
    file.symlink_to("real.yaml")
    neighbour.write_text("mine")
    same, new = ([rate(1e-05, tuning)] for tuning in ("full", "lora"))
    merge([*same, *new], file)
    (first,), (second,) = (as_yaml(found).splitlines()[2:] for found in (same, new))
    left = file.read_bytes().decode().splitlines(keepends=True)
    expected = own.replace(ENTRY, first.removeprefix("  - ")).replace(BLOCK, first.removeprefix("  - ")).splitlines(keepends=True)
    at = next(number for number, line in enumerate(left) if second in line)
    assert at == next(number for number, line in enumerate(expected) if "the last one" in line) + 1
    assert left[:at] + left[at + 1 :] == expected
    assert load_yaml(file)["other"] == [1, 2]
    assert (neighbour.read_text(), file.is_symlink(), file.stat().st_mode & 0o777) == ("mine", True, 0o640)
    assert {path.name for path in tmp_path.iterdir()} == {"rates.yaml", "real.yaml", "rates.tmp"}


@pytest.mark.parametrize(
    "own", ["", "# only this", "rates:\n", "rates: []  # none yet\n", "other: 1\n", f"rates: [{ENTRY}]", f"rates:\n- {ENTRY}"]
)
def test_rates_are_added_to_every_form_of_list(tmp_path: Path, own: str) -> None:
    """Also where there is none yet, or no line end."""
    file = tmp_path / "rates.yaml"
    file.write_text(own)
    merge([rate(1e-05, "lora")], file)
    found = load_yaml(file)
    assert [entry["tuning"] for entry in found["rates"]] == (["full", "lora"] if "full" in own else ["lora"])
    assert found["rates"][-1]["learning_rate"] == 1e-05
    assert all(comment in file.read_text() for comment in ("# only this", "# none yet") if comment in own)
    assert found.get("other") == (1 if "other" in own else None)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("rates: 5\n", "rates: got int; allowed: a list"),
        (f"x: &a {ENTRY}\nrates: [*a]\n", "cannot be edited"),
        ("rates: [null]\n", "a list of mappings"),
    ],
)
def test_a_file_that_cannot_be_edited_stays(tmp_path: Path, own: str, message: str) -> None:
    """An alias is an entry written elsewhere, perhaps for something else as well."""
    file = tmp_path / "rates.yaml"
    file.write_text(own)
    with pytest.raises(ConfigError, match=message):
        merge([rate(1e-05)], file)
    assert (file.read_text(), [path.name for path in tmp_path.iterdir()]) == (own, ["rates.yaml"])


def test_a_sweep_on_reported_items_may_not_choose(tmp_path: Path) -> None:
    """The items that choose a rate must not be the reported ones."""
    experiment = ExperimentWriter(tmp_path / "x")
    experiment.write_config("a", {"evaluation": {"items": "report"}})
    with pytest.raises(RecordError, match="select items"):
        require_select(experiment)
