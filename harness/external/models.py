"""Two models, measured as they are on the same suites and items, by the code that measures volume 0 of every run, and kept like it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from harness.config import composition, paths
from harness.config.identity import identify
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, RecordError, explain
from harness.core.progress import Progress
from harness.evaluation import suites
from harness.evaluation.suites import Suite
from harness.external.adapted import CONFIG, AdaptedModel, base_of
from harness.external.sides import Measured, Side, is_adapter
from harness.records.schema import Baseline, complete
from harness.run import baseline, preparation
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace

NAME = "compare"
"""The folder under results that measurements are kept in: the same comparison again measures
nothing."""

OWN_KEYS = {"model", "model.name", "target_suites", "probe_suites", "experiment"}


def suite_names(given: str | None) -> list[str]:
    """Return the suites that both models are asked.

    Raises ConfigError where there are none, or one that is none of a single model.
    """
    names = list(dict.fromkeys(name.strip() for name in (given or "").split(",") if name.strip()))
    if not names:
        known = ", ".join(name for name in paths.members("benchmarks/suites") if _of_one_model(suites.load(name)))
        fix = "--suites commonsense,blimp, or others that the model could have forgotten (`harness list suites`)"
        raise ConfigError(explain("compare: --suites", got="none, and two models", allowed=known, fix=fix))
    for name in names:
        suite = suites.load(name)
        if not _of_one_model(suite):
            got = f"a suite of kind {suite.kind} on data={suite.data}"
            fix = "a suite of tasks, or of a data set of its own"
            raise ConfigError(explain(f"compare: --suites {name}", got=got, allowed="what one model can be asked, without a run", fix=fix))
    return names


def _of_one_model(suite: Suite) -> bool:
    """Say whether a suite asks something of a model alone: not how far it is from a base, nor anything about a run's own rows."""
    return suite.kind != "divergence" and suite.data not in {"target", "anchor"}


def measure(before: str, after: str, names: Sequence[str], overrides: Sequence[str], progress: Progress) -> tuple[Side, Side, list[str]]:
    """Measure two models on suites, or find what is measured already.

    Args:
        before: a folder, a name of the hub or of ``conf/model``, or a folder with a PEFT adapter.
        after: likewise; an adapter whose base cannot be found is loaded onto ``before``, and that
            is said.
        names: of the suites.
        overrides: of both, such as ``evaluation.prompt_format=chat``.
        progress: told of stages.

    Returns:
        Both sides, and what a reader must know.

    Raises:
        HarnessError: for what cannot be loaded or measured, one line.
    """
    _check_overrides(overrides)
    workspace, notes = Workspace(), []
    first, said = _config(before, names, overrides, fallback=None)
    second, more = _config(after, names, overrides, fallback=before)
    runs = [preparation.prepare(config, workspace) for config in (first, second)]
    notes += [*said, *more, *_differences(runs[0], runs[1])]
    for run in runs:
        baseline.measure(run, progress)
    return _side(before, runs[0], names), _side(after, runs[1], names), notes


def _check_overrides(overrides: Sequence[str]) -> None:
    for text in overrides:
        key = text.split("=", 1)[0].lstrip("+~")
        if key in OWN_KEYS:
            fix = "BEFORE, AFTER and --suites say it"
            raise ConfigError(explain(f"compare: {key}", got=repr(text), allowed="evaluation.*, results=, data= and the like", fix=fix))


def _config(source: str, names: Sequence[str], overrides: Sequence[str], fallback: str | None) -> tuple[RunConfig, list[str]]:
    """Return the configuration that measures a model, and what must be said of it."""
    adapter = _adapter(source)
    base, notes = (source, []) if adapter is None else _base(source, adapter, fallback)
    chosen = [f"model={base}"] if base in paths.members("conf/model") else ["model=hf", f"model.name={_quoted(base)}"]
    asked = [*chosen, f"name={NAME}", "target_suites=[]", f"probe_suites=[{','.join(names)}]"]
    config = composition.compose([*asked, *overrides])
    if adapter is not None:
        labels = dataclasses.replace(config.labels, model=f"{source} on {base}")
        config = dataclasses.replace(config, model=AdaptedModel(base=config.model, adapter=adapter), labels=labels)
    return config, notes


