"""Preparation of a run: every check of configuration, data and suites, and its identity.

No model is built and no file is written.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
from harness.records.schema import Role
from harness.records.writer import ExperimentWriter
from harness.run import other_models
from harness.run.workspace import Workspace, content_key


@dataclass(frozen=True)
class Prepared:
    """A run that has passed every check.

    Attributes:
        identity: everything that decides ``run_id``.
        baseline_identities: suite → everything that decides its volume 0 and is known before its
            tasks are built.
        baseline_keys: suite → hash of that; runs with equal keys share the volume 0 of the suite.
        reference: the model that volume 0 is measured on; None is the start model.
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
        """Target rows of the largest volume in training order, each epoch in its own order."""
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
    def needs_selection(self) -> bool:
        """Whether a coefficient or a volume is chosen on the select items of the targets."""
        return combinations.chooses(self.config.mitigation) or self.config.mitigation.keeps_best

    @property
    def own_coefficient(self) -> float | None:
        """The coefficient that the run's own points are measured at.

        None without coefficients, or if each point takes the best one on the select items.
        """
        mitigation = self.config.mitigation
        if mitigation.coefficient is None and len(mitigation.coefficients) == 1:
            return mitigation.coefficients[0]
        return mitigation.coefficient if mitigation.coefficients else None

    @property
    def derived(self) -> dict[float, str]:
        """All other coefficients, ascending → the ids of the derived runs that measure them."""
        return {one: derived_id(self.run_id, one) for one in sorted(self.config.mitigation.coefficients) if one != self.own_coefficient}

    @property
    def experiment(self) -> ExperimentWriter:
        """The experiment that the run belongs to."""
        return experiment_of(self.config)

    @property
    def roles(self) -> dict[str, Role]:
        """Suite → its role, target or probe."""
        targets: dict[str, Role] = dict.fromkeys(self.config.target_suites, "target")
        probes: dict[str, Role] = dict.fromkeys(self.config.probe_suites, "probe")
        return targets | probes

    @property
    def volumes(self) -> list[int]:
        """Volumes to reach, ascending."""
        return sorted(self.config.data.volumes)


def experiment_of(config: RunConfig) -> ExperimentWriter:
    """Return the experiment that a run belongs to."""
    return ExperimentWriter(Path(config.results) / config.name)


def prepare(config: RunConfig, workspace: Workspace, machine: Machine | None = None) -> Prepared:
    """Check and identify a run; no model is built and no file is written.

    Args:
        config: of one run.
        workspace: inputs that it shares with other runs.
        machine: the hardware that it may use; None is this machine.

    Raises:
        HarnessError: ConfigError, DataError, ModelError or EvaluationError, one line each. A
            ModelError or a DataError means that an input cannot be used, or is not on this machine;
            the next run that needs the same input raises it at once.
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
    """Return the content of a run's inputs, as plain values.

    Computed once for all runs with the same inputs.
    """
    others = other_models.of_methods(config, workspace)
    models = {"models": {name: plain(workspace.facts_of_model(model).content) for name, model in others.items()}} if others else {}
    if reference is not None:
        models["reference"] = plain(workspace.facts_of_model(reference).content)
    drawn = config.anchor if config.mitigation.needs_anchor else None

    def compute() -> dict[str, Any]:
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

    return workspace.once(("inputs", drawn is None, _inputs_key(config)), compute) | models


def _baselines(
    config: RunConfig, resolved: Resolved, inputs: Mapping[str, Any], workspace: Workspace
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return by suite the identity of its volume 0, and the hash of that.

    Computed once for all runs with the same start.
    """

    def compute() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        shared = {
            "model": inputs.get("reference", inputs["model"]),  # measured with the tokenizer and context of the start model
            **{name: inputs[name] for name in ("tokenizer", "context_length")},
            "evaluation": identifying(config.evaluation) | {"dtype": resolved.evaluation_dtype},
            "threads": resolved.threads,
            "protocol_version": PROTOCOL_VERSION,
        }
        measured = inputs["target_suites"] | inputs["probe_suites"]
        identities = {name: shared | {"suite": suite} for name, suite in measured.items()}
        return identities, {name: identify(found) for name, found in identities.items()}

    key = ("baselines", content_key(config.evaluation), resolved.evaluation_dtype, resolved.threads, _inputs_key(config))
    return workspace.once(key, compute)


def _inputs_key(config: RunConfig) -> Hashable:
    return content_key(config.model, config.reference, config.data, config.anchor, config.target_suites, config.probe_suites)


def _check_headline(config: RunConfig, workspace: Workspace) -> None:
    """Reject a headline suite without a verdict. Raises ConfigError.

    A distance from the base model is neither lost nor gained.
    """
    headline = config.declared.headline
    if headline in config.probe_suites and workspace.suite(headline).kind == "divergence":
        allowed, fix = "a suite that has a verdict: kind lm_eval or likelihood", "another of probe_suites"
        raise ConfigError(explain("declared.headline", got=f"'{headline}', of kind divergence", allowed=allowed, fix=fix))


def _check_sizes(config: RunConfig, workspace: Workspace) -> None:
    """Reject volumes for which the data or the anchor has too few rows. Raises DataError."""
    rows, largest = workspace.rows_of(config.data), max(config.data.volumes)
    if largest > len(rows):
        batch = config.training.batch_rows
        few = f"training.batch_rows={len(rows)} and data.volumes=[{len(rows)}]"
        fix = f"data.volumes=[{len(rows) - len(rows) % batch}]" if len(rows) >= batch else few
        message = explain("data.volumes", got=largest, allowed=f"at most the {len(rows)} rows of data={config.labels.data}", fix=fix)
        raise DataError(message)
    if not config.mitigation.needs_anchor or config.anchor is None:
        return
    anchor, wanted = workspace.rows_of(config.anchor), config.mitigation.least_anchor_rows(largest * config.training.epochs)
    if wanted > len(anchor):
        fix = "a smaller volume or mitigation.fraction, or a larger anchor"
        raise DataError(explain(f"anchor={config.labels.anchor}", got=f"{len(anchor)} rows", allowed=f"at least {wanted}", fix=fix))


def is_done(prepared: Prepared) -> bool:
    """Return whether the run and its derived runs are recorded at every volume without failure."""
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
    """Reject a sweep whose runs differ in declarations or dtype policy. Raises ConfigError.

    Differences between methods could come from margins or rounding instead.
    """
    policies = sorted({f"{run.resolved.dtype} training, {run.resolved.evaluation_dtype} evaluation" for run in runs})
    if len(policies) > 1:
        fix = "one training.dtype and one evaluation.dtype for the whole sweep"
        raise ConfigError(explain("dtype", got=" and ".join(policies), allowed="one policy per sweep", fix=fix))
    if any(run.config.declared != runs[0].config.declared for run in runs):
        raise ConfigError(explain("declared", got="several values", allowed="one for the whole sweep", fix="remove declared from the axes"))


def prompts_of(name: str, config: RunConfig, number: int) -> list[str]:
    """Return one item of each task of a suite as its model reads it.

    Only the tokenizer of the model is loaded.

    Raises:
        HarnessError: for a suite that cannot be evaluated.
    """
    workspace, evaluation = Workspace(), config.evaluation
    suites.load(name)
    tokenizer = workspace.tokenizer_of(config)
    prompts.require_format(evaluation, tokenizer, config.labels.model)
    prepared = workspace.suite_of(name, config)
    return list(prompts.shown(prepared, evaluation, tokenizer, config.model.longest_input(), number).values())
