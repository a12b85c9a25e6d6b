"""Data sets in sequence: stages of one run, which may forget earlier ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.config import composition
from harness.config.strict import check
from harness.core.errors import ConfigError, explain
from harness.core.rows import Row, RowKind, Split
from harness.core.sources import Source
from harness.data.fields import check_volumes


@dataclass(frozen=True, kw_only=True)
class StageSequence(Source):
    """Other members of conf/data as stages of one run.

    A stage's rows are those that a run on it alone would read, in the same order. At the beginning
    of a stage the optimizer's moments are reset, and the rate warms up again over
    ``training.warmup_rows``. The suites named like the stages are the target suites unless others
    are given: they measure the effect of a later stage on an earlier one.

    Attributes:
        stages: members of conf/data, in the order in which they are learned; each once.
        stage_rows: rows of each stage: one number for all, or one per stage.
        volumes: rows of all stages together, any order; each is a point. By default, the end of
            each stage.
    """

    stages: tuple[str, ...]
    stage_rows: tuple[int, ...] = (512,)
    volumes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check stages and their rows, and set the volumes."""
        stages, rows = list(self.stages), list(self.stage_rows)
        check("data.stages", stages, "at least two, each once", lambda v: len(v) > 1 and len(set(v)) == len(v))
        numbers = f"positive integers, one or {len(stages)}, the number of stages"
        check("data.stage_rows", rows, numbers, lambda v: len(v) in {1, len(stages)} and min(v) > 0)
        object.__setattr__(self, "volumes", tuple(self.volumes) or self.stage_ends)
        check_volumes(self.volumes)
        end = self.stage_ends[-1]
        check("data.volumes", list(self.volumes), f"at most {end}, the rows of all stages", lambda v: max(v) <= end)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages."""
        return self.stages

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Rows seen at the end of each stage."""
        return tuple(itertools.accumulate(self.stage_rows if len(self.stage_rows) > 1 else self.stage_rows * len(self.stages)))

    @property
    def kind(self) -> RowKind | None:
        """Kind of the rows of the first stage; ``kinds`` has those of all."""
        return self.sources[0].kind

    @property
    def kinds(self) -> frozenset[RowKind]:
        """Kinds of the rows of all stages: an objective must take each."""
        return frozenset(kind for source in self.sources for kind in source.kinds)

    @property
    def conversations(self) -> bool:
        """Whether a stage has conversations."""
        return any(source.conversations for source in self.sources)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The data sets of the stages.

        Raises ConfigError for a name that is not in conf/data, or is a sequence itself.
        """
        found = tuple(composition.member("data", name) for name in self.stages)
        for name, source in zip(self.stages, found, strict=True):
            if isinstance(source, StageSequence):
                raise ConfigError(
                    explain("data.stages", got=f"'{name}', a sequence itself", allowed="members of conf/data that are not sequences")
                )
        return found

    @cached_property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """(rows available, rows to read) of each stage; whether they suffice is checked later."""
        sizes = [len(rows) for rows in self._train]
        taken = [end - start for start, end in itertools.pairwise([0, *self.stage_ends])]
        return tuple(zip(sizes, taken, strict=True))

    @cached_property
    def _train(self) -> tuple[tuple[Row, ...], ...]:
        return tuple(tuple(source.rows("train")) for source in self.sources)

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, stage by stage, in the order of the sources.

        Raises DataError.
        """
        of_stages = self._train if split == "train" else [source.rows(split) for source in self.sources]
        return tuple(itertools.chain.from_iterable(of_stages))
