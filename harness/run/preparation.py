"""A run before it starts: every check of config, data and suites, and its identity.

Nothing is built, nothing is written.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from harness import PROTOCOL_VERSION
from harness.config import combinations, resolution
from harness.config.identity import derived_id, identify, run_identity
from harness.config.resolution import Machine, Resolved
from harness.config.run_config import RunConfig
from harness.config.strict import identifying, plain
from harness.core.errors import ConfigError, DataError, explain
from harness.core.rows import Row
from harness.core.seeds import permutation
from harness.core.sources import ModelFacts, ModelSource
from harness.data import subsets
from harness.evaluation import prompts, suites
from harness.evaluation.backends import Evaluation
from harness.records.schema import Role
from harness.records.writer import ExperimentWriter
from harness.run import other_models
from harness.run.workspace import Workspace, _content


@dataclass(frozen=True)
class Prepared:
    """A run that has passed every check.

    Attributes:
        identity: decides ``run_id``.
        reference: the model that volume 0 is measured on, where it is another one than the start
            model.
        baseline_identities: suite → what decides its volume 0 and is known before its tasks are
            built.
        baseline_keys: suite → hash of that: runs with equal keys share the volume 0 of the suite.
    """

    config: RunConfig
    facts: ModelFacts
    resolved: Resolved
    identity: Mapping[str, Any]
    baseline_identities: Mapping[str, Mapping[str, Any]]
    baseline_keys: Mapping[str, str]
    workspace: Workspace
    reference: ModelSource | None = None

    @cached_property
    def run_id(self) -> str:
        """Hash of the identity."""
        return identify(self.identity)

    @cached_property
    def rows(self) -> Sequence[Row]:
        """Target rows in the order they are trained on, the largest volume of them (each epoch in its own order)."""
        config, rows, largest = self.config, self.workspace.rows_of(self.config.data), max(self.config.data.volumes)
        subset = subsets.order(rows, config.seed, subsets.parts(config.data))[:largest]
        orders = [permutation(config.seed, largest, "data-order", f"epoch {epoch}") for epoch in range(1, config.training.epochs)]
        return [rows[i] for order in [list(range(largest)), *orders] for i in (subset[position] for position in order)]

    @cached_property
    def anchor(self) -> Sequence[Row]:
        """Anchor rows in the order they are drawn."""
        if not self.config.mitigation.needs_anchor or self.config.anchor is None:
            return []
        rows = self.workspace.rows_of(self.config.anchor)
        return [rows[i] for i in permutation(self.config.seed, len(rows), "anchor-order")]

    @property
    def chooses(self) -> bool:
        """Whether something is chosen on the target's select items: a coefficient, or a volume."""
        return combinations.chooses(self.config.mitigation) or self.config.mitigation.keeps_best

    @property
    def stands_for(self) -> float | None:
        """The coefficient whose weights are this run's own points.

        None where there is none, or it is chosen at each volume.
        """
        mitigation = self.config.mitigation
        if mitigation.coefficient is None and len(mitigation.coefficients) == 1:
            return mitigation.coefficients[0]
        return mitigation.coefficient if mitigation.coefficients else None

    @property
    def derived(self) -> dict[float, str]:
        """The coefficients that are measured beside it → the run ids of these measurements, ascending."""
        return {one: derived_id(self.run_id, one) for one in sorted(self.config.mitigation.coefficients) if one != self.stands_for}

    @property
    def experiment(self) -> ExperimentWriter:
        """Where it is recorded."""
        return experiment_of(self.config)

    @property
    def roles(self) -> dict[str, Role]:
        """Suite → target or probe."""
        targets: dict[str, Role] = dict.fromkeys(self.config.target_suites, "target")
        probes: dict[str, Role] = dict.fromkeys(self.config.probe_suites, "probe")
        return targets | probes

    @property
    def volumes(self) -> list[int]:
        """Volumes to reach, ascending."""
        return sorted(self.config.data.volumes)


