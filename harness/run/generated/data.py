"""The training rows of a run: stored rows are read, missing ones generated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from harness.config.strict import identifying, plain
from harness.core.contexts import GeneratedRow, WritingContext
from harness.core.errors import DataError, FinalDataError, explain
from harness.core.methods import Mitigation, Objective
from harness.core.progress import Progress, Silent
from harness.core.rows import Row
from harness.core.seeds import permutation
from harness.data import subsets
from harness.evaluation import hashes
from harness.methods.rewriting import UNTREATED, Rehearsing, Rewriting
from harness.models import loading
from harness.records.schema import REACH
from harness.run.generated.authors import author_of, context_of, seed_of
from harness.run.generated.store import Store
from harness.run.preparation import Prepared
from harness.run.workspace import content_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 64
"""Rows that are generated before they are saved: the most that an interruption loses."""

OVERSAMPLING = 1.1
"""Factor on the source rows that the acceptance rate so far calls for, because a further round
generates a small batch, which is slow."""

SCORED_ROWS = 64
"""Target rows whose likelihood is recorded: few, so that the cost is negligible at any volume."""

Load = Callable[[], "PreTrainedModel"]


class MissingRows(Exception):
    """At least ``rows`` rows are not in the store, and none may be generated."""

    def __init__(self, rows: int) -> None:
        super().__init__(f"{rows} rows are not generated yet")
        self.rows = rows


@dataclass(frozen=True, kw_only=True)
class Data:
    """The training rows of a run, with the outcome of each generation.

    Attributes:
        target: target rows in training order, all epochs.
        anchor: anchor rows in the order they are drawn.
        sources: rows of the data set that target rows were generated for, in permutation order, one
            epoch; empty if the targets are not generated.
        generated: the outcome of each of ``sources``.
        generated_anchor: the outcome of each row of a generated anchor.
        surplus: outcomes of source rows behind the last one needed, since many are generated at a
            time; they count as a cost of the largest volume.
        anchor_rows: target rows seen → anchor rows drawn by then.
        statistics: ``Record.writing`` of the largest volume.
        reach: number of accepted rows and of all, where these are too few for the largest volume.
    """

    target: Sequence[Row]
    anchor: Sequence[Row]
    sources: Sequence[Row] = ()
    generated: Sequence[GeneratedRow] = ()
    generated_anchor: Sequence[GeneratedRow] = ()
    surplus: Sequence[GeneratedRow] = ()
    anchor_rows: Callable[[int], int] = lambda _: 0
    statistics: Mapping[str, Any] = field(default_factory=dict)
    reach: tuple[int, int] | None = None

    def generated_up_to(self, volume: int, epochs: int = 1) -> list[GeneratedRow]:
        """Return the generated rows that count as the cost of a volume, anchor rows included.

        A repeated row was generated once, so it counts once.
        """
        targets: dict[str, GeneratedRow] = {}
        accepted = 0
        for row, outcome in zip(self.sources, self.generated, strict=True):
            if accepted == volume:
                break
            targets[row.id] = outcome
            accepted += outcome.row is not None
        surplus = self.surplus if volume >= sum(one.row is not None for one in self.generated) else ()
        return [*targets.values(), *surplus, *self.generated_anchor[: self.anchor_rows(volume * epochs)]]


@dataclass(frozen=True)
class Generation:
    """The generation of a run's rows, before the run is trained."""

    prepared: Prepared

    @cached_property
    def is_needed(self) -> bool:
        """Whether models generate any rows of the run."""
        config = self.prepared.config
        return config.objective.writes or bool(config.mitigation.writes)

    def data(self, load: Load | None, progress: Progress) -> Data:
        """Return the rows of the run; missing ones are generated.

        Args:
            load: returns the start model; called at most once, and only if rows are missing. None
                generates nothing.
            progress: advanced by one for each generated row.

        Raises:
            MissingRows: if rows are missing and ``load`` is None.
            DataError: if too few rows are accepted.
        """
        prepared, config = self.prepared, self.prepared.config
        if not self.is_needed:
            return Data(target=prepared.rows, anchor=prepared.anchor)
        start = cache(load) if load else None
        surplus: list[GeneratedRow] = []
        reach = None
        if config.objective.writes:
            sources, generated, surplus, reach = self._accepted(_Generator(prepared, config.objective, start, progress))
        elif config.mitigation.writes == "targets":
            sources = self._subset()
            generated = _Generator(prepared, config.mitigation, start, progress).targets(sources)
        else:
            sources, generated = [], []
        target = self._in_epochs([one.row for one in generated if one.row is not None]) if sources else prepared.rows
        anchor: list[GeneratedRow] = []
        if config.mitigation.writes == "anchor":
            count = config.mitigation.anchor_rows(len(target))
            anchor = _Generator(prepared, config.mitigation, start, progress).anchor(target, count)
        of_targets = statistics(generated, sources, surplus=surplus)
        of_anchor = statistics(anchor, prefix="anchor_" if sources else "")
        return Data(
            target=target,
            anchor=[one.row for one in anchor if one.row is not None] if anchor else prepared.anchor,
            sources=sources,
            generated=generated,
            generated_anchor=anchor,
            surplus=surplus,
            anchor_rows=config.mitigation.anchor_rows if anchor else lambda _: 0,
            statistics=of_targets | of_anchor | ({REACH: list(reach)} if reach else {}),
            reach=reach,
        )

    def _order(self) -> list[Row]:
        """Return every row of the data set, in permutation order."""
        taught = self.prepared.taught
        return [taught.rows[i] for i in subsets.order(taught.rows, self.prepared.config.seed, taught.parts)]

    def _subset(self) -> list[Row]:
        return self._order()[: self.prepared.volumes[-1]]

    def _in_epochs(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows in training order: each further epoch in the order of a plain run."""
        seed, epochs = self.prepared.config.seed, self.prepared.config.training.epochs
        orders = [permutation(seed, len(rows), "data-order", f"epoch {epoch}") for epoch in range(1, epochs)]
        return [*rows, *(rows[i] for order in orders for i in order)]

    def _accepted(self, generator: _Generator) -> tuple[list[Row], list[GeneratedRow], list[GeneratedRow], tuple[int, int] | None]:
        """Generate for more and more source rows, until enough are accepted for the largest volume.

        Where all rows are too few for it, the largest volume that they reach counts.

        Returns:
            The source rows up to the last one needed, their outcomes, and the outcomes behind it;
            then ``Data.reach``.
        """
        volumes, order = self.prepared.config.data.volumes, self._order()
        wanted, reach = max(volumes), None
        if subsets.parts(self.prepared.config.data):
            got = "a sequence of stages, whose boundaries move with each row that is left out"
            raise DataError(explain("data", got=got, allowed="one stage", fix="another objective, or another data set"))
        tried = wanted
        while True:
            generated = generator.targets(order[:tried])
            accepted = sum(one.row is not None for one in generated)
            if accepted < wanted and tried == len(order) and accepted >= min(volumes):
                wanted, reach = max(volume for volume in volumes if volume <= accepted), (accepted, tried)
            if accepted >= wanted:
                end = _rows_needed(generated, wanted)
                needed, every = {row.id for row in order[:end]}, _by_id(order[:tried], generated)
                return order[:end], generated[:end], [one for key, one in every.items() if key not in needed], reach
            if tried == len(order):
                raise self._too_few(accepted, generated)
            rate = max(accepted, 1) / tried
            tried = min(len(order), max(tried + CHUNK, math.ceil(wanted / rate * OVERSAMPLING)))

    def _too_few(self, accepted: int, generated: Sequence[GeneratedRow]) -> FinalDataError:
        config = self.prepared.config
        batch = config.training.batch_rows
        left_out = ", ".join(f"{rows} {how}" for how, rows in _counts(one for one in generated if not one.accepted).items())
        where = f"data.volumes with objective={config.labels.objective}"
        rows = f"{accepted} of the {len(generated)} rows of data={config.labels.data} accepted ({left_out})"
        got = f"{min(self.prepared.volumes)}, with only {rows}"
        fix = "more objective.samples, a larger objective.max_new_tokens if answers are cut, a model that answers better, or other data"
        fix = f"data.volumes=[{accepted - accepted % batch}], {fix}" if accepted >= batch else fix
        return FinalDataError(explain(where, got=got, allowed=f"at most {accepted}", fix=fix))


def _by_id(rows: Sequence[Row], generated: Sequence[GeneratedRow]) -> dict[str, GeneratedRow]:
    """Return row id → outcome; a repeated row was generated once."""
    return {row.id: one for row, one in zip(rows, generated, strict=True)}


def _rows_needed(generated: Sequence[GeneratedRow], wanted: int) -> int:
    """Return the number of outcomes up to the last of the first ``wanted`` accepted ones."""
    places = [i for i, one in enumerate(generated, 1) if one.row is not None]
    return places[wanted - 1]


class _StopRequests(Silent):
    """Progress inside a stage: passes on requests to stop, and counts nothing."""

    def __init__(self, outer: Progress) -> None:
        self.outer = outer

    def advance(self, units: int = 1) -> None:
        """Raise Interrupted if the stage does."""
        self.outer.advance(0)


class _Generator:
    """Generates the rows of one method, and keeps them in the store."""

    def __init__(self, prepared: Prepared, method: Objective | Mitigation, load: Load | None, progress: Progress) -> None:
        self.prepared, self.method, self.progress = prepared, method, progress
        self.store = Store(recipe(prepared, method))
        self.context = cache(lambda: context_of(prepared, load(), _StopRequests(progress), method.models)) if load else None

    def targets(self, rows: Sequence[Row]) -> list[GeneratedRow]:
        """Return the outcome of each target row."""
        method, seed = self.method, seed_of(self.prepared)
        treated = {row.id: row for row in rows if not isinstance(method, Rewriting) or method.treats(row, seed)}

        def generate(ids: Sequence[str], context: WritingContext) -> list[GeneratedRow]:
            return method.write([treated[i] for i in ids], context)

        found = self._stored(list(treated), generate)
        return [
            found[row.id] if row.id in treated else GeneratedRow(row, accepted=False, how=UNTREATED, generated_tokens=0) for row in rows
        ]

    def anchor(self, target: Sequence[Row], count: int) -> list[GeneratedRow]:
        """Return the ``count`` anchor rows of a run with these target rows."""
        method = self.method
        keys = [str(i) for i in range(count)]

        def generate(missing: Sequence[str], context: WritingContext) -> list[GeneratedRow]:
            if isinstance(method, Rehearsing):
                return method.made([int(key) for key in missing], context)
            every = method.write(target, context)
            return [every[int(key)] for key in missing]

        found = self._stored(keys, generate, None if isinstance(method, Rehearsing) else len(keys))
        return [found[key] for key in keys]

    def _stored(
        self, keys: Sequence[str], generate: Callable[[Sequence[str], WritingContext], list[GeneratedRow]], chunk: int | None = None
    ) -> dict[str, GeneratedRow]:
        """Return the contents of the store, after generating missing rows chunk by chunk."""
        chunk = chunk or CHUNK
        known = self.store.read()
        missing = [key for key in keys if key not in known]
        if not missing:
            return known
        if self.context is None:
            raise MissingRows(len(missing))
        with self.store.exclusive(self.progress):
            known = self.store.read()  # another process may have added rows meanwhile
            missing = [key for key in keys if key not in known]
            self.progress.stage(f"generate rows for {type(self.method).__name__}", len(missing))
            for start in range(0, len(missing), chunk):
                some = missing[start : start + chunk]
                found = dict(zip(some, generate(some, self.context()), strict=True))
                self.store.add(found)
                known |= found
                self.progress.advance(len(some))
        return known


def recipe(prepared: Prepared, method: Objective | Mitigation) -> dict[str, Any]:
    """Return everything that decides a method's generated rows, except their source rows.

    The number of threads and the device are left out: they change only the last digits of logits,
    and a row is generated once for all. So is the share of rows that a method treats, and the seed
    of a method without chance.
    """
    config, workspace = prepared.config, prepared.workspace
    settings = identifying(method)
    if isinstance(method, Rewriting | Rehearsing):
        settings.pop("fraction", None)
    own = {"model": plain(prepared.facts.content), "tokenizer": workspace.tokenizer_content_of(config)}
    temperature = settings.get("temperature")  # a method without the setting may draw at random
    return {
        "own": own,
        "others": {name: _content(prepared, name) for name in method.models},
        "group": "objective" if isinstance(method, Objective) else "mitigation",
        "method": settings,
        "prompt_format": config.objective.prompt_format,
        "max_length": prepared.resolved.max_length,
        "dtype": prepared.resolved.dtype,
        "seed": None if temperature == 0 else seed_of(prepared),
    }


def _content(prepared: Prepared, name: str) -> dict[str, Any]:
    source = loading.member(name)

    def find() -> dict[str, Any]:
        return {"model": plain(source.facts().content), "tokenizer": hashes.of_tokenizer(source.tokenizer())}

    return prepared.workspace.once(("author", name, content_key(source)), find)


def statistics(
    generated: Sequence[GeneratedRow], sources: Sequence[Row] = (), prefix: str = "", surplus: Sequence[GeneratedRow] = ()
) -> dict[str, Any]:
    """Return the statistics of generated rows for ``Record.writing``.

    A repeated row counts each time among the rows, and once among the tokens.

    Args:
        generated: the outcomes; without any, the statistics are empty.
        sources: the row that each was generated for, if rows may repeat.
        prefix: of each name.
        surplus: outcomes of further rows, which count among the tokens only.
    """
    if not generated:
        return {}
    accepted, rates = sum(one.accepted for one in generated), [one.edit_rate for one in generated if one.edit_rate is not None]
    paid = [*(_by_id(sources, generated).values() if sources else generated), *surplus]
    treated = sum(one.how != UNTREATED for one in generated)
    found: dict[str, Any] = {
        "rows": treated,
        "accepted": accepted,
        "acceptance": accepted / treated if treated else 0.0,
        "how": _counts(generated),
        "generated_tokens": sum(one.generated_tokens for one in paid),
    }
    found |= {"edit_rate": sum(rates) / len(rates)} if rates else {}
    return {f"{prefix}{name}": value for name, value in found.items()}


def _counts(generated: Iterable[GeneratedRow]) -> dict[str, int]:
    """Return ``GeneratedRow.how`` → number of rows."""
    return dict(sorted(Counter(one.how for one in generated).items()))


def in_words(values: Mapping[str, Any]) -> str:
    """Return statistics of generated rows as one line."""
    parts = []
    for prefix, of in (("", ""), ("anchor_", " of the anchor")):
        if f"{prefix}rows" in values:
            how = ", ".join(f"{rows} {word}" for word, rows in values[f"{prefix}how"].items())
            edits = f"; edit rate {values[f'{prefix}edit_rate']:.2f}" if f"{prefix}edit_rate" in values else ""
            accepted, rows = values[f"{prefix}accepted"], values[f"{prefix}rows"]
            tokens = values[f"{prefix}generated_tokens"]
            parts.append(f"{accepted} of {rows} rows{of} accepted ({accepted / max(rows, 1):.0%}): {how}; {tokens} tokens generated{edits}")
    return "; ".join(parts)


def target_nats(prepared: Prepared, data: Data, model: PreTrainedModel) -> dict[str, float]:
    """Return ``target_nats``: nats per supervised token of target answers under the start model.

    Taken from the first completion rows in permutation order, so that runs that differ only in
    wording are compared on the same questions (unless rows are left out). It is a measurement, like
    an evaluation, and not a cost of the method.

    Args:
        prepared: the run; if it does not learn tokens of completions, the answer is empty.
        data: its rows.
        model: its start model.
    """
    rows = [row for row in data.target[:SCORED_ROWS] if row.kind == "completion"]
    if not rows or prepared.config.objective.learns != "tokens":
        return {}
    examples = prepared.workspace.encoded(prepared.config, prepared.resolved, rows, "target")
    examples = [example for example in examples if example.supervised_tokens]
    tokens = sum(example.supervised_tokens for example in examples)
    nats = sum(author_of(prepared, model, prepared.workspace.tokenizer_of(prepared.config)).nats(examples)) if tokens else math.nan
    return {"target_nats": nats / tokens} if math.isfinite(nats) else {}