def _adapter(source: str) -> str | None:
    """Return the folder of an adapter, fetched from the hub if need be.

    None where the source is a whole model.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder) if is_adapter(folder) else None
    if source in paths.members("conf/model"):
        return None
    import huggingface_hub
    from huggingface_hub import constants

    try:
        fetched = huggingface_hub.snapshot_download(source, allow_patterns=["adapter_*"], local_files_only=constants.HF_HUB_OFFLINE)
    except (OSError, ValueError):
        return None  # whoever loads it as a model says why it is none
    return fetched if is_adapter(Path(fetched)) and not (Path(fetched) / "config.json").is_file() else None


def _base(source: str, adapter: str, fallback: str | None) -> tuple[str, list[str]]:
    """Return the model an adapter is loaded onto.

    Raises ConfigError where it names none that is here and BEFORE is none either.
    """
    named = base_of(adapter)
    is_path = named.startswith((".", "/", "~")) or named.count("/") > 1
    if named and (Path(named).expanduser().is_dir() or not is_path):
        other = fallback if fallback is not None and not _same(named, fallback) else None
        return named, [f"{source} is loaded onto its own base, {named}"] if other else []
    if fallback is None or is_adapter(Path(fallback).expanduser()):
        got, fix = f"base_model_name_or_path {named!r}", f"set it in {CONFIG} to a folder or a hub name"
        raise ConfigError(explain(f"adapter {source}", got=got, allowed="a base that is here", fix=fix))
    return fallback, [f"{source} names a base that is not here ({named or 'none'}): loaded onto BEFORE, {fallback}"]


def _same(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _quoted(text: str) -> str:
    """Return a text as a value of Hydra's grammar, whatever signs are in it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if "'" in text else text
    return f"'{escaped}'"


def _differences(before: Prepared, after: Prepared) -> list[str]:
    """Return what differs between the models that can move scores, though every item is the same text."""
    one, other = (run.workspace.tokenizer_content_of(run.config) for run in (before, after))
    found = []
    if one != other:
        found.append("the tokenizers (or their chat templates) differ: prompts are compared as text, likelihoods are of other tokens")
    lengths = [run.facts.context_length for run in (before, after)]
    if lengths[0] != lengths[1]:
        found.append(f"context of {lengths[0]} tokens before, {lengths[1]} after: long prompts are cut in different places")
    return found


def _side(source: str, run: Prepared, names: Sequence[str]) -> Side:
    found = {name: _baseline(run, name) for name in names}
    measured = {name: Measured(scores=one.scores, samples=run.experiment.baseline_samples(one.baseline_id)) for name, one in found.items()}
    return Side(source=source, model=run.config.labels.model, suites=measured)


def _baseline(run: Prepared, suite: str) -> Baseline:
    """Return the measurement of a suite. Raises RecordError where a task of it failed."""
    key = run.baseline_keys[suite]
    every = filter(None, map(run.experiment.baseline, run.experiment.baseline_ids()))
    of_key = [one for one in every if identify({name: part for name, part in one.identity.items() if name != "tasks"}) == key]
    found = max(of_key, key=lambda one: (complete(one), str(one.provenance.get("time", ""))), default=None)
    if found is None:
        raise RecordError(explain(f"{run.config.labels.model}, suite {suite}", got="no measurement", fix="run the same command again"))
    for score in found.scores:
        if score.status == "failed" and score.primary:
            where = f"{run.config.labels.model}, suite {suite}, task {score.task}"
            raise RecordError(explain(where, got=f"a measurement that failed ({score.reason})", allowed="all of them", fix="run it again"))
    return found
