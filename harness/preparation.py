"""A run before it starts: every check of config, data and suites, and its identity. Nothing is built, nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from harness import PROTOCOL_VERSION, compose, other_models, plan, provenance
from harness.config import RunConfig, plain
from harness.data import subsets
from harness.errors import ConfigError, DataError, HarnessError, explain
from harness.evaluation import adapter, content, prompts, suites
from harness.evaluation.adapter import PreparedSuite
from harness.evaluation.backends import Evaluation
from harness.evaluation.suites import Suite
from harness.interfaces import Example, ModelFacts, ModelSource, Origin, Row, Source, Split
from harness.plan import Machine, Resolved, SearchedRate
from harness.records import Experiment
from harness.schema import Role
from harness.seeds import permutation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Found = TypeVar("Found")


@dataclass
class Workspace:
    """What runs of one process share, so that it is read or built once: rows, model facts, suites with their tasks.

    All of it is kept by the content of the configuration's objects. What could not be read is remembered too, and raised again at
    once: a model that is not on this machine is looked for once, not for each of its thousand runs.
    """

    known: dict[Hashable, Any] = field(default_factory=dict)
    errors: dict[Hashable, HarnessError] = field(default_factory=dict)
    examples: dict[str, dict[str, Example]] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """Return what ``make`` gave the first time for this key, or raise the error that it raised then."""
        if key not in self.known:
            if key in self.errors:
                raise type(self.errors[key])(str(self.errors[key]))
            try:
                self.known[key] = make()
            except HarnessError as error:
                self.errors[key] = error
                raise
        found: Found = self.known[key]
        return found

    def forget_errors(self) -> None:
        """Look again for what could not be read: it may have been the network."""
        self.errors.clear()

    def machine(self) -> Machine:
        """Return what a run may use here."""
        return self.once("machine", this_machine)

    def searched_rates(self) -> tuple[SearchedRate, ...]:
        """Return the learning rates that searches have found."""
        return self.once("searched rates", compose.searched_rates)

    def suite(self, name: str) -> Suite:
        """Return a suite's definition."""
        return self.once(("suite", name), lambda: suites.load(name))

    def require_writable(self, experiment: Experiment) -> None:
        """Raise ConfigError unless an experiment's folder can be written to."""
        self.once(("writable", experiment.folder), experiment.require_writable)

    def rows_of(self, source: Source, split: Split = "train") -> Sequence[Row]:
        """Return the rows of a source."""
        return self.once(("rows", self._key(source, split)), lambda: source.rows(split))

    def fingerprint_of(self, source: Source) -> str:
        """Return the content hash of a source's training rows."""
        return self.once(("fingerprint", self._key(source, "train")), lambda: subsets.fingerprint(self.rows_of(source)))

    def facts_of(self, config: RunConfig) -> ModelFacts:
        """Return what is known of a run's model before it is built."""
        return self.facts_of_model(config.model)

    def facts_of_model(self, model: ModelSource) -> ModelFacts:
        """Return what is known of a model before it is built."""
        return self.once(("facts", _content(model)), model.facts)

    def select_suites(self, config: RunConfig) -> dict[str, PreparedSuite]:
        """Return the target suites of a run with the items on which things may be chosen. Raises EvaluationError where one has none."""
        evaluation = dataclasses.replace(cast(Evaluation, config.evaluation), items="select")
        return {name: self.suite_of(name, dataclasses.replace(config, evaluation=evaluation)) for name in config.target_suites}

    def identity_of(self, name: str, config: RunConfig) -> dict[str, Any]:
        """Return what decides the scores of a suite."""
        suite = self.suite(name)
        source = source_of(suite, config)
        rows = self.rows_of(source, suite.split) if source else ()
        return self.once(("suite identity", name, self._key(source, suite.split)), lambda: adapter.identity(suite, rows))

    def suite_of(self, name: str, config: RunConfig) -> PreparedSuite:
        """Return a suite with its tasks built, or rows taken, and items chosen."""
        suite, evaluation = self.suite(name), cast(Evaluation, config.evaluation)
        source = source_of(suite, config)
        rows = self.rows_of(source, suite.split) if source else ()
        key = ("prepared suite", name, evaluation.items, evaluation.prompt_format, self._key(source, suite.split))
        return self.once(key, lambda: adapter.prepare(suite, evaluation, rows))

    def tokenizer_of(self, config: RunConfig) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a run's model."""
        return self.once(("tokenizer", _content(config.model)), config.model.tokenizer)

    def tokenizer_content_of(self, config: RunConfig) -> str:
        """Return the content hash of the tokenizer, chat template included, of a run's model."""
        return self.once(("tokenizer content", _content(config.model)), lambda: content.of_tokenizer(self.tokenizer_of(config)))

    def encoded(self, config: RunConfig, resolved: Resolved, rows: Sequence[Row], origin: Origin) -> list[Example]:
        """Return rows as tokens; each row is encoded once for all runs of the same model and objective."""
        key = plan.identify({"of": plain([config.model, config.objective]), "length": resolved.max_length, "origin": origin})
        known, tokenizer = self.examples.setdefault(key, {}), self.tokenizer_of(config)
        ids = [row.id for row in rows]
        for row_id, row in zip(ids, rows, strict=True):
            if row_id not in known:
                known[row_id] = config.objective.encode(row, tokenizer, resolved.max_length, origin)
        return [known[row_id] for row_id in ids]

    def _key(self, source: Source | None, split: Split) -> str:
        """Return what tells the rows of one source and split from others: everything but the volumes."""
        found = self.once(("key", _content(source)), lambda: plan.identify((plain(source) or {}) | {"volumes": None}))
        return f"{found} {split}" if source else ""


