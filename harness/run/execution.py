"""Execution of a run: the only module that knows the order of its steps.

    prepare   check configuration, data and suites, and compute the run id (harness.run.preparation)
    inspect   build suites and encode rows; nothing is loaded or written
    execute   load, measure volume 0, generate rows, train, measure each volume, record
    measure_point   measure the checkpoint of one volume, where that is left to any worker

A run that was interrupted, or gets a larger volume, resumes from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from harness.core.progress import Progress, Silent
from harness.data import subsets
from harness.models.loading import StartWeights
from harness.records import provenance
from harness.run import baseline, kept, settling
from harness.run.baseline import Before, Once, by_itself
from harness.run.generated import binding
from harness.run.generated.data import Data, Generation, in_words, target_nats
from harness.run.notes import notes
from harness.run.outstanding import Outstanding, is_done, is_recorded, is_trained, outstanding
from harness.run.points import Points
from harness.run.preparation import Prepared
from harness.run.recording import Recorder
from harness.run.selection import Selection
from harness.run.steps import Steps, steps_of
from harness.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.config.run_config import Training
    from harness.training.job import Job, Stop

__all__ = ["Once", "Outcome", "execute", "inspect", "measure_baselines"]

LARGE_STATE_PARAMS = 1_000_000_000
"""From this size on the default is to keep no checkpoint of a finished run, which has 12 bytes a
trained parameter."""

Outcome = Literal["done", "already done", "measured in part"]


def inspect(prepared: Prepared) -> list[str]:
    """Check the content of suites and rows; no model is loaded, and nothing is written.

    Returns:
        One line on each thing about rows, template and suites that a user should know.

    Raises:
        HarnessError: if a suite cannot be built, has too few items, or a row has nothing to learn.
    """
    _selection(prepared, Before(prepared, Silent(), by_itself))
    return notes(prepared, steps_of(prepared, _gold(prepared), mixed=not Generation(prepared).is_needed))


def execute(prepared: Prepared, progress: Progress, once: Once = by_itself) -> Outcome:
    """Do the missing work of a run: train, measure each volume, write the record.

    Each point is written when it is reached. A complete run loads no model.

    Args:
        prepared: the run.
        progress: told of stages and steps. If it raises Interrupted, a checkpoint is saved, from
            which a later call resumes.
        once: lets only one process measure a baseline.
    """
    if is_done(prepared):
        settling.settle(prepared, progress)
        return "already done"
    missing = outstanding(prepared)

    # Checks that need no model.
    before = Before(prepared, progress, once)
    selection = _selection(prepared, before)
    generation = Generation(prepared)
    steps = steps_of(prepared, _gold(prepared), mixed=not generation.is_needed)
    recorder = Recorder(prepared, before, progress)
    provenance.reset_peak_memory()
    recorder.begin()
    trained = not missing.train and is_recorded(prepared)
    progress.say(_opening(prepared, steps, missing, trained=trained))

    # Weights on disk, which lack only measurements.
    if trained or (missing.measure and not prepared.resolved.separate):
        before.measure(None)
    if not prepared.resolved.separate:
        kept.measure(prepared, before, missing.measure)
    if trained:
        settling.settle(prepared, progress)
        return _ending(prepared)

    # Volume 0.
    model = before.load()
    recorder.write_start()
    before.measure(model if prepared.reference is None else None)
    base = StartWeights(prepared.config.model)
    before.use_base_weights(base)

    # Generated rows, which replace the gold rows or the anchor.
    if generation.is_needed:
        steps = _with_generated_rows(generation, model, recorder, progress)
    likelihood = target_nats(prepared, steps.data, model)

    # Training, with a point at each stop.
    from harness.training.trajectory import Trajectory

    points = Points(prepared, before, selection, base)

    def on_stop(stop: Stop, live: PreTrainedModel) -> None:
        if not recorder.is_complete(stop.volume):
            point = recorder.point(stop, steps, points.weight_change(live), live)
            prepared.experiment.write_point(points.measure(point, live))

    job = _job(prepared, steps, before.tokenizer)
    name = f"{prepared.config.labels.model} {prepared.config.labels.tuning}"
    trajectory = Trajectory(job, model, base, reload=before.load, is_complete=recorder.is_complete, progress=progress, name=name)
    del model  # the trajectory must hold the only reference: it frees the model if memory runs out
    trajectory.run(on_stop)

    # The record, which marks the run as done.
    recorder.write_record(trajectory.model, trajectory.micro_batch_rows, steps, likelihood)
    _keep_checkpoint(prepared, job.checkpoints)
    return _ending(prepared)


def measure_point(prepared: Prepared, volume: int, progress: Progress) -> Outcome:
    """Measure a point on its weights on disk, which are then deleted unless they are kept.

    Args:
        prepared: the run, which trained to this volume.
        volume: of the point.
        progress: told of stages and items.
    """
    provenance.reset_peak_memory()
    kept.measure(prepared, Before(prepared, progress, by_itself), [volume])
    settling.settle(prepared, progress)
    lacking = prepared.experiment.unmeasured(prepared.run_id, volume, prepared.evaluation_ids)
    return "measured in part" if lacking else "done"


def _ending(prepared: Prepared) -> Outcome:
    """Return how a run ended; points that others measure do not count."""
    finished = is_trained(prepared) if prepared.resolved.separate else is_done(prepared)
    return "done" if finished else "measured in part"


def measure_baselines(prepared: Prepared, progress: Progress, once: Once = by_itself) -> None:
    """Measure the missing baselines of a run, without training."""
    baseline.measure(prepared, progress, once)


def _gold(prepared: Prepared) -> Data:
    """Return the run's rows as they are in its data sets."""
    return Data(target=prepared.rows, anchor=prepared.anchor)


