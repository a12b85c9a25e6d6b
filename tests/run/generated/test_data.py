"""The rows of a run that models write: cached, grown, resumed, recorded, shown."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition, paths
from harness.core.contexts import GeneratedRow
from harness.core.errors import DataError
from harness.core.progress import Interrupted, Silent
from harness.core.rows import Row, Turn
from harness.methods.rewriting import gold
from harness.models import author, generate
from harness.records.schema import Point, Record
from harness.run import execution, preparation
from harness.run.generated import data, show
from harness.run.generated.data import Data, Writing
from harness.run.generated.store import Store
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace
from tests.support.scripted import row

FIXED = ["model=nursery-smoke-a", "data=tinyworld-skill", "target_suites=[]", "probe_suites=[small]", "training.threads=1"]
SMALL = "kind: lm_eval\ntasks: [tinyworld_arithmetic]\nmetric: acc\nreport: 8\n"
OWN = ["mitigation=self_output", "mitigation.max_new_tokens=4", "mitigation.samples=2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, a suite of one task, and a cache that has the nursery's models and nothing written."""
    kept = paths.cache()
    composition.member("model", "nursery-smoke-a").load()
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("nursery", "sizes.json", "hashes.json"):
        if (kept / name).exists():
            (cache / name).symlink_to(kept / name)
    suites = tmp_path / "own" / "benchmarks" / "suites"
    suites.mkdir(parents=True)
    (suites / "small.yaml").write_text(SMALL)
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each call of the author's draw has continued."""
    counts: list[int] = []
    plain = generate.draw

    def counting(*arguments: Any, **settings: Any) -> Any:
        counts.append(len(arguments[2]))
        return plain(*arguments, **settings)

    monkeypatch.setattr(author, "draw", counting)
    return counts


def prepared(*overrides: str, volumes: str = "[8]", name: str = "a", workspace: Workspace | None = None) -> Prepared:
    return preparation.prepare(
        composition.compose([*FIXED, f"data.volumes={volumes}", f"name={name}", *overrides]), workspace or Workspace()
    )


def generated(made: Data, volume: int) -> int:
    return sum(one.generated_tokens for one in made.paid(volume))


def record_of(run_of: Prepared) -> Record:
    found = run_of.experiment.record(run_of.run_id)
    assert found is not None
    return found


def points_of(run_of: Prepared) -> dict[int, Point]:
    """The points, but for what differs from try to try."""
    same: dict[str, Any] = {"wall_seconds": 0.0, "evaluation_seconds": 0.0, "peak_memory_bytes": 0, "evaluation_facts": {}}
    found = {volume: run_of.experiment.point(run_of.run_id, volume) for volume in run_of.experiment.volumes(run_of.run_id)}
    return {volume: dataclasses.replace(point, **same) for volume, point in found.items() if point}


class Stopping(Silent):
    """Interrupts writing after the first chunk."""

    def stage(self, name: str, total: int) -> None:
        self.is_writing = name.startswith("write")

    def advance(self, units: int = 1) -> None:
        if self.is_writing and units:
            raise Interrupted


def test_what_was_written_is_recorded_kept_and_grown(drawn: list[int]) -> None:
    """A larger volume writes only the rows that are new; what stood stays.

    Costs count what was written for a volume's rows.
    """
    small = prepared(*OWN)
    execution.inspect(small)
    assert drawn == []  # a look at the data writes nothing
    assert execution.execute(small, Silent()) == "done"
    first = sum(drawn)
    assert drawn[0] == 8
    large = prepared(*OWN, volumes="[8,16]")
    assert large.run_id == small.run_id
    before = points_of(small)
    assert execution.execute(large, Silent()) == "done"
    assert drawn[0] == 8
    assert sum(drawn) > first
    rows = Writing(large).data(None, Silent())
    known = [one.generated_tokens for one in rows.became]
    points = points_of(large)
    assert points[8] == before[8]
    assert (points[8].generated_tokens, points[16].generated_tokens) == (sum(known[:8]), sum(known))
    assert points[16].extra_tokens == 0
    writing = record_of(large).writing
    accepted = sum(one.accepted for one in rows.became)
    assert (writing["rows"], writing["accepted"], writing["acceptance"]) == (16, accepted, accepted / 16)
    assert writing["how"] == {word: n for word, n in (("gold", 16 - accepted), ("own", accepted)) if n}
    assert writing["generated_tokens"] == sum(known)
    assert 0 < writing["target_nats"] < 10
    count = len(drawn)
    assert execution.execute(prepared(*OWN, volumes="[16]", name="b"), Silent()) == "done"  # another experiment, the same rows
    assert len(drawn) == count


