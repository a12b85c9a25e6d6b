"""Live models as sides, measured and stored by the code of volume 0.

A model becomes the configuration of a run without targets, whose probe suites are the ones asked
for. That run is prepared and its volume 0 measured; it is never trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.config import composition, paths
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, RecordError, explain
from harness.core.progress import Progress
from harness.evaluation import suites
from harness.evaluation.suites import Suite
from harness.external.adapted import AdaptedModel, adapter_of, base_for
from harness.external.sides import Measured, Side
from harness.records.schema import Measurement
from harness.run import baseline, preparation
from harness.run.preparation import Prepared

NAME = "compare"
"""The folder of results in which measurements are stored; repeating a comparison reuses them."""

OWN_KEYS = {"model", "model.name", "target_suites", "probe_suites", "experiment"}
"""Keys that BEFORE, AFTER and --suites set."""


def suite_names(given: str | None) -> list[str]:
    """Return the suites that both models are measured on.

    Args:
        given: their names with commas, as typed.

    Raises:
        ConfigError: if there are none, or one that cannot be measured on a model without a run.
    """
    names = list(dict.fromkeys(name.strip() for name in (given or "").split(",") if name.strip()))
    if not names:
        known = ", ".join(name for name in paths.members("benchmarks/suites") if _needs_no_run(suites.load(name)))
        fix = "--suites commonsense,blimp, or others on which the model may have lost (`harness list suites`)"
        raise ConfigError(explain("compare: --suites", got="no suites for two models", allowed=known, fix=fix))
    for name in names:
        suite = suites.load(name)
        if not _needs_no_run(suite):
            got = f"a suite of kind {suite.kind} on data={suite.data}"
            fix = "choose a suite of tasks, or one with a data set of its own"
            allowed = "a suite that needs neither a base model nor a run's own rows"
            raise ConfigError(explain(f"compare: --suites {name}", got=got, allowed=allowed, fix=fix))
    return names


def _needs_no_run(suite: Suite) -> bool:
    """Return whether a suite needs neither a base model nor a run's own rows."""
    return suite.kind != "divergence" and suite.data not in {"target", "anchor"}


def measure(before: str, after: str, names: Sequence[str], overrides: Sequence[str], progress: Progress) -> tuple[Side, Side, list[str]]:
    """Measure two models on suites; measurements that exist are reused.

    Args:
        before: a folder, a name of the hub or of ``conf/model``, or a folder with a PEFT adapter.
        after: likewise; an adapter whose base does not exist is loaded onto ``before``, with a
            note.
        names: of the suites.
        overrides: of both models, such as ``evaluation.prompt_format=chat``.
        progress: receives the stages.

    Returns:
        Both sides, and notes for the reader.

    Raises:
        HarnessError: if a model cannot be loaded or measured.
    """
    _check_overrides(overrides)
    first, first_notes = _config(before, names, overrides, fallback=None)
    second, second_notes = _config(after, names, overrides, fallback=before)
    runs = preparation.prepare_all([first, second], progress)  # both, so that errors come before the first measurement
    notes = [*first_notes, *second_notes, *_differences(*runs)]
    for run, when in zip(runs, ("before", "after"), strict=True):
        baseline.measure(run, progress, when=when)
    return _side(before, runs[0], names), _side(after, runs[1], names), notes


def _check_overrides(overrides: Sequence[str]) -> None:
    """Reject overrides of keys that the command line sets. Raises ConfigError."""
    for text in overrides:
        key = text.split("=", 1)[0].lstrip("+~")
        if key in OWN_KEYS:
            fix = "use BEFORE, AFTER and --suites"
            raise ConfigError(
                explain(f"compare: {key}", got=repr(text), allowed="other keys, such as evaluation.*, results, data", fix=fix)
            )


def _config(source: str, names: Sequence[str], overrides: Sequence[str], fallback: str | None) -> tuple[RunConfig, list[str]]:
    """Return the configuration that measures a model, and notes for the reader."""
    adapter = adapter_of(source)
    base, notes = (source, []) if adapter is None else base_for(source, adapter, fallback)
    chosen = [f"model={base}"] if base in paths.members("conf/model") else ["model=hf", f"model.name={_quoted(base)}"]
    asked = [*chosen, f"name={NAME}", "target_suites=[]", f"probe_suites=[{','.join(names)}]"]
    config = composition.compose([*asked, *overrides])
    if adapter is not None:
        labels = dataclasses.replace(config.labels, model=f"{source} on {base}")
        config = dataclasses.replace(config, model=AdaptedModel(base=config.model, adapter=adapter), labels=labels)
    return config, notes


def _quoted(text: str) -> str:
    """Return a text as a quoted value of Hydra's override grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if "'" in text else text
    return f"'{escaped}'"


def _differences(before: Prepared, after: Prepared) -> list[str]:
    """Return notes on differences of the models that affect scores of equal texts."""
    one, other = (run.workspace.tokenizer_content_of(run.config) for run in (before, after))
    notes = []
    if one != other:
        notes.append("the tokenizers (or their chat templates) differ: prompts are compared as text, likelihoods are of other tokens")
    lengths = [run.facts.context_length for run in (before, after)]
    if lengths[0] != lengths[1]:
        notes.append(f"context of {lengths[0]} tokens before, {lengths[1]} after: long prompts are cut in different places")
    return notes


def _side(source: str, run: Prepared, names: Sequence[str]) -> Side:
    """Return the side of a model whose volume 0 is measured."""
    found = {name: _measurement(run, name) for name in names}
    ids, weights = run.evaluation_ids, run.before_sha256
    samples = {name: run.experiment.measurement_samples(ids[name], weights) for name in names}
    measured = {name: Measured(scores=one.scores, samples=samples[name]) for name, one in found.items()}
    return Side(source=source, model=run.config.labels.model, suites=measured, content=weights)


def _measurement(run: Prepared, suite: str) -> Measurement:
    """Return the measurement of a suite.

    Raises RecordError if there is none, or if a task of it failed.
    """
    found = run.experiment.measurement(run.evaluation_ids[suite], run.before_sha256)
    where, fix = f"{run.config.labels.model}, suite {suite}", "run the same command again"
    if found is None:
        raise RecordError(explain(where, got="no measurement", allowed="a complete measurement", fix=fix))
    for score in found.scores:
        if score.status == "failed" and score.primary:
            got = f"a failed measurement ({score.reason})"
            raise RecordError(explain(f"{where}, task {score.task}", got=got, allowed="a complete measurement", fix=fix))
    return found
