"""Generated rows of a run: cached, extended, resumed, recorded, shown."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.table.frame import table
from harness.config import composition, paths
from harness.config.identity import recorded
from harness.core.contexts import GeneratedRow
from harness.core.errors import DataError
from harness.core.progress import Interrupted, Silent
from harness.core.rows import Row, Turn
from harness.methods.rewriting import gold
from harness.models import author, generate
from harness.records.schema import Point, Record
from harness.report.tables import summary
from harness.run import execution, preparation
from harness.run.generated import data, show
from harness.run.generated.data import Data, Generation
from harness.run.generated.store import Store
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace
from harness.sweep.plan.planning import as_text, plan_sweep
from tests.support.scripted import row
from tests.support.small_runs import without_time

FIXED = ["model=nursery-smoke-a", "data=tinyworld-skill", "target_suites=[]", "probe_suites=[small]", "training.threads=1"]
SMALL = "kind: lm_eval\ntasks: [tinyworld_arithmetic]\nmetric: acc\nreport: 8\n"
OWN = ["mitigation=self_output", "mitigation.max_new_tokens=4", "mitigation.samples=2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, a suite of one task, and a cache with nursery models only."""
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
    """Number of prompts in each call of the author's draw."""
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
    return sum(one.generated_tokens for one in made.generated_up_to(volume))


def record_of(run_of: Prepared) -> Record:
    found = run_of.experiment.record(run_of.run_id)
    assert found is not None
    return found


def points_of(run_of: Prepared) -> dict[int, Point]:
    """The points without the fields that differ between executions."""
    found = {volume: run_of.experiment.point(run_of.run_id, volume) for volume in run_of.experiment.volumes(run_of.run_id)}
    return {volume: without_time(point) for volume, point in found.items() if point}


class Stopping(Silent):
    """Interrupts generation after the first chunk."""

    def stage(self, name: str, total: int) -> None:
        self.is_generating = name.startswith("generate")

    def advance(self, units: int = 1) -> None:
        if self.is_generating and units:
            raise Interrupted


def test_generated_rows_are_recorded_kept_and_extended(drawn: list[int]) -> None:
    """A larger volume generates new rows only, and earlier points stay.

    Costs count the tokens generated for a volume's rows.
    """
    small = prepared(*OWN)
    execution.inspect(small)
    assert drawn == []  # inspection generates nothing
    assert execution.execute(small, Silent()) == "done"
    first = sum(drawn)
    assert drawn[0] == 8
    large = prepared(*OWN, volumes="[8,16]")
    assert large.run_id == small.run_id
    before = points_of(small)
    assert execution.execute(large, Silent()) == "done"
    assert drawn[0] == 8
    assert sum(drawn) > first
    rows = Generation(large).data(None, Silent())
    known = [one.generated_tokens for one in rows.generated]
    points = points_of(large)
    assert points[8] == before[8]
    assert (points[8].counts.generated_tokens, points[16].counts.generated_tokens) == (sum(known[:8]), sum(known))
    assert points[16].counts.read_tokens == 0
    writing = record_of(large).writing
    accepted = sum(one.accepted for one in rows.generated)
    assert (writing["rows"], writing["accepted"], writing["acceptance"]) == (16, accepted, accepted / 16)
    assert writing["how"] == {word: n for word, n in (("gold", 16 - accepted), ("own", accepted)) if n}
    assert writing["generated_tokens"] == sum(known)
    assert 0 < writing["target_nats"] < 10
    count = len(drawn)
    assert execution.execute(prepared(*OWN, volumes="[16]", name="b"), Silent()) == "done"  # another experiment, the same rows
    assert len(drawn) == count


