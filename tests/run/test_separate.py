"""Points measured from checkpoints, by any worker: the records of a run that measures inline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.analysis.table.frame import table
from harness.core.errors import RecordError
from harness.core.progress import Silent
from harness.records.schema import Failure, Score
from harness.run import execution
from harness.run.outstanding import is_done, outstanding
from harness.run.preparation import Prepared
from tests.support.small_runs import Runs, scores_of, without_time

SEPARATE = ("evaluation.where=separate", "probe_suites=[probe,loss,drift]")
INLINE = ("evaluation.where=inline", "probe_suites=[probe,loss,drift]")


def weights(prepared: Prepared) -> dict[str, list[str]]:
    """Return the volumes whose weights are kept, and those whose weights wait to be measured."""
    folder = prepared.experiment.run_folder(prepared.run_id)
    return {name: sorted(path.name for path in (folder / name).glob("*")) for name in ("weights", "unmeasured")}


KEPT, WAITING = {"weights": ["16"], "unmeasured": []}, {"weights": ["16"], "unmeasured": ["8"]}


def measure_all(prepared: Prepared) -> None:
    """Measure each volume as a worker of its own would."""
    for volume in outstanding(prepared).measure:
        assert execution.measure_point(prepared, volume, Silent()) == "done"


@pytest.mark.parametrize("method", [("tuning=full",), ("tuning=lora",), ("tuning=full", "mitigation=l2")])
def test_both_ways_write_the_same_records(runs: Runs, method: tuple[str, ...]) -> None:
    """In float32 the scores are equal, within the rounding that volume 0 shows.

    Training measures nothing; checkpoints are deleted once they are measured, except the last.
    """
    runs(*method, *INLINE, name="inline")
    inline = runs.prepared
    expected = {volume: (without_time(runs.point(volume)), runs.scores(volume)) for volume in (8, 16)}
    assert runs(*method, *SEPARATE, name="separate") == "done"
    one = runs.prepared
    assert (one.run_id, one.evaluation_ids, runs.trained) == (inline.run_id, inline.evaluation_ids, 2)
    assert (weights(one), is_done(one), len(runs.evaluated)) == (WAITING, False, 2 * 3)  # volume 0 alone
    record = one.experiment.record(one.run_id)
    assert record
    assert record.incomplete == (8, 16)
    measure_all(one)
    assert (is_done(one), weights(one)) == (True, KEPT)
    for volume, (point, scores) in expected.items():
        assert without_time(runs.point(volume)) == point
        for ours, theirs in zip(scores_of(one, runs.point(volume)), scores, strict=True):
            spread = max(
                (score.numeric_spread or 0.0 for score in before(one) if (score.suite, score.task) == (ours.suite, ours.task)), default=0
            )
            assert ours.value == pytest.approx(theirs.value, abs=max(spread, 1e-6)), ours
            assert dataclasses.replace(ours, value=None, stderr=None) == dataclasses.replace(theirs, value=None, stderr=None)
    fields = ("evaluations", "before_sha256", "incomplete", "overlap", "volumes", "roles")
    records = [found.experiment.record(found.run_id) for found in (inline, one)]
    assert [getattr(records[0], name) for name in fields] == [getattr(records[1], name) for name in fields]
    assert runs(*method, *SEPARATE, name="separate") == "already done"


def before(prepared: Prepared) -> list[Score]:
    found = [prepared.experiment.measurement(one, prepared.before_sha256) for one in prepared.evaluation_ids.values()]
    return [score for one in found if one for score in one.scores]


def test_a_checkpoint_is_measured_as_the_live_weights_would_be(runs: Runs) -> None:
    """In bfloat16 too: the checkpoint is not rounded, as volume 0 and kept weights are not."""
    half = ("evaluation.dtype=bfloat16", "training.dtype=bfloat16")
    runs(*INLINE, *half, name="inline")
    expected = {volume: runs.scores(volume) for volume in (8, 16)}
    runs(*SEPARATE, *half)
    measure_all(runs.prepared)
    assert {volume: runs.scores(volume) for volume in (8, 16)} == expected


def test_other_weights_are_never_measured_as_a_run_s(runs: Runs) -> None:
    """The folder of a checkpoint holds another model: it is rejected, and nothing is written."""
    import shutil

    runs(*SEPARATE)
    one = runs.prepared
    folder = one.experiment.unmeasured_weights(one.run_id, 8)
    shutil.copy("models/chat/model.safetensors", folder / "model.safetensors")
    with pytest.raises(RecordError, match="weights at volume 8: got other weights than were trained; .*fix: delete"):
        execution.measure_point(one, 8, Silent())
    assert one.experiment.unmeasured(one.run_id, 8, one.evaluation_ids) == tuple(one.evaluation_ids)


def test_weights_that_are_kept_stay_if_another_command_keeps_fewer(runs: Runs) -> None:
    """Only what was saved to be measured is removed."""
    runs(*SEPARATE, "save_weights=all")
    measure_all(runs.prepared)
    later = (*SEPARATE[:1], "probe_suites=[probe,loss]", "save_weights=last")
    measure_all(runs.prepare(*later))
    assert weights(runs.prepared) == {"weights": ["16", "8"], "unmeasured": []}


def test_runs_with_equal_weights_share_measurements_and_both_end(runs: Runs) -> None:
    """A mitigation that is switched off has the weights of none; its checkpoints go too."""
    runs(*SEPARATE)
    first = runs.prepared
    runs(*SEPARATE, "mitigation=l2", "mitigation.weight=0")
    second = runs.prepared
    assert first.run_id != second.run_id
    measure_all(first)
    assert (is_done(first), is_done(second)) == (True, False)
    assert set(table(second.experiment).query("run_id == @second.run_id")["volume"]) == {0, 8, 16}
    assert runs(*SEPARATE, "mitigation=l2", "mitigation.weight=0") == "done"
    measure_all(second)
    assert (is_done(second), weights(second)) == (True, KEPT)
    record = second.experiment.record(second.run_id)
    assert record
    assert record.incomplete == ()


@pytest.mark.parametrize("method", [("mitigation=early_stop",), ("mitigation=merge", "mitigation.grid=[0.5,1.0]")])
def test_what_reads_scores_is_measured_inline(runs: Runs, method: tuple[str, ...]) -> None:
    """Early stop and a choice of coefficients need scores while training runs."""
    assert not runs.prepare(*method, "evaluation.where=separate").resolved.separate
    assert runs.prepare("evaluation.where=separate").resolved.separate
    assert not runs.prepare().resolved.separate  # small


def test_a_lost_checkpoint_is_trained_for_again(runs: Runs) -> None:
    """What was measured stays."""
    import shutil

    runs(*SEPARATE)
    one = runs.prepared
    execution.measure_point(one, 16, Silent())
    shutil.rmtree(one.experiment.run_folder(one.run_id) / "unmeasured" / "8")
    assert outstanding(one).train == (8,)
    assert runs(*SEPARATE) == "done"
    assert (runs.trained, weights(one)) == (2, WAITING)
    measure_all(one)
    assert (is_done(one), weights(one)) == (True, KEPT)


def test_a_measurement_keeps_the_failure_of_its_run(runs: Runs) -> None:
    """Training failed after the first volume: what it reached is measured, its failure stays."""
    runs(*SEPARATE)
    one = runs.prepared
    (one.experiment.run_folder(one.run_id) / "record.json").unlink()
    failure = Failure(run_id=one.run_id, experiment="a", labels={}, config={}, reason="no luck", traceback="", tries=2)
    one.experiment.write_failure(failure)
    assert execution.measure_point(one, 8, Silent()) == "done"
    assert one.experiment.failure(one.run_id) == failure


def test_an_interrupted_measurement_resumes(runs: Runs) -> None:
    """Finished tasks are not asked again."""
    runs(*SEPARATE)
    one = runs.prepared
    runs.evaluated.clear()
    runs.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        execution.measure_point(one, 8, Silent())
    assert weights(one) == WAITING
    runs.stop_at = 0
    assert execution.measure_point(one, 8, Silent()) == "done"
    assert len(runs.evaluated) == 1 + 3
    assert not list(Path("results").rglob("finished.json"))
    assert weights(one) == KEPT