def test_writing_goes_on_where_it_was_interrupted(drawn: list[int], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole chunks are kept.

    The rows, and so the points, are those of a run that was not interrupted.
    """
    monkeypatch.setattr(data, "CHUNK", 4)
    method = ["mitigation=paraphrase", "mitigation.template='{prompt} {answer}'", "mitigation.max_new_tokens=4"]
    broken = prepared(*method)
    with pytest.raises(Interrupted):
        execution.execute(broken, Stopping())
    assert drawn == [4]
    assert execution.execute(broken, Silent()) == "done"
    assert sum(drawn) == 8
    shutil.rmtree(here / "cache" / "written")
    whole = prepared(*method, name="b")
    execution.execute(whole, Silent())
    assert sum(drawn) == 16
    assert points_of(whole) == points_of(broken)
    assert record_of(whole).writing == record_of(broken).writing


def test_rejection_sampling_fills_volumes_with_accepted_rows() -> None:
    """Every row that is trained on has a right answer.

    A smaller volume is the beginning of a larger one; what was thrown away counts.
    """
    settings = ["objective=rft", "objective.max_new_tokens=4"]
    runs = [prepared(*settings, volumes=volumes) for volumes in ("[8]", "[8,16]")]
    small = Writing(runs[0]).data(runs[0].config.model.load, Silent())
    everything = sum(one.generated_tokens for one in Store(data.recipe(runs[0], runs[0].config.objective)).read().values())
    large = Writing(runs[1]).data(runs[1].config.model.load, Silent())
    assert list(large.target[:8]) == list(small.target)
    kept = [(row, one.row) for row, one in zip(large.gold, large.became, strict=True) if one.row is not None]
    assert len(kept) == len(large.target) == 16 < len(large.gold)
    assert all(gold(row) == gold(made) for row, made in kept)
    assert large.became[-1].accepted
    behind = sum(one.generated_tokens for one in small.spare)
    assert behind > 0  # rows behind the last one that was needed: written with it, so paid for
    assert generated(large, 8) == generated(small, 8) - behind < generated(large, 16)
    assert generated(small, 8) == small.facts["generated_tokens"] == everything
    assert generated(large, 16) == large.facts["generated_tokens"]
    assert large.facts["acceptance"] == 16 / len(large.gold)


def test_too_few_right_answers_are_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, and the largest volume that would do."""
    right, wrong = (lambda one: GeneratedRow(one, True, "own", 1)), GeneratedRow(None, False, "none", 1)
    monkeypatch.setattr(data._Desk, "targets", lambda _, rows: [right(one) if i < 20 else wrong for i, one in enumerate(rows)])
    with pytest.raises(DataError) as error:
        Writing(prepared("objective=rft", volumes="[64]")).data(None, Silent())
    assert "got 64, and 20 of the 3240 rows of data=tinyworld-skill accepted (3220 none); allowed: at most 20" in str(error.value)
    assert "fix: data.volumes=[16]" in str(error.value)


def test_rehearsal_written_by_the_start_model_is_trained_on(drawn: list[int]) -> None:
    """A quarter of eight target rows; a longer run draws the further ones alone."""
    method = ["mitigation=pseudo_replay", "mitigation.fraction=0.25", "mitigation.max_new_tokens=12"]
    one = prepared(*method)
    execution.execute(one, Silent())
    assert sum(drawn) == 2
    (point,) = points_of(one).values()
    assert (point.target_rows, point.anchor_rows) == (8, 2)
    assert point.anchor_tokens > 0
    writing = record_of(one).writing
    assert (writing["rows"], writing["how"], writing["generated_tokens"]) == (2, {"text": 2}, point.generated_tokens)
    more = Writing(prepared(*method, volumes="[16]")).data(one.config.model.load, Silent())
    assert sum(drawn) == 4
    assert [generated(more, 8), more.due(16)] == [point.generated_tokens, 4]


def test_a_plain_run_says_how_likely_its_targets_were() -> None:
    """Nothing else, since nothing was written.

    The untreated rows of a remedy are the plain run's, and cost nothing.
    """
    plain = prepared(volumes="[8]")
    execution.execute(plain, Silent())
    assert set(record_of(plain).writing) == {"target_nats"}
    (point,) = points_of(plain).values()
    assert (point.generated_tokens, point.extra_tokens) == (0, 0)
    off = prepared(*OWN, "mitigation.fraction=0.0")
    execution.execute(off, Silent())
    (other,) = points_of(off).values()
    assert dataclasses.replace(other, run_id=point.run_id) == point


def test_recipes_tell_apart_what_decides_the_text_and_nothing_else() -> None:
    """Not the volume, nor the share of rows; the seed only where there is chance."""
    shared = Workspace()
    other = lambda *settings: data.recipe(one := prepared(*OWN, *settings, workspace=shared), one.config.mitigation)  # noqa: E731
    first = other()
    assert other("mitigation.fraction=0.5", "data.volumes=[16]", "training.learning_rate=0.1", "tuning=lora") == first
    for change in ("seed=1", "mitigation.samples=3", "mitigation.temperature=0.5", "model=nursery-smoke-b", "training.max_length=32"):
        assert other(change) != first
    greedy = [data.recipe(one := prepared("mitigation=sdft", f"seed={seed}", workspace=shared), one.config.mitigation) for seed in (0, 1)]
    assert greedy[0] == greedy[1]


def test_epochs_repeat_rows_and_costs_do_not() -> None:
    """A row that comes up twice was written once; rows left out count until enough are accepted."""
    rows = [row(f"q{i}", "a") for i in range(3)]
    became = [GeneratedRow(one, True, "own", 10**i) for i, one in enumerate(rows[:2])] + [GeneratedRow(None, False, "none", 100)]
    made = Data(target=rows[:2], anchor=[], gold=[*rows, rows[0]], became=[*became, became[0]])
    assert [generated(made, volume) for volume in (1, 2, 3)] == [1, 11, 111]
    spare = Data(target=rows[:2], anchor=[], gold=rows[:2], became=became[:2], spare=[GeneratedRow(None, False, "none", 7, read_tokens=5)])
    assert [generated(spare, volume) for volume in (1, 2)] == [1, 11 + 7]
    assert [sum(one.read_tokens for one in spare.paid(volume)) for volume in (1, 2)] == [0, 5]


def test_rows_are_shown_beside_the_gold_ones(drawn: list[int]) -> None:
    """Only what is there, unless it is to be written.

    Then also how likely the start model finds the targets.
    """
    config = composition.compose([*FIXED, "data.volumes=[8]", *OWN[1:], "mitigation=minimum_change", "mitigation.check=last_number"])
    with pytest.raises(DataError, match="got 8 rows or more that are not written yet; fix: --write"):
        show.shown(config, 3, Silent(), write=False)
    assert drawn == []
    text = show.shown(config, 3, Silent(), write=True)
    assert text.count("\nrow ") == 3
    assert "\nrow 1 of 8 (" in text
    for part in (
        "of 8 rows accepted (",
        "; edit rate ",
        "target nats: ",
        "  prompt:   '",
        "  gold:     ' ",
        "  trained:  ' ",
        "  tried:    ",
    ):
        assert part in text
    count = len(drawn)
    again = show.shown(config, 3, Silent(), write=False)
    assert len(drawn) == count
    assert "not measured; --write" in again
    assert again.splitlines()[3:] == text.splitlines()[3:]
    plain = show.shown(composition.compose([*FIXED, "data.volumes=[8]"]), 1, Silent(), write=False)
    assert "no model writes anything for this run" in plain


def test_both_answers_of_a_written_pair_are_shown() -> None:
    """What is to be preferred is told from what is not; the edit rate is that of the better one."""
    gold_row, pair = row("q", "4"), Row((*row("q", "it is 4").turns, Turn("rejected", "5")), "preference")
    lines = show._row(gold_row, GeneratedRow(pair, True, "own", 3))
    assert lines[2:] == ["  better:   ' it is 4'   (edit rate from gold 0.67)", "  worse:    '5'"]