def _content(*values: Any) -> Hashable:
    """Return a key by what configuration objects hold: equal objects have equal keys, at the price of a few microseconds."""
    return tuple((type(value), repr(value)) for value in values)


def source_of(suite: Suite, config: RunConfig) -> Source | None:
    """Return where a suite's rows come from: a member of conf/data, or the run's own target or anchor; None for lm-eval's tasks.

    Raises:
        ConfigError: for the anchor of a run that has none, or a member that does not exist.
    """
    if suite.kind == "lm_eval":
        return None
    if suite.data == "anchor" and config.anchor is None:
        fix = "anchor=NAME, any of conf/data (`harness list anchor`)"
        raise ConfigError(explain(f"suite {suite.name}", got="a run without an anchor", allowed="a run with one", fix=fix))
    own = {"target": config.data, "anchor": config.anchor}
    source: Source | None = own[suite.data] if suite.data in own else compose.member("data", str(suite.data))
    return source


@dataclass(frozen=True)
class Prepared:
    """A run that has passed every check.

    Attributes:
        identity: decides ``run_id``.
        reference: the model that volume 0 is measured on, where it is another one than the start model.
        baseline_identities: suite → what decides its volume 0 and is known before its tasks are built.
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
        return plan.identify(self.identity)

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
        return plan.chooses(self.config.mitigation) or self.config.mitigation.keeps_best

    @property
    def stands_for(self) -> float | None:
        """The coefficient whose weights are this run's own points; None where there is none, or it is chosen at each volume."""
        mitigation = self.config.mitigation
        if mitigation.coefficient is None and len(mitigation.coefficients) == 1:
            return mitigation.coefficients[0]
        return mitigation.coefficient if mitigation.coefficients else None

    @property
    def derived(self) -> dict[float, str]:
        """The coefficients that are measured beside it → the run ids of these measurements, ascending."""
        return {one: plan.derived(self.run_id, one) for one in sorted(self.config.mitigation.coefficients) if one != self.stands_for}

    @property
    def experiment(self) -> Experiment:
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


def experiment_of(config: RunConfig) -> Experiment:
    """Return where a run is recorded."""
    return Experiment(Path(config.results) / config.name)