def experiment_of(config: RunConfig) -> ExperimentWriter:
    """Return where a run is recorded."""
    return ExperimentWriter(Path(config.results) / config.name)


def prepare(config: RunConfig, workspace: Workspace, machine: Machine | None = None) -> Prepared:
    """Check everything that can be checked before a model is built or a file written, and identify the run.

    Args:
        config: of one run.
        workspace: what it shares with others.
        machine: what it may use; None is this machine.

    Raises:
        HarnessError: ConfigError, DataError, ModelError or EvaluationError, one line each. A
            ModelError or a DataError says that a piece cannot be used, or is not on this machine;
            it comes at once for the next run that needs the same piece.
    """
    workspace.require_writable(experiment_of(config))
    for name in (*config.target_suites, *config.probe_suites):
        workspace.suite(name)
    _check_headline(config, workspace)
    combinations.check_chosen_on(config, {name: workspace.suite(name).metric for name in config.target_suites})
    facts = workspace.facts_of(config)
    resolved = resolution.resolve(config, facts, workspace.searched_rates(), machine or workspace.machine())
    _check_sizes(config, workspace)
    reference = other_models.reference_of(config, workspace)
    inputs = _inputs(config, workspace, reference)
    identities, keys = _baselines(config, resolved, inputs, workspace)
    return Prepared(
        config=config,
        facts=facts,
        resolved=resolved,
        identity=run_identity(config, resolved, inputs),
        baseline_identities=identities,
        baseline_keys=keys,
        workspace=workspace,
        reference=reference,
    )


def _inputs(config: RunConfig, workspace: Workspace, reference: ModelSource | None) -> dict[str, Any]:
    """Return the content of what goes into a run, as plain values.

    Worked out once for all runs of the same inputs.
    """
    others = other_models.of_methods(config, workspace)
    models = {"models": {name: plain(workspace.facts_of_model(model).content) for name, model in others.items()}} if others else {}
    if reference is not None:
        models["reference"] = plain(workspace.facts_of_model(reference).content)
    drawn = config.anchor if config.mitigation.needs_anchor else None

    def find() -> dict[str, Any]:
        facts = workspace.facts_of(config)
        return {
            "model": plain(facts.content),
            "tokenizer": workspace.tokenizer_content_of(config),
            "context_length": facts.context_length,
            "data": workspace.fingerprint_of(config.data),
            **({"stages": [list(part) for part in parts]} if (parts := subsets.parts(config.data)) else {}),
            "anchor": workspace.fingerprint_of(drawn) if drawn else None,
            "target_suites": {name: plain(workspace.identity_of(name, config)) for name in config.target_suites},
            "probe_suites": {name: plain(workspace.identity_of(name, config)) for name in config.probe_suites},
        }

    return workspace.once(("inputs", drawn is None, _shared(config)), find) | models


