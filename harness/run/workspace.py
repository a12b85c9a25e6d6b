"""Inputs that runs of one process share: rows, model facts, suites, other models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from harness.config import composition
from harness.config.identity import identify
from harness.config.resolution import Machine, Resolved, SearchedRate
from harness.config.run_config import RunConfig
from harness.config.strict import identifying
from harness.core.errors import ConfigError, HarnessError, explain
from harness.core.rows import Example, Origin, Row, Split
from harness.core.sources import ModelFacts, ModelSource, Source
from harness.data import subsets
from harness.data.teaching import TaughtRows, taught_rows
from harness.evaluation import evaluator, hashes, suites
from harness.evaluation.evaluator import PreparedSuite
from harness.evaluation.suites import Suite
from harness.records import provenance
from harness.records.writer import ExperimentWriter
from harness.run import reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Found = TypeVar("Found")


@dataclass
class Workspace:
    """Inputs that the runs of one process share, each read or built once.

    They are cached by the content of the configuration's objects. Errors are cached too, and raised
    again at once: a missing model is looked for once, not for each of its thousand runs.
    """

    known: dict[Hashable, Any] = field(default_factory=dict)
    errors: dict[Hashable, HarnessError] = field(default_factory=dict)
    examples: dict[str, dict[str, Example]] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """Return the first result of ``make`` for a key, or raise its first error."""
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
        """Forget cached errors, so that inputs are read again: the network may be back."""
        self.errors.clear()

    def machine(self) -> Machine:
        """Return the hardware that a run may use on this machine."""
        return self.once("machine", this_machine)

    def searched_rates(self) -> tuple[SearchedRate, ...]:
        """Return the learning rates that searches have found."""
        return self.once("searched rates", composition.searched_rates)

    def suite(self, name: str) -> Suite:
        """Return a suite's definition."""
        return self.once(("suite", name), lambda: suites.load(name))

    def require_writable(self, experiment: ExperimentWriter) -> None:
        """Raise ConfigError unless an experiment's folder can be written to."""
        self.once(("writable", experiment.folder), experiment.require_writable)

    def rows_of(self, source: Source, split: Split = "train") -> Sequence[Row]:
        """Return the rows of a source."""
        return self.once(("rows", self._key(source, split)), lambda: source.rows(split))

    def fingerprint_of(self, source: Source) -> str:
        """Return the content hash of a source's training rows."""
        return self.once(("fingerprint", self._key(source, "train")), lambda: subsets.fingerprint(self.rows_of(source)))

    def taught(self, config: RunConfig, resolved: Resolved, source: Source) -> TaughtRows:
        """Return the training rows of a source that teach a run's objective something."""
        key = ("taught", self._key(source, "train"), content_key(config.model, config.objective), resolved.max_length, source.stage_ends)

        def find() -> TaughtRows:
            return taught_rows(
                self.rows_of(source), subsets.parts(source), config.objective, self.tokenizer_of(config), resolved.max_length
            )

        return self.once(key, find)

    def facts_of(self, config: RunConfig) -> ModelFacts:
        """Return the facts of a run's model that are known before it is built."""
        return self.facts_of_model(config.model)

    def facts_of_model(self, model: ModelSource) -> ModelFacts:
        """Return the facts of a model that are known before it is built."""
        return self.once(("facts", content_key(model)), model.facts)

    def select_suites(self, config: RunConfig) -> dict[str, PreparedSuite]:
        """Return the target suites of a run with their select items.

        Raises EvaluationError if a suite has none.
        """
        evaluation = config.evaluation.for_items("select")
        return {name: self.suite_of(name, dataclasses.replace(config, evaluation=evaluation)) for name in config.target_suites}

    def suite_of(self, name: str, config: RunConfig) -> PreparedSuite:
        """Return a suite with its tasks built, or its rows read, and its items chosen."""
        suite, evaluation = self.suite(name), config.evaluation
        source = source_of(suite, config)
        rows = self.rows_of(source, suite.split) if source else ()
        key = ("prepared suite", name, evaluation.items, evaluation.limit, evaluation.prompt_format, self._key(source, suite.split))
        return self.once(key, lambda: evaluator.prepare(suite, evaluation, rows))

    def tokenizer_of(self, config: RunConfig) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a run's model."""
        return self.once(("tokenizer", content_key(config.model)), config.model.tokenizer)

    def tokenizer_content_of(self, config: RunConfig) -> str:
        """Return the content hash of the tokenizer, chat template included, of a run's model."""
        return self.once(("tokenizer content", content_key(config.model)), lambda: hashes.of_tokenizer(self.tokenizer_of(config)))

    def encoded(self, config: RunConfig, resolved: Resolved, rows: Sequence[Row], origin: Origin) -> list[Example]:
        """Return rows as tokens.

        Each row is encoded once for all runs of the same model and objective.
        """
        key = identify({"of": identifying([config.model, config.objective]), "length": resolved.max_length, "origin": origin})
        known, tokenizer = self.examples.setdefault(key, {}), self.tokenizer_of(config)
        ids = [row.id for row in rows]
        missing = {row_id: row for row_id, row in zip(ids, rows, strict=True) if row_id not in known}
        new = dict(sorted(missing.items(), key=lambda one: one[1].text if one[1].part else ""))  # pieces of a text together
        found = [config.objective.encode(row, tokenizer, resolved.max_length, origin) for row in new.values()]
        reading.check_rows(list(new.values()), found, self.facts_of(config), resolved, config)
        known |= dict(zip(new, found, strict=True))
        return [known[row_id] for row_id in ids]

    def _key(self, source: Source | None, split: Split) -> str:
        """Return the key of a source's rows in a split, at any volumes."""
        found = self.once(("key", content_key(source)), lambda: identify((identifying(source) or {}) | {"volumes": None}))
        return f"{found} {split}" if source else ""


def content_key(*values: Any) -> Hashable:
    """Return a key of configuration objects, in microseconds; equal objects have equal keys."""
    return tuple((type(value), repr(value)) for value in values)


def source_of(suite: Suite, config: RunConfig) -> Source | None:
    """Return the source of a suite's rows; None for tasks of lm-eval.

    It is the run's own target or anchor, or a member of conf/data.

    Raises:
        ConfigError: for the anchor of a run without one, or a member that does not exist.
    """
    if suite.kind == "lm_eval":
        return None
    if suite.data == "anchor" and config.anchor is None:
        fix = "anchor=NAME, any of conf/data (`harness list anchor`)"
        raise ConfigError(explain(f"suite {suite.name}", got="a run without an anchor", allowed="a run with one", fix=fix))
    own = {"target": config.data, "anchor": config.anchor}
    source: Source | None = own[suite.data] if suite.data in own else composition.member("data", str(suite.data))
    return source


def this_machine() -> Machine:
    """Return the hardware that a run may use: all cores, and one GPU if present."""
    return Machine(cores=provenance.cores(), gpus=int(_has_gpu()), gpu_bytes=provenance.gpu_bytes())


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