def prepare(config: RunConfig, workspace: Workspace, machine: Machine | None = None) -> Prepared:
    """Check everything that can be checked before a model is built or a file written, and identify the run.

    Args:
        config: of one run.
        workspace: what it shares with others.
        machine: what it may use; None is this machine.

    Raises:
        HarnessError: ConfigError, DataError, ModelError or EvaluationError, one line each. A ModelError or a DataError says that a piece
            cannot be used, or is not on this machine; it comes at once for the next run that needs the same piece.
    """
    workspace.require_writable(experiment_of(config))
    for name in (*config.target_suites, *config.probe_suites):
        workspace.suite(name)
    _check_headline(config, workspace)
    plan.check_chosen_on(config, {name: workspace.suite(name).metric for name in config.target_suites})
    facts = workspace.facts_of(config)
    resolved = plan.resolve(config, facts, workspace.searched_rates(), machine or workspace.machine())
    _check_sizes(config, workspace)
    reference = other_models.reference_of(config, workspace)
    inputs = _inputs(config, workspace, reference)
    identities, keys = _baselines(config, resolved, inputs, workspace)
    return Prepared(
        config=config,
        facts=facts,
        resolved=resolved,
        identity=plan.identity(config, resolved, inputs),
        baseline_identities=identities,
        baseline_keys=keys,
        workspace=workspace,
        reference=reference,
    )


def _inputs(config: RunConfig, workspace: Workspace, reference: ModelSource | None) -> dict[str, Any]:
    """Return the content of what goes into a run, as plain values; worked out once for all runs of the same inputs."""
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
    """Return what decides the volume 0 of each suite, and its hash; worked out once for all runs that start from the same."""

    def find() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        shared = {
            "model": inputs.get("reference", inputs["model"]),  # asked exactly as the start model: its tokenizer, its context
            **{name: inputs[name] for name in ("tokenizer", "context_length")},
            "evaluation": plain(config.evaluation) | {"dtype": resolved.evaluation_dtype},
            "threads": resolved.threads,
            "protocol_version": PROTOCOL_VERSION,
        }
        measured = inputs["target_suites"] | inputs["probe_suites"]
        identities = {name: shared | {"suite": suite} for name, suite in measured.items()}
        return identities, {name: plan.identify(found) for name, found in identities.items()}

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


def this_machine() -> Machine:
    """Return what a run may use here: several GPUs only where it asks for several processes."""
    return Machine(cores=provenance.cores(), gpus=int(_has_gpu()))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


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
    """Say whether every volume asked for is recorded, complete, and measured without failure; of the runs derived from it, too."""
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
    """Refuse a sweep whose runs differ in what they declare, or in dtype policy. Raises ConfigError.

    A difference between methods could be one of rounding, or of margins.
    """
    policies = sorted({f"{run.resolved.dtype} training, {run.resolved.evaluation_dtype} evaluation" for run in runs})
    if len(policies) > 1:
        fix = "one training.dtype and one evaluation.dtype for the whole sweep"
        raise ConfigError(explain("dtype", got=" and ".join(policies), allowed="one policy a sweep", fix=fix))
    if any(run.config.declared != runs[0].config.declared for run in runs):
        raise ConfigError(explain("declared", got="several values", allowed="one for the whole sweep", fix="no axis of declared"))


def prompts_of(name: str, config: RunConfig, number: int) -> list[str]:
    """Show one item of each task of a suite as a run would send it to its model; of the model, only the tokenizer is loaded.

    Raises:
        HarnessError: for what cannot be evaluated, one line.
    """
    workspace, evaluation = Workspace(), cast(Evaluation, config.evaluation)
    suites.load(name)
    tokenizer = workspace.tokenizer_of(config)
    prompts.require_format(evaluation, tokenizer, config.labels.model)
    prepared = workspace.suite_of(name, config)
    return list(prompts.shown(prepared, evaluation, tokenizer, config.model.longest_input(), number).values())
