"""The rows of a run as examples, one list per optimizer step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.rows import Example
from harness.data import subsets, tokens
from harness.run.generated.data import Data
from harness.run.preparation import Prepared


@dataclass(frozen=True)
class Steps:
    """The rows of a run, encoded and divided into optimizer steps.

    Attributes:
        data: the rows.
        examples: those of each optimizer step, target and anchor.
        anchor: anchor rows as examples, in the order they are drawn.
        facts: ``Record.data_facts``.
    """

    data: Data
    examples: Sequence[Sequence[Example]]
    anchor: Sequence[Example]
    facts: Mapping[str, Any]


def steps_of(prepared: Prepared, data: Data, *, mixed: bool = True) -> Steps:
    """Encode the rows of a run, divide them into steps and mix in the anchor.

    Args:
        prepared: the run.
        data: its rows.
        mixed: whether to mix in the anchor; False while rows are still to be generated.

    Raises:
        DataError: for rows with nothing to learn, or too few anchor rows.
    """
    config, size = prepared.config, prepared.config.training.batch_rows
    encoded = prepared.workspace.encoded
    target = encoded(config, prepared.resolved, data.target, "target")
    anchor = encoded(config, prepared.resolved, data.anchor, "anchor")
    repeated = subsets.duplicates(data.target[: prepared.volumes[-1]])
    facts = {**dataclasses.asdict(tokens.supervision(target)), "repeated_rows": repeated, **prepared.taught.facts()}
    if prepared.taught_anchor:
        facts |= {f"anchor_{name}": count for name, count in prepared.taught_anchor.facts().items()}
    steps = [target[i : i + size] for i in range(0, len(target), size)]
    return Steps(data, config.mitigation.mix(steps, anchor) if mixed else steps, anchor, facts)
