"""Live models as sides, measured and stored by the code of volume 0.

A model becomes the configuration of a run without targets, whose probe suites are the ones asked
for. That run is prepared and its volume 0 measured; it is never trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.config import composition, paths
from harness.config.overrides import meant, quoted
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, ModelError, RecordError, explain
from harness.core.progress import Progress
from harness.evaluation import suites
from harness.evaluation.suites import Suite
from harness.external.sides import Measured, Side
from harness.models import folders, loading
from harness.models.hub import HubModel
from harness.models.vocabulary import differences
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
        known = ", ".join(name for name in paths.members("benchmarks/suites") if needs_no_run(suites.load(name)))
        fix = "--suites commonsense,blimp, or others on which the model may have lost (`harness list suites`)"
        raise ConfigError(explain("--suites", got="no suites for two models", allowed=known, fix=fix))
    for name in names:
        suite = suites.load(name)
        if not needs_no_run(suite):
            got = f"a suite of kind {suite.kind} on data={suite.data}"
            fix = "choose a suite of tasks, or one with a data set of its own"
            allowed = "a suite that needs neither a base model nor a run's own rows"
            raise ConfigError(explain(f"suite {name} of a model without a run", got=got, allowed=allowed, fix=fix))
    return names


def needs_no_run(suite: Suite) -> bool:
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
    check_overrides(overrides)
    first, first_notes = config_of(before, names, overrides, fallback=None)
    second, second_notes = config_of(after, names, overrides, fallback=before)
    runs = preparation.prepare_all([first, second], progress, trains=False)  # both, so that errors come before the first measurement
    notes = [*first_notes, *second_notes, *dict.fromkeys(note for run in runs for note in run.facts.notes), *_differences(*runs)]
    for run, when in zip(runs, ("before", "after"), strict=True):
        baseline.measure(run, progress, when=when)
    sides = _side(before, runs[0], names), _side(after, runs[1], names)
    if _asks_differently(*runs):
        notes.append("the chat templates differ: each model is asked through its own, items are paired by their content")
        sides = _by_content(sides[0]), _by_content(sides[1])
    return *sides, notes


def check_overrides(overrides: Sequence[str], command: str = "compare", fix: str = "use BEFORE, AFTER and --suites") -> None:
    """Reject overrides of keys that a command line sets. Raises ConfigError."""
    for text in overrides:
        key = text.split("=", 1)[0].lstrip("+~")
        if key in OWN_KEYS:
            allowed = "other keys, such as evaluation.*, results, data"
            raise ConfigError(explain(f"{command}: {key}", got=repr(text), allowed=allowed, fix=fix))


def config_of(
    source: str, names: Sequence[str], overrides: Sequence[str], fallback: str | None, name: str = NAME
) -> tuple[RunConfig, list[str]]:
    """Return the configuration that measures a model, and notes for the reader.

    An adapter whose base does not exist is loaded onto ``fallback``; ``name`` is that of the
    folder of results.
    """
    member, named = meant("model", source)
    chosen = [f"model={member}"] if named or member in paths.members("conf/model") else ["model=hf", f"model.name={quoted(source)}"]
    asked = [*chosen, *(f"{key}={text}" for key, text in named.items()), f"name={name}", "target_suites=[]"]
    config = composition.compose([*asked, f"probe_suites=[{','.join(names)}]", *overrides])
    model, notes = config.model, []
    if isinstance(model, HubModel) and model.base and not _is_adapter(source):
        labels = dataclasses.replace(config.labels, model=source)
        config = dataclasses.replace(config, model=dataclasses.replace(model, base=None), labels=labels)  # it is of the other side
    elif isinstance(model, HubModel) and (base := _base(model, fallback)) is not None:
        if base != model.named_base() and not model.base:
            model = dataclasses.replace(model, base=base)
        elif fallback is not None and not _is_same(base, fallback):
            notes = [f"{source} is loaded onto its own base, {base}"]
        config = dataclasses.replace(config, model=model, labels=dataclasses.replace(config.labels, model=f"{source} on {base}"))
    return config, notes


def _base(model: HubModel, fallback: str | None) -> str | None:
    """Return the base of an adapter; None for a whole model, or an unknown one: loading it says so.

    Raises ConfigError for an adapter whose base does not exist, without a fallback.
    """
    try:
        named = model.base or model.named_base()
    except ModelError:
        return None
    if named is None or (named and not (folders.is_path(named) and not paths.expanded(named).is_dir())):
        return named
    if fallback is None or _is_adapter(fallback):
        got, fix = f"base_model_name_or_path {named!r}", "model.base=FOLDER_OR_HUB_NAME, or set it in adapter_config.json"
        raise ConfigError(explain(f"adapter {model.name}", got=got, allowed="a base that exists", fix=fix))
    return fallback


def _is_adapter(source: str) -> bool:
    """Return whether a source is an adapter on this machine or in the hub."""
    if loading.named(source) is not None:
        return False
    try:
        return HubModel(name=source).named_base() is not None
    except ModelError:
        return False


def _is_same(one: str, other: str) -> bool:
    return one == other or paths.expanded(one).resolve() == paths.expanded(other).resolve()


def _differences(before: Prepared, after: Prepared) -> list[str]:
    """Return notes on differences of the models that affect scores of equal texts."""
    one, other = (run.workspace.tokenizer_of(run.config) for run in (before, after))
    notes = []
    if "tokenizer" in differences(one, other):
        notes.append("the tokenizers differ: prompts are compared as text, likelihoods are of other tokens")
    lengths = [run.facts.context_length for run in (before, after)]
    if lengths[0] != lengths[1]:
        notes.append(f"context of {lengths[0]} tokens before, {lengths[1]} after: long prompts are cut in different places")
    return notes


def _asks_differently(before: Prepared, after: Prepared) -> bool:
    """Return whether two models read the same items through different chat templates."""
    one, other = (run.workspace.tokenizer_of(run.config).chat_template for run in (before, after))
    return before.config.evaluation.prompt_format == "chat" and one != other


def _by_content(side: Side) -> Side:
    """Return a side whose items of lm-eval's tasks are paired by content, not by prompt."""
    suites_of = {
        name: dataclasses.replace(one, samples=one.samples.assign(prompt_hash=one.samples["doc_hash"]))
        if suites.load(name).kind == "lm_eval"
        else one
        for name, one in side.suites.items()
    }
    return dataclasses.replace(side, suites=suites_of)