def _baselines(
    config: RunConfig, resolved: Resolved, inputs: Mapping[str, Any], workspace: Workspace
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what decides the volume 0 of each suite, and its hash.

    Worked out once for all runs that start from the same.
    """

    def find() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        shared = {
            "model": inputs.get("reference", inputs["model"]),  # asked exactly as the start model: its tokenizer, its context
            **{name: inputs[name] for name in ("tokenizer", "context_length")},
            "evaluation": identifying(config.evaluation) | {"dtype": resolved.evaluation_dtype},
            "threads": resolved.threads,
            "protocol_version": PROTOCOL_VERSION,
        }
        measured = inputs["target_suites"] | inputs["probe_suites"]
        identities = {name: shared | {"suite": suite} for name, suite in measured.items()}
        return identities, {name: identify(found) for name, found in identities.items()}

    key = ("baselines", _content(config.evaluation), resolved.evaluation_dtype, resolved.threads, _shared(config))
    return workspace.once(key, find)


def _shared(config: RunConfig) -> Hashable:
    return _content(config.model, config.reference, config.data, config.anchor, config.target_suites, config.probe_suites)


def _check_headline(config: RunConfig, workspace: Workspace) -> None:
    """Refuse a headline of which no verdict can be given: a distance from the base is neither lost nor gained. Raises ConfigError."""
    headline = config.declared.headline
    if headline in config.probe_suites and workspace.suite(headline).kind == "divergence":
        allowed, fix = "a suite that has a verdict: kind lm_eval or likelihood", "another of probe_suites"
        raise ConfigError(explain("declared.headline", got=f"'{headline}', of kind divergence", allowed=allowed, fix=fix))


def _check_sizes(config: RunConfig, workspace: Workspace) -> None:
    """Refuse volumes that the data, or the anchor, have no rows for. Raises DataError."""
    rows, largest = workspace.rows_of(config.data), max(config.data.volumes)
    if largest > len(rows):
        batch = config.training.batch_rows
        fix = (
            f"data.volumes=[{len(rows) - len(rows) % batch}]" if len(rows) >= batch else f"training.batch_rows={len(rows)} and as many rows"
        )
        message = explain("data.volumes", got=largest, allowed=f"at most the {len(rows)} rows of data={config.labels.data}", fix=fix)
        raise DataError(message)
    if not config.mitigation.needs_anchor or config.anchor is None:
        return
    anchor, wanted = workspace.rows_of(config.anchor), config.mitigation.least_anchor_rows(largest * config.training.epochs)
    if wanted > len(anchor):
        fix = "a smaller volume or mitigation.fraction, or a larger anchor"
        raise DataError(explain(f"anchor={config.labels.anchor}", got=f"{len(anchor)} rows", allowed=f"at least {wanted}", fix=fix))


def done(prepared: Prepared) -> bool:
    """Say whether every volume asked for is recorded, complete, and measured without failure.

    Of the runs derived from it, too.
    """
    experiment, run_id = prepared.experiment, prepared.run_id
    record, derived = experiment.record(run_id), prepared.derived.values()
    if record is None or not set(prepared.volumes) <= set(record.volumes):
        return False
    if not all(set(prepared.volumes) <= set(experiment.recorded(one)) for one in derived):
        return False
    points = [experiment.point(one, volume) for one in (run_id, *derived) for volume in prepared.volumes]
    baselines = [experiment.baseline(baseline_id) for baseline_id in record.baselines.values()]
    complete = [item is not None and all(score.status == "ok" for score in item.scores) for item in [*points, *baselines]]
    return all(complete)


def check_together(runs: Sequence[Prepared]) -> None:
    """Refuse a sweep whose runs differ in what they declare, or in dtype policy.

    Raises ConfigError.

    A difference between methods could be one of rounding, or of margins.
    """
    policies = sorted({f"{run.resolved.dtype} training, {run.resolved.evaluation_dtype} evaluation" for run in runs})
    if len(policies) > 1:
        fix = "one training.dtype and one evaluation.dtype for the whole sweep"
        raise ConfigError(explain("dtype", got=" and ".join(policies), allowed="one policy a sweep", fix=fix))
    if any(run.config.declared != runs[0].config.declared for run in runs):
        raise ConfigError(explain("declared", got="several values", allowed="one for the whole sweep", fix="no axis of declared"))


def prompts_of(name: str, config: RunConfig, number: int) -> list[str]:
    """Show one item of each task of a suite as a run would send it to its model.

    Of the model, only the tokenizer is loaded.

    Raises:
        HarnessError: for what cannot be evaluated, one line.
    """
    workspace, evaluation = Workspace(), cast(Evaluation, config.evaluation)
    suites.load(name)
    tokenizer = workspace.tokenizer_of(config)
    prompts.require_format(evaluation, tokenizer, config.labels.model)
    prepared = workspace.suite_of(name, config)
    return list(prompts.shown(prepared, evaluation, tokenizer, config.model.longest_input(), number).values())
