"""``harness measure BASE CHECKPOINT…``: from command-line arguments to output and exit code."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.config import paths
from harness.config.identity import content_sha256
from harness.config.run_config import RunConfig
from harness.core.display import OUTPUT, display
from harness.core.errors import ConfigError, DataError, EvaluationError, ModelError, explain
from harness.core.progress import Progress
from harness.core.sources import ModelFacts, ModelSource
from harness.external import gate, limits, models
from harness.external.checkpoints import finding, plan, states, told
from harness.external.checkpoints.measuring import MeasuredRun
from harness.external.checkpoints.plan import Placed
from harness.external.gate_files import GateFiles
from harness.external.gate_lines import sentences
from harness.external.judge import Comparison
from harness.models.hub import HubModel
from harness.models.loading import load
from harness.models.vocabulary import differences, require_rows
from harness.models.weights import NUMBERED, numbered
from harness.run import preparation
from harness.run.preparation import Prepared, experiment_of
from harness.run.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMMAND = "measure"

DEFAULT = {"english": ("english_offline",), "arc": (), "commonsense": (), "blimp": (), "format": ()}
"""Suites of real models, if none are asked for: English text in nats, facts, reasoning about
everyday life, grammar, instructions; and what replaces one whose data are not on this machine.
``format`` is asked of chat models, under their template, alone."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request to measure, as the command line states it.

    Attributes:
        base: the model that training started from, as typed.
        name: of the experiment.
        suites: that are measured.
        targets: those of them that are learned.
        overrides: of the evaluation.
        margin: a change within ±margin is negligible.
    """

    base: str
    name: str
    suites: tuple[str, ...]
    targets: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    margin: float = 0.02

    def config(self, source: str) -> tuple[RunConfig, list[str]]:
        """Return the configuration that measures a model, and notes for the reader."""
        fallback = None if source == self.base else self.base
        config, notes = models.config_of(
            source, [one for one in self.suites if one not in self.targets], self.overrides, fallback, self.name
        )
        return dataclasses.replace(config, target_suites=self.targets), notes


def measure_command(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Measure the checkpoints of trainings elsewhere, show their losses, and write the page.

    Args:
        arguments: sources, name, suites, target, limit, rows_per_step, margin, max_loss, mean,
            junit, summary, overrides, as parsed.
        say: prints on standard output.

    Returns:
        The exit code: 0, or with ``--max-loss`` that of the gate on the last checkpoint, without
        the target suites.

    Raises:
        HarnessError: if a source cannot be measured; what was measured is kept.
    """
    allowed = limits.read(arguments.max_loss, arguments.mean)
    files = GateFiles(junit=arguments.junit, summary=arguments.summary)
    files.check(COMMAND)
    base, checkpoints, overrides = sources(arguments.sources, arguments.overrides)
    if allowed:
        _require_last(checkpoints)
    places = plan.placed(finding.find(checkpoints), arguments.rows_per_step)
    asked = asked_for(arguments, base, overrides, places[0].training.name)
    if allowed:
        allowed.check_names([one for one in asked.suites if one not in asked.targets])
    with display() as progress:
        rows = list(measured(asked, places, progress))
    last = _without(rows[-1][1], asked.targets)
    decided = gate.decide(last.aggregates, allowed, last.after.lacks) if allowed else None
    files.write(last, decided)
    say(told.summary(rows))
    if decided:
        say("\n".join([f"gate, {last.after.name}:", *sentences(decided), ""]))
    told.finish(experiment_of(asked.config(asked.base)[0]), say)
    return decided.code if decided else 0


def _require_last(sources: Sequence[str]) -> None:
    """Reject a gate on an output folder whose last checkpoint is incomplete. Raises ModelError."""
    for folder in (paths.expanded(source) for source in sources):
        last = numbered(folder)[-1:] if folder.is_dir() and not NUMBERED.fullmatch(folder.name) else []
        for one in last:
            if reason := finding.lacks(one):
                raise ModelError(reason)


def _without(comparison: Comparison, targets: Sequence[str]) -> Comparison:
    """Return a comparison without the suites of what is learned, which a gate does not limit."""
    rows, others, items = (frame[~frame["suite"].isin(targets)] for frame in (comparison.rows, comparison.others, comparison.items))
    aggregates = tuple(one for one in comparison.aggregates if one.name not in targets)
    return dataclasses.replace(comparison, rows=rows, others=others, items=items, aggregates=aggregates)