def _side(source: str, run: Prepared, names: Sequence[str]) -> Side:
    """Return the side of a model whose volume 0 is measured."""
    found = {name: _measurement(run, name) for name in names}
    ids, weights = run.evaluation_ids, run.before_sha256
    samples = {name: run.experiment.measurement_samples(ids[name], weights) for name in names}
    measured = {name: Measured(scores=one.scores, samples=samples[name]) for name, one in found.items()}
    return Side(source=source, model=run.config.labels.model, suites=measured, content=weights)


def _measurement(run: Prepared, suite: str) -> Measurement:
    """Return the measurement of a suite at volume 0. Raises RecordError unless it is complete."""
    found = run.experiment.measurement(run.evaluation_ids[suite], run.before_sha256)
    return complete(found, f"{run.config.labels.model}, suite {suite}")


def complete(found: Measurement | None, where: str) -> Measurement:
    """Return a measurement that is complete.

    Args:
        found: the measurement of a suite, or None.
        where: model and suite, for the error.

    Raises:
        RecordError: if there is none, or if a task of it failed.
    """
    fix = "run the same command again"
    if found is None:
        raise RecordError(explain(where, got="no measurement", allowed="a complete measurement", fix=fix))
    for score in found.scores:
        if score.status == "failed" and score.primary:
            got = f"a failed measurement ({score.reason})"
            raise RecordError(explain(f"{where}, task {score.task}", got=got, allowed="a complete measurement", fix=fix))
    return found
