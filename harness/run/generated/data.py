"""The rows of a run, whoever wrote them: read from the store, and written where they are missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, cast

from harness.config import composition
from harness.config.strict import identifying, plain
from harness.core.contexts import GeneratedRow, WritingContext
from harness.core.errors import DataError, explain
from harness.core.methods import Mitigation, Objective
from harness.core.progress import Progress, Silent
from harness.core.rows import Row
from harness.core.seeds import permutation
from harness.data import subsets
from harness.evaluation import hashes
from harness.methods.rewriting import UNTREATED, Rehearsing, Rewriting
from harness.run.generated.authors import author_of, context_of, seed_of
from harness.run.generated.store import Store
from harness.run.preparation import Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 64
"""Rows that are written before they are kept: what is lost at most where the work is
interrupted."""

SPARE = 1.1
"""More rows than the acceptance so far lets expect are looked at, since one more round costs
another start."""

SCORED_ROWS = 64
"""Target rows whose likelihood is recorded: few, so that it costs next to nothing whatever the
volume."""

Load = Callable[[], "PreTrainedModel"]


class Missing(Exception):
    """Rows are not in the store, and nothing is to be written. ``rows``: how many, at least."""

    def __init__(self, rows: int) -> None:
        super().__init__(f"{rows} rows are not written yet")
        self.rows = rows


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows of a run as they are trained on, and what became of each.

    Attributes:
        target: target rows in training order, every epoch; ``anchor``: anchor rows in the order
            they are drawn.
        gold: of written targets, the rows looked at, in permutation order; ``became``: what became
            of each. Neither counts epochs.
        rehearsed: of a written anchor, the i-th row.
        spare: what became of rows beyond those, written since rows are written many at a time; it
            is paid for with the largest volume.
        due: target rows seen → anchor rows drawn by then.
        facts: what ``Record.writing`` says, for the largest volume.
    """

    target: Sequence[Row]
    anchor: Sequence[Row]
    gold: Sequence[Row] = ()
    became: Sequence[GeneratedRow] = ()
    rehearsed: Sequence[GeneratedRow] = ()
    spare: Sequence[GeneratedRow] = ()
    due: Callable[[int], int] = lambda _: 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def paid(self, volume: int, epochs: int = 1) -> list[GeneratedRow]:
        """Return what was written for the first ``volume`` target rows and what is mixed in by then; repeats were written once."""
        own: dict[str, GeneratedRow] = {}
        kept = 0
        for row, written in zip(self.gold, self.became, strict=True):
            if kept == volume:
                break
            own[row.id] = written
            kept += written.row is not None
        spare = self.spare if volume >= sum(one.row is not None for one in self.became) else ()
        return [*own.values(), *spare, *self.rehearsed[: self.due(volume * epochs)]]