def test_interrupted_generation_resumes(drawn: list[int], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished chunks are kept; rows and points equal those of an uninterrupted run."""
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
    """All training rows have right answers; a smaller volume is a prefix.

    Rejected answers count as costs.
    """
    settings = ["objective=rft", "objective.max_new_tokens=4"]
    runs = [prepared(*settings, volumes=volumes) for volumes in ("[8]", "[8,16]")]
    small = Generation(runs[0]).data(runs[0].config.model.load, Silent())
    everything = sum(one.generated_tokens for one in Store(data.recipe(runs[0], runs[0].config.objective)).read().values())
    large = Generation(runs[1]).data(runs[1].config.model.load, Silent())
    assert list(large.target[:8]) == list(small.target)
    kept = [(row, one.row) for row, one in zip(large.sources, large.generated, strict=True) if one.row is not None]
    assert len(kept) == len(large.target) == 16 < len(large.sources)
    assert all(gold(row) == gold(made) for row, made in kept)
    assert large.generated[-1].accepted
    behind = sum(one.generated_tokens for one in small.surplus)
    assert behind > 0  # rows behind the last one needed were generated with it
    assert generated(large, 8) == generated(small, 8) - behind < generated(large, 16)
    assert generated(small, 8) == small.statistics["generated_tokens"] == everything
    assert generated(large, 16) == large.statistics["generated_tokens"]
    assert large.statistics["acceptance"] == 16 / len(large.sources)


def test_too_few_right_answers_are_rejected_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the counts, and the largest volume that fits."""
    right, wrong = (lambda one: GeneratedRow(one, True, "own", 1)), GeneratedRow(None, False, "none", 1)
    monkeypatch.setattr(data._Generator, "targets", lambda _, rows: [right(one) if i < 20 else wrong for i, one in enumerate(rows)])
    with pytest.raises(DataError) as error:
        Generation(prepared("objective=rft", volumes="[64]")).data(None, Silent())
    assert "got 64, with only 20 of the 3240 rows of data=tinyworld-skill accepted (3220 none); allowed: at most 20" in str(error.value)
    assert "fix: data.volumes=[16]" in str(error.value)


def test_volumes_beyond_the_accepted_rows_are_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, table and plan say so; the run is done, and a smaller volume is not affected."""
    right, wrong = (lambda one: GeneratedRow(one, True, "own", 1)), GeneratedRow(None, False, "none", 1)
    monkeypatch.setattr(data._Generator, "targets", lambda _, rows: [right(one) if i < 20 else wrong for i, one in enumerate(rows)])
    one = prepared("objective=rft", "name=reach", volumes="[8,16,64]")
    assert one.volumes == [8, 16, 64]
    found = Generation(one).data(None, Silent())
    assert (found.reach, len(found.target)) == ((20, 3240), 16)
    assert execution.execute(one, Silent()) == "done"
    record = one.experiment.record(one.run_id)
    assert record is not None
    assert (record.volumes, record.writing["reach"], one.volumes) == ((8, 16), [20, 3240], [8, 16])
    assert execution.execute(prepared("objective=rft", "name=reach", volumes="[8,16,64]"), Silent()) == "already done"
    one.experiment.write_manifest({one.run_id: recorded(one.config)}, keep=False)
    rows = table(one.experiment)
    (left,) = rows[rows["status"] != "ok"].to_dict("records")
    assert (left["status"], left["volume"], left["reason"]) == ("not reached", 64, "20 of 64 accepted, from 3,240 rows")
    assert "not reached at 64: run" in summary(rows)
    plan = plan_sweep([*FIXED, "objective=rft", "name=reach", "data.volumes=[8,16,64]"])
    assert [(unit.state, unit.reason) for unit in plan.runs()] == [("done", "volume 64: 20 of 64 accepted, from 3,240 rows")]
    assert "not reached\n  1  volume 64: 20 of 64 accepted" in as_text(plan)


def test_an_anchor_generated_by_the_start_model_is_trained_on(drawn: list[int]) -> None:
    """Two rows for eight target rows; a larger volume generates only two more."""
    method = ["mitigation=pseudo_replay", "mitigation.fraction=0.25", "mitigation.max_new_tokens=12"]
    one = prepared(*method)
    execution.execute(one, Silent())
    assert sum(drawn) == 2
    (point,) = points_of(one).values()
    assert (point.target_rows, point.anchor_rows) == (8, 2)
    assert 0 < (point.anchor_supervised_tokens or 0) <= point.anchor_tokens
    # One step: the anchor weighs in its loss by its share of the supervised tokens.
    assert point.anchor_loss_share == (point.anchor_supervised_tokens or 0) / point.counts.supervised_tokens
    writing = record_of(one).writing
    assert (writing["rows"], writing["how"], writing["generated_tokens"]) == (2, {"text": 2}, point.counts.generated_tokens)
    more = Generation(prepared(*method, volumes="[16]")).data(one.config.model.load, Silent())
    assert sum(drawn) == 4
    assert [generated(more, 8), more.anchor_rows(16)] == [point.counts.generated_tokens, 4]


def test_a_plain_run_records_the_likelihood_of_its_targets() -> None:
    """It records nothing else about generation.

    Untreated rows of a mitigation equal those of the plain run, and cost nothing.
    """
    plain = prepared(volumes="[8]")
    execution.execute(plain, Silent())
    assert set(record_of(plain).writing) == {"target_nats"}
    (point,) = points_of(plain).values()
    assert (point.counts.generated_tokens, point.counts.read_tokens) == (0, 0)
    off = prepared(*OWN, "mitigation.fraction=0.0")
    execution.execute(off, Silent())
    (other,) = points_of(off).values()
    assert dataclasses.replace(other, run_id=point.run_id) == point


def test_recipes_differ_only_by_settings_that_decide_the_text() -> None:
    """Volume and share of rows do not count; the seed does if sampling is random."""
    shared = Workspace()
    other = lambda *settings: data.recipe(one := prepared(*OWN, *settings, workspace=shared), one.config.mitigation)  # noqa: E731
    first = other()
    assert other("mitigation.fraction=0.5", "data.volumes=[16]", "training.learning_rate=0.1", "tuning=lora") == first
    for change in ("seed=1", "mitigation.samples=3", "mitigation.temperature=0.5", "model=nursery-smoke-b", "training.max_length=32"):
        assert other(change) != first
    greedy = [data.recipe(one := prepared("mitigation=sdft", f"seed={seed}", workspace=shared), one.config.mitigation) for seed in (0, 1)]
    assert greedy[0] == greedy[1]


def test_epochs_repeat_rows_and_costs_do_not() -> None:
    """A repeated row counts once; rows left out count until enough are accepted."""
    rows = [row(f"q{i}", "a") for i in range(3)]
    outcomes = [GeneratedRow(one, True, "own", 10**i) for i, one in enumerate(rows[:2])] + [GeneratedRow(None, False, "none", 100)]
    made = Data(target=rows[:2], anchor=[], sources=[*rows, rows[0]], generated=[*outcomes, outcomes[0]])
    assert [generated(made, volume) for volume in (1, 2, 3)] == [1, 11, 111]
    surplus = [GeneratedRow(None, False, "none", 7, read_tokens=5)]
    longer = Data(target=rows[:2], anchor=[], sources=rows[:2], generated=outcomes[:2], surplus=surplus)
    assert [generated(longer, volume) for volume in (1, 2)] == [1, 11 + 7]
    assert [sum(one.read_tokens for one in longer.generated_up_to(volume)) for volume in (1, 2)] == [0, 5]


def test_rows_are_shown_next_to_the_gold_ones(drawn: list[int]) -> None:
    """Missing rows, and the likelihood of the targets, are computed on request only."""
    config = composition.compose([*FIXED, "data.volumes=[8]", *OWN[1:], "mitigation=minimum_change", "mitigation.check=last_number"])
    with pytest.raises(DataError, match="got at least 8 rows that are not generated yet; fix: --write"):
        show.shown(config, 3, Silent(), generate=False)
    assert drawn == []
    text = show.shown(config, 3, Silent(), generate=True)
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
    again = show.shown(config, 3, Silent(), generate=False)
    assert len(drawn) == count
    assert "not measured; --write" in again
    assert again.splitlines()[3:] == text.splitlines()[3:]
    plain = show.shown(composition.compose([*FIXED, "data.volumes=[8]"]), 1, Silent(), generate=False)
    assert "no rows are generated for this run" in plain


def test_both_answers_of_a_generated_pair_are_shown() -> None:
    """Better and worse answer are marked; the edit rate is the better one's."""
    gold_row, pair = row("q", "4"), Row((*row("q", "it is 4").turns, Turn("rejected", "5")), "preference")
    lines = show._row(gold_row, GeneratedRow(pair, True, "own", 3))
    assert lines[2:] == ["  better:   ' it is 4'   (edit rate from gold 0.67)", "  worse:    '5'"]
