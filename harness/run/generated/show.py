"""`harness show-data`: the rows of a run as they are trained on, beside the gold ones, and how each came about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.config import combinations
from harness.config.run_config import RunConfig
from harness.core.contexts import GeneratedRow
from harness.core.errors import DataError, explain
from harness.core.progress import Progress
from harness.core.rows import Row
from harness.data import tokens
from harness.methods.rewriting import edit_rate, gold, question
from harness.run import preparation
from harness.run.generated.data import SCORED_ROWS, Data, Missing, Writing, summed_up, target_nats
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shown(config: RunConfig, rows: int, progress: Progress, *, write: bool) -> str:
    """Show the first rows of a run in training order.

    Args:
        config: of a run; of independent volumes, the largest is shown.
        rows: how many at most, of the targets and of a written anchor.
        progress: told how far writing is.
        write: load the start model, have written what is missing, and measure how likely it finds
            the targets.

    Raises:
        HarnessError: where the run would be refused; DataError too where rows are missing and are
            not to be written.
    """
    runs = combinations.runs_of(config)
    prepared = preparation.prepare(max(runs, key=lambda run: max(run.data.volumes)), Workspace())
    tokenizer = prepared.workspace.tokenizer_of(prepared.config)
    for row in prepared.rows[:1]:  # where rows and prompt format do not go together, say so before anything is loaded
        tokens.encode(row, tokenizer, config.objective.prompt_format, prepared.resolved.max_length, "target")
    model = _loaded(prepared, progress) if write else None
    try:
        data = Writing(prepared).data(None if model is None else lambda: model, progress)
    except Missing as missing:
        fix = "--write has the models write them now, harness run before it trains"
        raise DataError(explain("written data", got=f"{missing.rows} rows or more that are not written yet", fix=fix)) from missing
    nats = target_nats(prepared, data, model) if model is not None else _recorded_nats(prepared)
    return "\n".join([*_head(prepared, data, nats), *_targets(prepared, data, rows), *_rehearsed(data.rehearsed[:rows])]) + "\n"


def _loaded(prepared: Prepared, progress: Progress) -> PreTrainedModel:
    import torch

    torch.set_num_threads(prepared.resolved.threads)
    progress.stage(f"load {prepared.config.labels.model}", 1)
    model: PreTrainedModel = prepared.config.model.load().to(prepared.resolved.device)  # type: ignore[arg-type]
    return model


def _recorded_nats(prepared: Prepared) -> dict[str, float]:
    record = prepared.experiment.record(prepared.run_id)
    found = record.writing.get("target_nats") if record else None
    return {} if found is None else {"target_nats": found}


def _head(prepared: Prepared, data: Data, nats: dict[str, float]) -> list[str]:
    labels, volume = prepared.config.labels, prepared.volumes[-1]
    parts = [f"model {labels.model}", f"objective {labels.objective}", f"mitigation {labels.mitigation}", f"data {labels.data}"]
    lines = [f"run {prepared.run_id}: {', '.join(parts)}, seed {prepared.config.seed}, volume {volume}"]
    lines += [summed_up(data.facts)] if data.facts else ["no model writes anything for this run: these are its gold rows"]
    value = nats.get("target_nats", math.nan)
    measured = f"{value:.4f} per supervised token under the start model, first {min(SCORED_ROWS, len(data.target))} rows"
    return [*lines, f"target nats: {measured if nats else 'not measured; --write loads the start model for it'}"]


def _targets(prepared: Prepared, data: Data, count: int) -> list[str]:
    """Return the lines of target rows; of a run without written ones, of its gold rows."""
    if not data.gold:
        pairs: list[tuple[Row, GeneratedRow]] = [
            (row, GeneratedRow(row, accepted=False, how="gold", generated_tokens=0)) for row in data.target
        ]
    else:
        pairs = list(zip(data.gold, data.became, strict=True))
    whole = len(pairs) if data.gold else min(len(pairs), prepared.volumes[-1])
    lines = []
    for number, (row, written) in enumerate(pairs[: min(count, whole)], 1):
        came = f"{written.how}{', accepted' if written.accepted else ''}{'' if written.row else ', left out'}"
        lines += ["", f"row {number} of {whole} ({row.id}): {came}", *_row(row, written)]
    return lines


def _row(row: Row, written: GeneratedRow) -> list[str]:
    if row.kind != "completion":
        return [f"  {turn.role + ':':<9} {turn.content!r}" for turn in row.turns]
    lines = [f"  prompt:   {question(row)!r}", f"  gold:     {row.turns[-1].content!r}"]
    if written.row is not None:
        answer, *worse = [turn.content for turn in written.row.turns if turn.role in ("assistant", "rejected")]
        changed = f"   (edit rate from gold {edit_rate(gold(row), answer.strip()):.2f})" if written.accepted else ""
        lines.append(f"  {'better: ' if worse else 'trained:'}  {answer!r}{changed}")
        lines += [f"  worse:    {other!r}" for other in worse]
    if written.edit_rate is not None:
        lines.append(f"  edited:   {written.edit_rate:.2f} of the model's own first answer")
    return [*lines, *(f"  tried:    {text!r}" for text in written.tried)]


def _rehearsed(rows: Sequence[GeneratedRow]) -> list[str]:
    lines = []
    for number, written in enumerate(rows, 1):
        lines += ["", f"anchor row {number}: {written.how}, {written.generated_tokens} tokens generated"]
        lines += [f"  {turn.role + ':':<9} {turn.content!r}" for turn in (written.row.turns if written.row else ())]
    return lines