@dataclass(frozen=True)
class Writing:
    """What a run has written before it is trained.

    Attributes:
        prepared: the run.
    """

    prepared: Prepared

    @cached_property
    def is_needed(self) -> bool:
        """Whether models write anything for the run."""
        config = self.prepared.config
        return config.objective.writes or bool(config.mitigation.writes)

    def data(self, load: Load | None, progress: Progress) -> Data:
        """Return the rows of the run.

        Args:
            load: gives the start model, asked for once and only where something is missing; None:
                nothing is written.
            progress: told how far writing is.

        Raises:
            Missing: without ``load``, where rows are missing.
            DataError: where the data give too few rows.
        """
        prepared, config = self.prepared, self.prepared.config
        if not self.is_needed:
            return Data(target=prepared.rows, anchor=prepared.anchor)
        start = cache(load) if load else None
        spare: list[GeneratedRow] = []
        if config.objective.writes:
            gold, became, spare = self._accepted(_Desk(prepared, config.objective, start, progress))
        elif config.mitigation.writes == "targets":
            gold = self._subset()
            became = _Desk(prepared, config.mitigation, start, progress).targets(gold)
        else:
            gold, became = [], []
        target = self._in_epochs([one.row for one in became if one.row is not None]) if gold else prepared.rows
        rehearsed: list[GeneratedRow] = []
        if config.mitigation.writes == "anchor":
            rehearsed = _Desk(prepared, config.mitigation, start, progress).anchor(target)
        return Data(
            target=target,
            anchor=[one.row for one in rehearsed if one.row is not None] if rehearsed else prepared.anchor,
            gold=gold,
            became=became,
            rehearsed=rehearsed,
            spare=spare,
            due=config.mitigation.anchor_rows if rehearsed else lambda _: 0,
            facts=facts(became, gold, spare=spare) | facts(rehearsed, prefix="anchor_" if gold else ""),
        )

    def _order(self) -> list[Row]:
        """Return every target row there is, in permutation order."""
        config, rows = self.prepared.config, self.prepared.workspace.rows_of(self.prepared.config.data)
        return [rows[i] for i in subsets.order(rows, config.seed, subsets.parts(config.data))]

    def _subset(self) -> list[Row]:
        return self._order()[: self.prepared.volumes[-1]]

    def _in_epochs(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows in training order: every further epoch in its own, as those of a plain run."""
        seed, epochs = self.prepared.config.seed, self.prepared.config.training.epochs
        orders = [permutation(seed, len(rows), "data-order", f"epoch {epoch}") for epoch in range(1, epochs)]
        return [*rows, *(rows[i] for order in orders for i in order)]

    def _accepted(self, desk: _Desk) -> tuple[list[Row], list[GeneratedRow], list[GeneratedRow]]:
        """Look at rows until as many are accepted as the largest volume asks for.

        Returns:
            Those up to the last one that is needed, what became of them, and of rows behind it.
        """
        wanted, order = self.prepared.volumes[-1], self._order()
        if subsets.parts(self.prepared.config.data):
            got = "a sequence of stages, whose borders would move with every row that is left out"
            raise DataError(explain("data", got=got, allowed="one stage", fix="another objective, or another data set"))
        looked = wanted
        while True:
            became = desk.targets(order[:looked])
            accepted = sum(one.row is not None for one in became)
            if accepted >= wanted:
                end = _place(became, wanted)
                needed, every = {row.id for row in order[:end]}, _once(order[:looked], became)
                return order[:end], became[:end], [one for key, one in every.items() if key not in needed]
            if looked == len(order):
                raise self._too_few(accepted, became)
            rate = max(accepted, 1) / looked
            looked = min(len(order), max(looked + CHUNK, math.ceil(wanted / rate * SPARE)))

    def _too_few(self, accepted: int, became: Sequence[GeneratedRow]) -> DataError:
        config = self.prepared.config
        batch = config.training.batch_rows
        left_out = ", ".join(f"{rows} {word}" for word, rows in _hows(one for one in became if not one.accepted).items())
        where = f"data.volumes with objective={config.labels.objective}"
        got = f"{self.prepared.volumes[-1]}, and {accepted} of the {len(became)} rows of data={config.labels.data} accepted ({left_out})"
        fix = "more objective.samples, a larger objective.max_new_tokens where answers are cut, a model that answers better, or other data"
        fix = f"data.volumes=[{accepted - accepted % batch}], {fix}" if accepted >= batch else fix
        return DataError(explain(where, got=got, allowed=f"at most {accepted}", fix=fix))


def _once(rows: Sequence[Row], became: Sequence[GeneratedRow]) -> dict[str, GeneratedRow]:
    """Return what became of rows by their id: a row that is repeated was written once."""
    return {row.id: one for row, one in zip(rows, became, strict=True)}


def _place(became: Sequence[GeneratedRow], wanted: int) -> int:
    """Return after how many rows so many are accepted."""
    places = [i for i, one in enumerate(became, 1) if one.row is not None]
    return places[wanted - 1]


class _Within(Silent):
    """The progress of what lies within a stage: asks whether to stop, and counts nothing."""

    def __init__(self, outer: Progress) -> None:
        self.outer = outer

    def advance(self, units: int = 1) -> None:
        """Raise Interrupted where the stage does."""
        self.outer.advance(0)


class _Desk:
    """Where one method's rows are written and kept."""

    def __init__(self, prepared: Prepared, method: Objective | Mitigation, load: Load | None, progress: Progress) -> None:
        self.prepared, self.method, self.load, self.progress = prepared, method, load, progress
        self.store = Store(recipe(prepared, method))

    @cached_property
    def context(self) -> WritingContext:
        """What the method writes with."""
        assert self.load is not None
        return context_of(self.prepared, self.load(), _Within(self.progress), self.method.models)

    def targets(self, rows: Sequence[Row]) -> list[GeneratedRow]:
        """Return what becomes of target rows, one each."""
        method, seed = self.method, seed_of(self.prepared)
        treated = {row.id: row for row in rows if not isinstance(method, Rewriting) or method.treats(row, seed)}

        def make(ids: Sequence[str]) -> list[GeneratedRow]:
            return method.write([treated[i] for i in ids], self.context)

        found = self._found(list(treated), make)
        return [
            found[row.id] if row.id in treated else GeneratedRow(row, accepted=False, how=UNTREATED, generated_tokens=0) for row in rows
        ]

    def anchor(self, target: Sequence[Row]) -> list[GeneratedRow]:
        """Return as many rows of an anchor as a run of these target rows draws."""
        method = self.method
        keys = [str(i) for i in range(cast(Mitigation, method).anchor_rows(len(target)))]

        def make(missing: Sequence[str]) -> list[GeneratedRow]:
            if isinstance(method, Rehearsing):
                return method.made([int(key) for key in missing], self.context)
            every = method.write(target, self.context)
            return [every[int(key)] for key in missing]

        found = self._found(keys, make, None if isinstance(method, Rehearsing) else len(keys))
        return [found[key] for key in keys]

    def _found(
        self, keys: Sequence[str], make: Callable[[Sequence[str]], list[GeneratedRow]], chunk: int | None = None
    ) -> dict[str, GeneratedRow]:
        """Return what is in the store, having added what is missing, a chunk at a time."""
        chunk = chunk or CHUNK
        known = self.store.read()
        missing = [key for key in keys if key not in known]
        if not missing:
            return known
        if self.load is None:
            raise Missing(len(missing))
        with self.store.writing(self.progress):
            known = self.store.read()  # another process may have written meanwhile
            missing = [key for key in keys if key not in known]
            self.progress.stage(f"write rows for {type(self.method).__name__}", len(missing))
            for start in range(0, len(missing), chunk):
                some = missing[start : start + chunk]
                found = dict(zip(some, make(some), strict=True))
                self.store.add(found)
                known |= found
                self.progress.advance(len(some))
        return known


def recipe(prepared: Prepared, method: Objective | Mitigation) -> dict[str, Any]:
    """Return everything that decides what a method's models write, but the rows.

    Left out are the number of threads and the device: they move the last digits of logits alone,
    and a text is written once for all. Of a method that says which rows it treats, how many those
    are; of one without chance, the seed.
    """
    config, workspace = prepared.config, prepared.workspace
    settings = identifying(method)
    if isinstance(method, Rewriting | Rehearsing):
        settings.pop("fraction", None)
    own = {"model": plain(prepared.facts.content), "tokenizer": workspace.tokenizer_content_of(config)}
    temperature = settings.get("temperature")  # of a method without one, nothing is known
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
    source = composition.member("model", name)

    def find() -> dict[str, Any]:
        return {"model": plain(source.facts().content), "tokenizer": hashes.of_tokenizer(source.tokenizer())}

    return prepared.workspace.once(("author", name, repr(source)), find)


def facts(became: Sequence[GeneratedRow], gold: Sequence[Row] = (), prefix: str = "", spare: Sequence[GeneratedRow] = ()) -> dict[str, Any]:
    """Return what was written in numbers, as ``Record.writing`` says.

    A row that is repeated counts each time, but was written once.

    ``spare``: what became of further rows; it counts among the tokens alone.
    """
    if not became:
        return {}
    accepted, rates = sum(one.accepted for one in became), [one.edit_rate for one in became if one.edit_rate is not None]
    paid = [*(_once(gold, became).values() if gold else became), *spare]
    treated = sum(one.how != UNTREATED for one in became)
    found: dict[str, Any] = {
        "rows": treated,
        "accepted": accepted,
        "acceptance": accepted / treated if treated else 0.0,
        "how": _hows(became),
        "generated_tokens": sum(one.generated_tokens for one in paid),
    }
    found |= {"edit_rate": sum(rates) / len(rates)} if rates else {}
    return {f"{prefix}{name}": value for name, value in found.items()}


def _hows(became: Iterable[GeneratedRow]) -> dict[str, int]:
    """Return how rows came about → how many of them."""
    return dict(sorted(Counter(one.how for one in became).items()))


def summed_up(found: Mapping[str, Any]) -> str:
    """Say in words what was written."""
    parts = []
    for prefix, of in (("", ""), ("anchor_", " of the anchor")):
        if f"{prefix}rows" in found:
            how = ", ".join(f"{rows} {word}" for word, rows in found[f"{prefix}how"].items())
            edits = f"; edit rate {found[f'{prefix}edit_rate']:.2f}" if f"{prefix}edit_rate" in found else ""
            accepted, rows = found[f"{prefix}accepted"], found[f"{prefix}rows"]
            tokens = found[f"{prefix}generated_tokens"]
            parts.append(f"{accepted} of {rows} rows{of} accepted ({accepted / max(rows, 1):.0%}): {how}; {tokens} tokens generated{edits}")
    return "; ".join(parts)


def target_nats(prepared: Prepared, data: Data, model: PreTrainedModel) -> dict[str, float]:
    """Return ``target_nats``: how likely a start model finds the target answers, in nats per supervised token; of completion rows alone.

    Of the first rows in permutation order, so that runs that differ in their wording alone are
    compared on the same questions (but for those that leave rows out). A measurement, like an
    evaluation: no cost of the method.

    Args:
        prepared: the run; one that does not learn the tokens of completions has no such number, and
            gets an empty answer.
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