def _selection(prepared: Prepared, before: Before) -> Selection | None:
    return Selection(prepared, before) if prepared.needs_selection else None


def _opening(prepared: Prepared, steps: Steps, missing: Outstanding, *, trained: bool) -> str:
    """Return a line on the work of a run."""
    labels = prepared.config.labels
    methods = f"{labels.model}, {labels.tuning}, {labels.objective}, {labels.mitigation}"
    what = f"{methods}, data {labels.data}, seed {prepared.config.seed}, volumes {prepared.volumes}"
    if trained:
        suites = dict.fromkeys((*missing.before, *(name for names in missing.measure.values() for name in names)))
        return f"run {prepared.run_id}: {what}: trained before, measured on {', '.join(suites) or 'nothing new'}"
    rows = sum(len(examples) for examples in steps.examples)
    return f"run {prepared.run_id}: {what}, {rows} rows in {len(steps.examples)} steps"


def _with_generated_rows(generation: Generation, model: PreTrainedModel, recorder: Recorder, progress: Progress) -> Steps:
    """Return the steps with generated rows; if recorded points used other rows, restart the run."""
    prepared = generation.prepared
    steps = steps_of(prepared, generation.data(lambda: model, progress))
    progress.say(f"run {prepared.run_id}: generated rows: {in_words(steps.data.statistics)}")
    binding.bind(prepared, steps.data, recorder.restart, progress)
    return steps


def _job(prepared: Prepared, steps: Steps, tokenizer: PreTrainedTokenizerBase) -> Job:
    from harness.training.job import Job

    config, largest = prepared.config, prepared.volumes[-1]
    rows_per_step = config.training.batch_rows
    # Recorded volumes stay stops: the loss of a point is a mean since the previous stop.
    recorded = [volume for volume in prepared.experiment.volumes(prepared.run_id) if volume < largest]
    stops = {volume // rows_per_step * config.training.epochs: volume for volume in [*recorded, *prepared.volumes]}
    return Job(
        model=config.model,
        tuning=config.tuning,
        objective=config.objective,
        mitigation=config.mitigation,
        training=_training(prepared),
        resolved=prepared.resolved,
        seed=config.seed,
        steps=steps.examples,
        anchor=steps.anchor,
        stops=stops,
        pad_id=_pad_id(tokenizer),
        checkpoints=Checkpoints(prepared.experiment, prepared.run_id),
        restarts=subsets.restarts(config.data, rows_per_step),
    )


def _training(prepared: Prepared) -> Training:
    """Return training settings, with micro-batches where whole steps do not fit into the GPU."""
    training, rows = prepared.config.training, prepared.resolved.micro_batch_rows
    whole = math.ceil(training.batch_rows / prepared.resolved.processes)
    return training if rows == whole else dataclasses.replace(training, micro_batch_rows=rows)


def _keep_checkpoint(prepared: Prepared, checkpoints: Checkpoints) -> None:
    """Keep only the last checkpoint, or none, by ``keep_state`` or the model's size."""
    last, asked = max(prepared.experiment.states(prepared.run_id), default=None), prepared.config.keep_state
    keeps = prepared.facts.params_total < LARGE_STATE_PARAMS if asked is None else asked
    checkpoints.keep_only(last if keeps else None)


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad with: without one, any id, because padding is masked."""
    pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    return pad_id
