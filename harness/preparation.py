"""A run before it starts: every check of config, data and suites, and its identity. Nothing is built, nothing is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness import PROTOCOL_VERSION, compose, plan
from harness.config import RunConfig, plain
from harness.data import subsets
from harness.errors import ConfigError, DataError, explain
from harness.evaluation import adapter, content, prompts, suites
from harness.evaluation.adapter import PreparedSuite
from harness.evaluation.backends import Evaluation
from harness.evaluation.suites import Suite
from harness.interfaces import Example, ModelFacts, Origin, Row, Source, Split
from harness.plan import Resolved
from harness.records import Experiment
from harness.schema import Role
from harness.seeds import permutation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Workspace:
    """What runs of one process share, so that it is read or built once: rows, model facts, suites with their tasks."""

    rows: dict[str, Sequence[Row]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    facts: dict[str, ModelFacts] = field(default_factory=dict)
    suites: dict[str, PreparedSuite] = field(default_factory=dict)
    suite_identities: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: dict[str, dict[str, Example]] = field(default_factory=dict)
    tokenizers: dict[str, PreTrainedTokenizerBase] = field(default_factory=dict)
    tokenizer_contents: dict[str, str] = field(default_factory=dict)

    def rows_of(self, source: Source, split: Split = "train") -> Sequence[Row]:
        """Return the rows of a source."""
        key = _key(source, split)
        if key not in self.rows:
            self.rows[key] = source.rows(split)
            self.fingerprints[key] = subsets.fingerprint(self.rows[key])
        return self.rows[key]

    def fingerprint_of(self, source: Source) -> str:
        """Return the content hash of a source's training rows."""
        self.rows_of(source)
        return self.fingerprints[_key(source, "train")]

    def facts_of(self, config: RunConfig) -> ModelFacts:
        """Return what is known of a run's model before it is built."""
        key = plan.identify(plain(config.model))
        if key not in self.facts:
            self.facts[key] = config.model.facts()
        return self.facts[key]

    def identity_of(self, name: str, config: RunConfig) -> dict[str, Any]:
        """Return what decides the scores of a suite."""
        suite = suites.load(name)
        source = source_of(suite, config)
        key = f"{name} {_key(source, suite.split)}"
        if key not in self.suite_identities:
            self.suite_identities[key] = adapter.identity(suite, self.rows_of(source, suite.split) if source else ())
        return self.suite_identities[key]

    def suite_of(self, name: str, config: RunConfig) -> PreparedSuite:
        """Return a suite with its tasks built, or rows taken, and items chosen."""
        suite, evaluation = suites.load(name), cast(Evaluation, config.evaluation)
        source = source_of(suite, config)
        key = f"{name} {evaluation.items} {evaluation.prompt_format} {_key(source, suite.split)}"
        if key not in self.suites:
            self.suites[key] = adapter.prepare(suite, evaluation, self.rows_of(source, suite.split) if source else ())
        return self.suites[key]

    def tokenizer_of(self, config: RunConfig) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a run's model."""
        key = plan.identify(plain(config.model))
        if key not in self.tokenizers:
            self.tokenizers[key] = config.model.tokenizer()
            self.tokenizer_contents[key] = content.of_tokenizer(self.tokenizers[key])
        return self.tokenizers[key]

    def tokenizer_content_of(self, config: RunConfig) -> str:
        """Return the content hash of the tokenizer, chat template included, of a run's model."""
        self.tokenizer_of(config)
        return self.tokenizer_contents[plan.identify(plain(config.model))]

    def encoded(self, config: RunConfig, resolved: Resolved, rows: Sequence[Row], origin: Origin) -> list[Example]:
        """Return rows as tokens; each row is encoded once for all runs of the same model and objective."""
        key = plan.identify({"of": plain([config.model, config.objective]), "length": resolved.max_length, "origin": origin})
        known, tokenizer = self.examples.setdefault(key, {}), self.tokenizer_of(config)
        ids = [row.id for row in rows]
        for row_id, row in zip(ids, rows, strict=True):
            if row_id not in known:
                known[row_id] = config.objective.encode(row, tokenizer, resolved.max_length, origin)
        return [known[row_id] for row_id in ids]