def sources(given: Sequence[str], overrides: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Return base, checkpoints and overrides of a command line. Raises ConfigError without any."""
    is_override = [bool(re.match(r"[+~]?[A-Za-z_][\w.@]*=", text)) and not paths.expanded(text).exists() for text in given]
    named = [text for text, of in zip(given, is_override, strict=True) if not of]
    if len(named) < 2:
        got = f"{' '.join(named) or 'nothing'}, without a checkpoint"
        raise ConfigError(explain(COMMAND, got=got, allowed="BASE and at least one CHECKPOINT", fix="harness measure BASE OUTPUT_DIR"))
    return named[0], named[1:], [*(text for text, of in zip(given, is_override, strict=True) if of), *overrides]


def asked_for(arguments: argparse.Namespace, base: str, overrides: Sequence[str], training: str) -> Asked:
    """Return what is asked, with the default suites where none are named.

    Raises ConfigError.
    """
    models.check_overrides(overrides, arguments.command, "use BASE, --suites and --target")
    own = [text for text in overrides if not text.startswith("name=")]
    named = [text.removeprefix("name=") for text in overrides if text.startswith("name=")]
    name = arguments.name or next(iter(named), "") or re.sub(r"[^A-Za-z0-9._-]+", "-", training.rsplit("/", 1)[-1]).strip("-._") or COMMAND
    limit = [f"evaluation.limit={arguments.limit}"] if arguments.limit is not None else []
    targets = tuple(models.suite_names(arguments.target)) if arguments.target else ()
    asked = Asked(base=base, name=name, suites=targets, targets=targets, overrides=(*limit, *own), margin=arguments.margin)
    suites = models.suite_names(arguments.suites) if arguments.suites else default_suites(asked)
    if set(suites) <= set(targets):
        got, allowed = f"{', '.join(suites)}, all of which --target has", "at least one suite that may be forgotten"
        raise ConfigError(explain(f"{arguments.command}: --suites", got=got, allowed=allowed, fix="omit it from --target, or name another"))
    return dataclasses.replace(asked, suites=tuple(dict.fromkeys([*suites, *targets])))


def default_suites(asked: Asked) -> list[str]:
    """Return the suites of real models whose data are on this machine or can be fetched.

    Raises ConfigError if there are none.
    """
    workspace, found = Workspace(), []
    config, _ = dataclasses.replace(asked, suites=tuple(DEFAULT)[:1], targets=()).config(asked.base)
    for name, others in DEFAULT.items():
        if name == "format" and config.evaluation.prompt_format != "chat":
            OUTPUT.message("suite format left out: it is asked of chat models (evaluation.prompt_format=chat)")
            continue
        reasons = []
        for one in (name, *others):
            try:
                workspace.suite_of(one, config)
            except (DataError, EvaluationError) as error:
                reasons.append(str(error))
                continue
            found.append(one)
            break
        else:
            OUTPUT.message(f"suite {name} left out: {reasons[0]}")
    if not found:
        fix = "--suites NAMES, of `harness list suites`, lm-eval's tasks (`harness list lm_eval`) or a path"
        raise ConfigError(
            explain(f"{asked.name}: --suites", got="none, and no data of the default suites", allowed=", ".join(DEFAULT), fix=fix)
        )
    return found


def measured(asked: Asked, places: Sequence[Placed], progress: Progress) -> Iterator[tuple[Placed, Comparison]]:
    """Measure base and checkpoints, and yield each with its comparison.

    Every checkpoint is checked before the first is measured.
    """
    base = prepared(asked, progress)
    found = [checked(asked, base, one, progress) for one in places]
    places, sources = _distinct(base, [one for one, _ in found], [source for _, source in found], progress)
    for line in told.plan(base, places):
        progress.say(line)
    runs: dict[str, MeasuredRun] = {}
    for one in places:
        if one.training.name not in runs:
            run = runs[one.training.name] = MeasuredRun(base, one.training, progress, asked.margin)
            run.start()
    for name, run in runs.items():
        for line in _of_another_training(run, [one for one in places if one.training.name == name]):
            progress.say(line)
    left = [one for one, source in zip(places, sources, strict=True) if runs[one.training.name].lacks(one.volume, _content(base, source))]
    progress.say(told.minutes(base, len(left)))
    for one, source in zip(places, sources, strict=True):
        yield one, measure_checkpoint(runs[one.training.name], one, source)


def _of_another_training(run: MeasuredRun, places: Sequence[Placed]) -> Iterator[str]:
    """Yield a line on recorded points whose loss the log of the last checkpoint does not have.

    Those that are measured now are replaced, so they are none of them.
    """
    experiment, last, now, other = run.prepared.experiment, places[-1], {one.volume for one in places}, []
    for volume in experiment.volumes(run.run_id):
        point = experiment.point(run.run_id, volume)
        if point is not None and volume < last.volume and volume not in now and point.counts.targets:
            logged = states.loss_at(paths.expanded(last.checkpoint.source), point.counts.step)
            other += [run.in_words(volume)] if logged is not None and logged != point.counts.nats else []
    if other:
        name, results = last.training.name, f"results/{run.prepared.config.name}"
        yield f"{name}: points of an earlier training are among its own in {results}, at {', '.join(other)}; fix: --name OTHER"


def _content(base: Prepared, source: ModelSource) -> str:
    """Return the hash of a model's content, which names its measurements."""
    return content_sha256(base.workspace.facts_of_model(source).content)


def _distinct(
    base: Prepared, places: Sequence[Placed], sources: Sequence[ModelSource], progress: Progress
) -> tuple[list[Placed], list[ModelSource]]:
    """Leave out final weights that equal those of a checkpoint of the same training."""
    weights = [_weights(base, source) for source in sources]
    at = {(one.checkpoint.group_key, of): one for one, of in zip(places, weights, strict=True) if one.training.axis != "checkpoint"}
    kept = []
    for one, source, of in zip(places, sources, weights, strict=True):
        same = at.get((one.checkpoint.group_key, of), one)
        if same is not one and one.training.axis == "checkpoint":
            progress.say(f"{one.checkpoint.source}: the same weights as {same.checkpoint.source}, measured once")
        else:
            kept.append((one, source))
    return [one for one, _ in kept], [source for _, source in kept]


def _weights(base: Prepared, source: ModelSource) -> tuple[str, ...]:
    """Return the hashes of a model's weight files."""
    content = base.workspace.facts_of_model(source).content
    return tuple(sorted(value for name, value in content.items() if name.endswith(".safetensors")))


def prepared(asked: Asked, progress: Progress) -> Prepared:
    """Return the base with the suites, checked; nothing is loaded."""
    config, notes = asked.config(asked.base)
    (base,) = preparation.prepare_all([config], progress, trains=False)
    for note in dict.fromkeys([*notes, *base.facts.notes]):
        progress.say(note)
    return base


def checked(asked: Asked, base: Prepared, one: Placed, progress: Progress) -> tuple[Placed, ModelSource]:
    """Return a checkpoint's place, and its model, checked; nothing is loaded.

    The tuning of its training names the model that an adapter is on, if that is not the base.

    Raises ModelError, also if it has fewer rows than the tokenizer of the base needs.
    """
    config, notes = asked.config(one.checkpoint.source)
    facts, tokenizer = base.workspace.facts_of_model(config.model), base.workspace.tokenizer_of(base.config)
    if facts.vocabulary is not None:
        require_rows(one.checkpoint.source, tokenizer, facts.vocabulary)
    notes = [*notes, *_of_tokenizer(one.checkpoint.source, tokenizer, base.workspace.tokenizer_of(config), base)]
    for note in dict.fromkeys([*notes, *facts.notes]):
        progress.say(note)
    if (other := _other_base(base, config.model, facts)) is None:
        return one, config.model
    progress.say(f"{one.checkpoint.source} is on {other}, not on {base.config.labels.model}: its losses include what separates the two")
    return dataclasses.replace(one, training=dataclasses.replace(one.training, tuning=f"{one.training.tuning} on {other}")), config.model


def _other_base(base: Prepared, source: ModelSource, facts: ModelFacts) -> str | None:
    """Return the model that an adapter is on, if its weights are not the base's; else None."""
    named = (source.base or source.named_base()) if isinstance(source, HubModel) else None
    of_base = {value for name, value in base.facts.content.items() if name.endswith(".safetensors")}
    if not of_base:  # weights that no file holds: the names decide
        return named if named and named not in {base.config.labels.model, getattr(base.config.model, "name", None)} else None
    return named if named and not of_base <= set(facts.content.values()) else None


def _of_tokenizer(source: str, ours: PreTrainedTokenizerBase, its: PreTrainedTokenizerBase, base: Prepared) -> list[str]:
    """Return notes on the tokenizer that a checkpoint brings, in place of which the base's is used.

    Raises ModelError if it gives other ids to the base's tokens: the base's would ask for others.
    """
    differ, ids = differences(ours, its), its.get_vocab()
    moved = [token for token, place in ours.get_vocab().items() if ids.get(token, place) != place]
    if moved:
        got = f"a tokenizer with other ids for {len(moved)} tokens of the base's, such as {moved[0]!r}"
        fix = f"harness compare {base.config.labels.model} {source} --suites NAMES, which asks each through its own"
        raise ModelError(explain(source, got=got, allowed="the ids of the base's tokenizer", fix=fix))
    notes = [f"{source}: its tokenizer differs: it is asked through that of the base"] if "tokenizer" in differ else []
    if "chat template" in differ and base.config.evaluation.prompt_format == "chat":
        notes.append(f"{source}: its chat template differs: it is asked through that of the base")
    return notes


def measure_checkpoint(run: MeasuredRun, one: Placed, source: ModelSource) -> Comparison:
    """Measure a checkpoint on what it lacks."""

    def live() -> PreTrainedModel:
        run.progress.stage(f"load {one.checkpoint.source}", 1)
        model = load(source, run.prepared.resolved.device)
        run.before.require_unchanged(source, one.checkpoint.source)
        return model

    return run.measure(one.volume, _content(run.prepared, source), live, source=one.checkpoint.source, state=one.checkpoint.state)
