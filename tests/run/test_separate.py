"""Points measured from checkpoints, by any worker: the records of a run that measures inline."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.core.progress import Silent
from harness.records.schema import Score
from harness.run import execution
from harness.run.outstanding import is_done, outstanding
from harness.run.preparation import Prepared
from tests.support.small_runs import Runs, scores_of, without_time

SEPARATE = ("evaluation.where=separate", "probe_suites=[probe,loss,drift]")
INLINE = ("evaluation.where=inline", "probe_suites=[probe,loss,drift]")


def weights(prepared: Prepared) -> list[str]:
    """Return the volumes whose weights are on disk."""
    return sorted(path.name for path in (prepared.experiment.run_folder(prepared.run_id) / "weights").glob("*"))


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
    assert (weights(one), is_done(one), len(runs.evaluated)) == (["16", "8"], False, 2 * 3)  # volume 0 alone
    record = one.experiment.record(one.run_id)
    assert record
    assert record.incomplete == (8, 16)
    measure_all(one)
    assert (is_done(one), weights(one)) == (True, ["16"])
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


def test_checkpoints_have_the_dtype_of_the_evaluation(runs: Runs) -> None:
    """Weights that are only measured take half the disk in bfloat16; those that are kept do not."""
    from safetensors.torch import load_file

    runs(*SEPARATE, "evaluation.dtype=bfloat16")
    folder = runs.prepared.experiment.run_folder(runs.prepared.run_id) / "weights"
    dtypes = {volume: {str(value.dtype) for value in load_file(folder / volume / "model.safetensors").values()} for volume in ("8", "16")}
    assert dtypes == {"8": {"torch.bfloat16"}, "16": {"torch.float32"}}
    measure_all(runs.prepared)
    runs(*INLINE, "evaluation.dtype=bfloat16", name="inline")
    inline = runs.scores(8)
    runs.prepare(*SEPARATE, "evaluation.dtype=bfloat16")
    loss = {score.task: score.value for score in inline if score.suite == "loss"}
    ours = {
        score.task: score.value
        for score in scores_of(runs.prepare(*SEPARATE, "evaluation.dtype=bfloat16"), runs.point(8))
        if score.suite == "loss"
    }
    assert ours == pytest.approx(loss, rel=0.01)


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
    shutil.rmtree(one.experiment.run_folder(one.run_id) / "weights" / "8")
    assert outstanding(one).train == (8,)
    assert runs(*SEPARATE) == "done"
    assert (runs.trained, weights(one)) == (2, ["16", "8"])
    measure_all(one)
    assert (is_done(one), weights(one)) == (True, ["16"])


def test_an_interrupted_measurement_resumes(runs: Runs) -> None:
    """Finished tasks are not asked again."""
    runs(*SEPARATE)
    one = runs.prepared
    runs.evaluated.clear()
    runs.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        execution.measure_point(one, 8, Silent())
    assert weights(one) == ["16", "8"]
    runs.stop_at = 0
    assert execution.measure_point(one, 8, Silent()) == "done"
    assert len(runs.evaluated) == 1 + 3
    assert not list(Path("results").rglob("finished.json"))
    assert json.loads((one.experiment.point_folder(one.run_id, 8) / "point.json").read_text())["weights"] is None