def _key(source: Source | None, split: Split) -> str:
    """Return what tells the rows of one source and split from others."""
    return plan.identify(plain(source) | {"volumes": None, "split": split}) if source else ""


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
        rows: target rows in the order they are trained on, the largest volume of them (each epoch in its own order).
        anchor: anchor rows in the order they are drawn.
        identity: decides ``run_id``.
        baseline_identities: suite → what decides its volume 0 and is known before its tasks are built.
    """

    config: RunConfig
    facts: ModelFacts
    resolved: Resolved
    rows: Sequence[Row]
    anchor: Sequence[Row]
    identity: Mapping[str, Any]
    baseline_identities: Mapping[str, Mapping[str, Any]]
    workspace: Workspace

    @cached_property
    def run_id(self) -> str:
        """Hash of the identity."""
        return plan.identify(self.identity)

    @property
    def experiment(self) -> Experiment:
        """Where it is recorded."""
        return Experiment(Path(self.config.results) / self.config.name)

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


def prepare(config: RunConfig, workspace: Workspace) -> Prepared:
    """Check everything that can be checked before a model is built or a file written, and identify the run.

    Raises:
        HarnessError: ConfigError, DataError, ModelError or EvaluationError, one line each.
    """
    Experiment(Path(config.results) / config.name).require_writable()
    definitions = {name: suites.load(name) for name in (*config.target_suites, *config.probe_suites)}
    facts = workspace.facts_of(config)
    resolved = plan.resolve(config, facts, compose.searched_rates(), cores=os.cpu_count() or 1, cuda=_has_gpu())
    rows = _target_rows(config, workspace)
    anchor = _anchor_rows(config, workspace)
    evaluation = plain(config.evaluation) | {"dtype": resolved.evaluation_dtype}
    suite_inputs = {name: workspace.identity_of(name, config) for name in definitions}
    tokenizer = workspace.tokenizer_content_of(config)
    shared = {
        "model": plain(facts.content),
        "tokenizer": tokenizer,
        "context_length": facts.context_length,
        "evaluation": evaluation,
        "threads": resolved.threads,
        "protocol_version": PROTOCOL_VERSION,
    }
    inputs = {
        "model": facts.content,
        "tokenizer": tokenizer,
        "context_length": facts.context_length,
        "data": workspace.fingerprint_of(config.data),
        "anchor": workspace.fingerprint_of(config.anchor) if config.anchor and config.mitigation.needs_anchor else None,
        "target_suites": {name: suite_inputs[name] for name in config.target_suites},
        "probe_suites": {name: suite_inputs[name] for name in config.probe_suites},
    }
    return Prepared(
        config=config,
        facts=facts,
        resolved=resolved,
        rows=rows,
        anchor=anchor,
        identity=plan.identity(config, resolved, inputs),
        baseline_identities={name: shared | {"suite": identity} for name, identity in suite_inputs.items()},
        workspace=workspace,
    )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _target_rows(config: RunConfig, workspace: Workspace) -> list[Row]:
    rows, largest = workspace.rows_of(config.data), max(config.data.volumes)
    if largest > len(rows):
        batch = config.training.batch_rows
        fix = (
            f"data.volumes=[{len(rows) - len(rows) % batch}]" if len(rows) >= batch else f"training.batch_rows={len(rows)} and as many rows"
        )
        message = explain("data.volumes", got=largest, allowed=f"at most the {len(rows)} rows of data={config.labels.data}", fix=fix)
        raise DataError(message)
    subset = subsets.order(rows, config.seed)[:largest]
    orders = [permutation(config.seed, largest, "data-order", f"epoch {epoch}") for epoch in range(1, config.training.epochs)]
    return [rows[i] for order in [list(range(largest)), *orders] for i in (subset[position] for position in order)]


def _anchor_rows(config: RunConfig, workspace: Workspace) -> list[Row]:
    wanted = config.mitigation.anchor_rows(max(config.data.volumes) * config.training.epochs)
    if not config.mitigation.needs_anchor or config.anchor is None:
        return []
    rows = workspace.rows_of(config.anchor)
    if wanted > len(rows):
        fix = "a smaller volume or mitigation.fraction, or a larger anchor"
        raise DataError(explain(f"anchor={config.labels.anchor}", got=f"{len(rows)} rows", allowed=f"at least {wanted}", fix=fix))
    return [rows[i] for i in permutation(config.seed, len(rows), "anchor-order")]


def done(prepared: Prepared) -> bool:
    """Say whether every volume asked for is recorded, complete, and measured without failure."""
    experiment, run_id = prepared.experiment, prepared.run_id
    record = experiment.record(run_id)
    if record is None or not set(prepared.volumes) <= set(record.volumes):
        return False
    points = [experiment.point(run_id, volume) for volume in prepared.volumes]
    baselines = [experiment.baseline(baseline_id) for baseline_id in record.baselines.values()]
    complete = [item is not None and all(score.status == "ok" for score in item.scores) for item in [*points, *baselines]]
    return all(complete)


def check_together(runs: Sequence[Prepared]) -> None:
    """Refuse a sweep whose runs differ in dtype policy: a difference between methods could be one of rounding. Raises ConfigError."""
    policies = sorted({f"{run.resolved.dtype} training, {run.resolved.evaluation_dtype} evaluation" for run in runs})
    if len(policies) > 1:
        fix = "one training.dtype and one evaluation.dtype for the whole sweep"
        raise ConfigError(explain("dtype", got=" and ".join(policies), allowed="one policy a sweep", fix=fix))


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
