"""`harness show-data`: training rows of a run, next to their gold rows."""

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
from harness.models.loading import load
from harness.run import preparation
from harness.run.generated.data import SCORED_ROWS, Data, Generation, MissingRows, in_words, target_nats
from harness.run.notes import notes
from harness.run.preparation import Prepared
from harness.run.steps import steps_of
from harness.run.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shown(config: RunConfig, rows: int, progress: Progress, *, generate: bool) -> str:
    """Return the first rows of a run in training order, as text.

    Args:
        config: of a run; of independent volumes, the largest is shown.
        rows: most rows to show, of the targets and of a generated anchor each.
        progress: advanced by one for each generated row.
        generate: whether to load the start model, generate missing rows, and measure the likelihood
            of the targets.

    Raises:
        HarnessError: if the run is invalid, or rows are missing and ``generate`` is false.
    """
    runs = combinations.runs_of(config)
    prepared = preparation.prepare(max(runs, key=lambda run: max(run.data.volumes)), Workspace(), trains=False)
    tokenizer = prepared.workspace.tokenizer_of(prepared.config)
    for row in prepared.rows[:1]:  # rows that the prompt format cannot take raise here, before the model loads
        tokens.encode(row, tokenizer, config.objective.prompt_format, prepared.resolved.max_length, "target")
    model = _loaded(prepared, progress) if generate else None
    try:
        data = Generation(prepared).data(None if model is None else lambda: model, progress)
    except MissingRows as missing:
        fix = "--write to generate them now, or harness run, which generates them before training"
        raise DataError(explain("generated rows", got=f"at least {missing.rows} rows that are not generated yet", fix=fix)) from missing
    nats = target_nats(prepared, data, model) if model is not None else _recorded_nats(prepared)
    noted = notes(prepared, steps_of(prepared, data, mixed=False))
    return "\n".join([*_head(prepared, data, nats), *noted, *_targets(prepared, data, rows), *_anchor(data.generated_anchor[:rows])]) + "\n"


def _loaded(prepared: Prepared, progress: Progress) -> PreTrainedModel:
    import torch

    torch.set_num_threads(prepared.resolved.threads)
    progress.stage(f"load {prepared.config.labels.model}", 1)
    model: PreTrainedModel = load(prepared.config.model, prepared.resolved.device)
    return model


def _recorded_nats(prepared: Prepared) -> dict[str, float]:
    record = prepared.experiment.record(prepared.run_id)
    found = record.writing.get("target_nats") if record else None
    return {} if found is None else {"target_nats": found}


def _head(prepared: Prepared, data: Data, nats: dict[str, float]) -> list[str]:
    labels, volume = prepared.config.labels, prepared.volumes[-1]
    parts = [f"model {labels.model}", f"objective {labels.objective}", f"mitigation {labels.mitigation}", f"data {labels.data}"]
    lines = [f"run {prepared.run_id}: {', '.join(parts)}, seed {prepared.config.seed}, volume {volume}"]
    lines += [in_words(data.statistics)] if data.statistics else ["no rows are generated for this run: it trains on its gold rows"]
    value = nats.get("target_nats", math.nan)
    measured = f"{value:.4f} per supervised token under the start model, first {min(SCORED_ROWS, len(data.target))} rows"
    return [*lines, f"target nats: {measured if nats else 'not measured; --write loads the start model to measure them'}"]


def _targets(prepared: Prepared, data: Data, count: int) -> list[str]:
    """Return the lines of target rows; if they are not generated, of the gold rows."""
    if not data.sources:
        pairs: list[tuple[Row, GeneratedRow]] = [
            (row, GeneratedRow(row, accepted=False, how="gold", generated_tokens=0)) for row in data.target
        ]
    else:
        pairs = list(zip(data.sources, data.generated, strict=True))
    whole = len(pairs) if data.sources else min(len(pairs), prepared.volumes[-1])
    lines = []
    for number, (row, generated) in enumerate(pairs[: min(count, whole)], 1):
        how = f"{generated.how}{', accepted' if generated.accepted else ''}{'' if generated.row else ', left out'}"
        lines += ["", f"row {number} of {whole} ({row.id}): {how}", *_row(row, generated)]
    return lines


def _row(row: Row, generated: GeneratedRow) -> list[str]:
    if row.kind != "completion":
        part = [f"  part:     tokens {row.part[0]} to {row.part[1]}"] if row.part else []
        taught = {True: "", False: "   (context, not learned)"}
        return [*(f"  {turn.role + ':':<9} {turn.content!r}{taught[turn.taught]}" for turn in row.turns), *part]
    lines = [f"  prompt:   {question(row)!r}", f"  gold:     {row.turns[-1].content!r}"]
    if generated.row is not None:
        answer, *worse = [turn.content for turn in generated.row.turns if turn.role in ("assistant", "rejected")]
        changed = f"   (edit rate from gold {edit_rate(gold(row), answer.strip()):.2f})" if generated.accepted else ""
        lines.append(f"  {'better: ' if worse else 'trained:'}  {answer!r}{changed}")
        lines += [f"  worse:    {other!r}" for other in worse]
    if generated.edit_rate is not None:
        lines.append(f"  edited:   {generated.edit_rate:.2f} of the model's own first answer")
    return [*lines, *(f"  tried:    {text!r}" for text in generated.tried)]


def _anchor(rows: Sequence[GeneratedRow]) -> list[str]:
    lines = []
    for number, generated in enumerate(rows, 1):
        lines += ["", f"anchor row {number}: {generated.how}, {generated.generated_tokens} tokens generated"]
        lines += [f"  {turn.role + ':':<9} {turn.content!r}" for turn in (generated.row.turns if generated.row else ())]
    return lines
