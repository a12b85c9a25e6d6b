"""Preparation of a run: every check of configuration, data and suites, and its identities.

Suites are built, since their content identifies measurements. No model is loaded and no file is
written.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.config import combinations, paths, resolution
from harness.config.identity import content_sha256, derived_id, evaluation_identity, identify, run_identity
from harness.config.resolution import Machine, Resolved
from harness.config.run_config import RunConfig
from harness.config.strict import plain
from harness.core.errors import ConfigError, DataError, explain
from harness.core.progress import Progress
from harness.core.rows import Row
from harness.core.seeds import permutation
from harness.core.sources import ModelFacts, ModelSource
from harness.data import subsets
from harness.data.teaching import TaughtRows
from harness.evaluation import prompts
from harness.evaluation import suites as suites_of
from harness.records.schema import Role
from harness.records.writer import ExperimentWriter
from harness.run import fitting, other_models, reading
from harness.run.workspace import Workspace, content_key


@dataclass(frozen=True)
class Prepared:
    """A run that has passed every check.

    Attributes:
        identity: everything that decides ``run_id``.
        evaluations: suite → everything that decides the scores of given weights.
        evaluation_ids: suite → hash of that.
        before_sha256: hash of the weights that volume 0 is measured on.
        reference: the model that volume 0 is measured on; None is the start model.
    """

    config: RunConfig
    facts: ModelFacts
    resolved: Resolved
    identity: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Any]]
    evaluation_ids: Mapping[str, str]
    before_sha256: str
    workspace: Workspace
    reference: ModelSource | None = None

    @cached_property
    def run_id(self) -> str:
        """Hash of the identity."""
        return identify(self.identity)

    @property
    def taught(self) -> TaughtRows:
        """The target rows that volumes are drawn from."""
        return self.workspace.taught(self.config, self.resolved, self.config.data)

    @property
    def taught_anchor(self) -> TaughtRows | None:
        """The anchor rows that are drawn from; None for a run that draws on no anchor."""
        return _taught_anchor(self.config, self.resolved, self.workspace)

    @cached_property
    def rows(self) -> Sequence[Row]:
        """Target rows of the largest volume in training order, each epoch in its own order."""
        config, rows, largest = self.config, self.taught.rows, max(self.config.data.volumes)
        subset = subsets.order(rows, config.seed, self.taught.parts)[:largest]
        orders = [permutation(config.seed, largest, "data-order", f"epoch {epoch}") for epoch in range(1, config.training.epochs)]
        return [rows[i] for order in [list(range(largest)), *orders] for i in (subset[position] for position in order)]

    @cached_property
    def anchor(self) -> Sequence[Row]:
        """Anchor rows in the order they are drawn."""
        rows = self.taught_anchor.rows if self.taught_anchor else []
        return [rows[i] for i in permutation(self.config.seed, len(rows), "anchor-order")]

    @property
    def needs_selection(self) -> bool:
        """Whether a coefficient or a volume is chosen on the select items of the targets."""
        return _needs_selection(self.config)

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

    def keeps_weights(self, volume: int) -> bool:
        """Return whether the weights of a volume stay on disk, as ``save_weights`` asks.

        Early stop keeps them at each volume that is the best so far.
        """
        policy = self.config.save_weights
        return policy == "all" or (policy == "last" and (volume == self.volumes[-1] or self.config.mitigation.keeps_best))

    @property
    def volumes(self) -> list[int]:
        """Volumes to reach, ascending, without those that all accepted rows are too few for."""
        asked = sorted(self.config.data.volumes)
        reach = self.experiment.reach(self.run_id) if self.config.objective.writes else None
        return [volume for volume in asked if reach is None or volume <= reach[0]] or asked


def experiment_of(config: RunConfig) -> ExperimentWriter:
    """Return the experiment that a run belongs to."""
    return ExperimentWriter(paths.expanded(config.results) / config.name)


def prepare(config: RunConfig, workspace: Workspace, machine: Machine | None = None, *, trains: bool = True) -> Prepared:
    """Check and identify a run; no model is built and no file is written.

    Args:
        config: of one run.
        workspace: inputs that it shares with other runs.
        machine: the hardware that it may use; None is this machine.
        trains: whether the run is to be trained, for which its memory must suffice.

    Raises:
        HarnessError: ConfigError, DataError, ModelError or EvaluationError, one line each. A
            ModelError or a DataError means that an input cannot be used, or is not on this machine;
            the next run that needs the same input raises it at once.
    """
    workspace.require_writable(experiment_of(config))
    suites = (*config.target_suites, *config.probe_suites)
    for name in suites:
        workspace.suite(name)
    _check_headline(config, workspace)
    combinations.check_chosen_on(config, {name: workspace.suite(name).metric for name in config.target_suites})
    facts = workspace.facts_of(config)
    reading.check_template(config, facts, workspace.tokenizer_of(config))
    machine = machine or workspace.machine()
    resolved = resolution.resolve(config, facts, workspace.searched_rates(), machine)
    _check_sizes(config, resolved, workspace)
    resolved = fitting.with_micro_batches(config, facts, resolved, workspace, machine)
    reference = other_models.reference_of(config, workspace)
    evaluations = _evaluations(config, resolved, workspace, suites)
    read = _read(config, resolved, workspace)
    measured = facts if reference is None else workspace.facts_of_model(reference)
    found = Prepared(
        config=config,
        facts=facts,
        resolved=resolved,
        identity=run_identity(config, resolved, facts, _inputs(config, resolved, workspace), read),
        evaluations={name: found for name, (found, _) in evaluations.items()},
        evaluation_ids={name: evaluation_id for name, (_, evaluation_id) in evaluations.items()},
        before_sha256=content_sha256(measured.content),
        workspace=workspace,
        reference=reference,
    )
    if trains and machine.gpus and not found.experiment.glance("runs", found.run_id, "record.json"):
        fitting.check_fits(config, facts, resolved, workspace, machine)
    return found


def prepare_all(configs: Sequence[RunConfig], progress: Progress, machine: Machine | None = None, *, trains: bool = True) -> list[Prepared]:
    """Check and identify runs, after the nursery models that they lack are pretrained.

    These take minutes, so every check is made before.

    Args:
        configs: of the runs.
        progress: told of models that are pretrained.
        machine: see ``prepare``.
        trains: see ``prepare``.

    Raises:
        HarnessError: as ``prepare`` does.
    """
    workspace = Workspace()
    found = [prepare(config, workspace, machine, trains=trains) for config in configs]
    if other_models.make(configs, workspace, progress):
        workspace = Workspace()
        found = [prepare(config, workspace, machine, trains=trains) for config in configs]
    return found


def _inputs(config: RunConfig, resolved: Resolved, workspace: Workspace) -> dict[str, Any]:
    """Return the content of what a run trains on, as plain values.

    Computed once for all runs with the same inputs. ``taught`` and ``taught_anchor`` are there only
    where the rows that teach are not those of the data.
    """
    others = other_models.of_methods(config, workspace)
    facts = {name: workspace.facts_of_model(model) for name, model in others.items()}
    of_methods = {name: {**plain(one.content), "context_length": one.context_length} for name, one in facts.items()}
    models = {"models": of_methods} if others else {}
    drawn = config.anchor if config.mitigation.needs_anchor else None

    def compute() -> dict[str, Any]:
        return {
            "model": plain(workspace.facts_of(config).content),
            "tokenizer": workspace.tokenizer_content_of(config),
            "data": workspace.fingerprint_of(config.data),
            **({"stages": [list(part) for part in parts]} if (parts := subsets.parts(config.data)) else {}),
            "anchor": workspace.fingerprint_of(drawn) if drawn else None,
        }

    taught = {"taught": workspace.taught(config, resolved, config.data), "taught_anchor": _taught_anchor(config, resolved, workspace)}
    differ = {name: rows.content for name, rows in taught.items() if rows and rows.content}
    return workspace.once(("inputs", drawn is None, content_key(config.model, config.data, config.anchor)), compute) | models | differ


def _taught_anchor(config: RunConfig, resolved: Resolved, workspace: Workspace) -> TaughtRows | None:
    """Return the anchor rows that are drawn from; None for a run that draws on no anchor."""
    drawn = config.mitigation.needs_anchor and config.anchor is not None
    return workspace.taught(config, resolved, config.anchor) if drawn and config.anchor else None


def _evaluations(
    config: RunConfig, resolved: Resolved, workspace: Workspace, suites: Sequence[str]
) -> dict[str, tuple[dict[str, Any], str]]:
    """Return by suite the identity of its evaluation, and its hash.

    Computed once for all runs with the same start model and settings.
    """

    def compute(name: str) -> tuple[dict[str, Any], str]:
        facts, suite, tokenizer = workspace.facts_of(config), workspace.suite_of(name, config), workspace.tokenizer_of(config)
        reading.check_suite(suite, facts, tokenizer)
        model = {
            "content": plain(facts.content),
            "tokenizer": workspace.tokenizer_content_of(config),
            "context_length": facts.context_length,
        }
        model |= reading.identity(suite, facts, tokenizer)
        found = evaluation_identity(config.evaluation, resolved.evaluation_dtype, suite.suite.identity(), plain(suite.content), model)
        return found, identify(found)

    key = content_key(config.model, config.data, config.anchor, config.evaluation, resolved.evaluation_dtype)
    return {name: workspace.once(("evaluation", name, key), functools.partial(compute, name)) for name in suites}


def _read(config: RunConfig, resolved: Resolved, workspace: Workspace) -> dict[str, str]:
    """Return suite → evaluation id of the select items that a rule of the run reads."""
    if not _needs_selection(config):
        return {}
    on_select = dataclasses.replace(config, evaluation=config.evaluation.for_items("select"))
    return {name: found for name, (_, found) in _evaluations(on_select, resolved, workspace, config.target_suites).items()}


def _needs_selection(config: RunConfig) -> bool:
    return combinations.chooses(config.mitigation) or config.mitigation.keeps_best


def _check_headline(config: RunConfig, workspace: Workspace) -> None:
    """Reject a headline suite without a verdict. Raises ConfigError.

    A distance from the base model is neither lost nor gained.
    """
    headline = config.declared.headline
    if headline in config.probe_suites and workspace.suite(headline).kind == "divergence":
        allowed, fix = "a suite that has a verdict: kind lm_eval or likelihood", "another of probe_suites"
        raise ConfigError(explain("declared.headline", got=f"'{headline}', of kind divergence", allowed=allowed, fix=fix))


def _check_sizes(config: RunConfig, resolved: Resolved, workspace: Workspace) -> None:
    """Reject volumes for which too few rows of the data or the anchor teach. Raises DataError."""
    taught, largest = workspace.taught(config, resolved, config.data), max(config.data.volumes)
    for name, (size, wanted) in zip(config.data.stage_names, taught.parts, strict=False):
        if wanted > size:
            got, fix = f"{wanted} of {name}", "fewer data.stage_rows"
            raise DataError(explain("data.stage_rows", got=got, allowed=f"at most its {_rows(size, taught)}", fix=fix))
    size = len(taught.rows)
    if largest > size:
        batch = config.training.batch_rows
        few = f"training.batch_rows={size} and data.volumes=[{size}]" if size else "a larger training.max_length, or other data"
        fix = f"data.volumes=[{size - size % batch}]" if size >= batch else few
        message = explain("data.volumes", got=largest, allowed=f"at most the {_rows(size, taught)} of data={config.labels.data}", fix=fix)
        raise DataError(message)
    anchor, wanted = _taught_anchor(config, resolved, workspace), config.mitigation.least_anchor_rows(largest * config.training.epochs)
    if anchor and wanted > len(anchor.rows):
        fix = "a smaller volume or mitigation.fraction, or a larger anchor: each row is used once"
        got = _rows(len(anchor.rows), anchor)
        raise DataError(explain(f"anchor={config.labels.anchor}", got=got, allowed=f"at least {wanted}", fix=fix))


def _rows(size: int, taught: TaughtRows) -> str:
    """Return a number of rows in words, with the reason why there are no more."""
    return f"{size} rows{f' that teach ({taught.in_words()})' if taught.content else ''}"


def check_together(runs: Sequence[Prepared]) -> None:
    """Reject a sweep whose runs differ in declarations or dtype policy. Raises ConfigError.

    Differences between methods could come from margins or rounding instead. A run that is asked for
    twice has to be measured in one way: a table shows one.
    """
    first: dict[str, Prepared] = {}
    for run in runs:
        one = first.setdefault(run.run_id, run)
        if (one.evaluation_ids, one.before_sha256) != (run.evaluation_ids, run.before_sha256):
            got, fix = f"two of them for run {run.run_id}", "remove it from the axes, and give each a name=NAME of its own"
            raise ConfigError(explain("evaluation, suites or reference", got=got, allowed="one way to measure a run", fix=fix))
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
    suites_of.load(name)
    tokenizer = workspace.tokenizer_of(config)
    prompts.require_format(evaluation, tokenizer, config.labels.model)
    prepared = workspace.suite_of(name, config)
    return list(prompts.shown(prepared, evaluation, tokenizer, config.model.longest_input(), number).values())
