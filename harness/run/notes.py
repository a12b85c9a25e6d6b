"""Notes on a run, one line each: rows left out, split or repeated; faults of the template."""

from __future__ import annotations

from harness.data import chat_templates
from harness.run.preparation import Prepared
from harness.run.steps import Steps


def notes(prepared: Prepared, steps: Steps) -> list[str]:
    """Return what a user should know before a run starts; empty if nothing is out of the ordinary.

    Args:
        prepared: the run.
        steps: its rows, as the data sets have them.
    """
    return [*_rows(prepared, steps), *_template(prepared, steps), *_suites(prepared)]


def _rows(prepared: Prepared, steps: Steps) -> list[str]:
    """Return the lines on rows that are left out, split, cut or repeated."""
    labels, longest, facts = prepared.config.labels, prepared.resolved.max_length, steps.facts
    trained, largest = len(steps.data.target), prepared.volumes[-1]
    told = [prepared.taught.in_words()]
    if facts["truncated_rows"]:
        told.append(f"{facts['truncated_rows']} of {trained} rows to train on are cut at {longest} tokens")
    if facts["repeated_rows"]:
        told.append(f"{facts['repeated_rows']} of {largest} rows repeat an earlier one")
    anchor = prepared.taught_anchor.in_words() if prepared.taught_anchor else ""
    lines = {f"data {labels.data}": "; ".join(filter(None, told)), f"anchor {labels.anchor}": anchor}
    return [f"{name}: {line}" for name, line in lines.items() if line]


def _template(prepared: Prepared, steps: Steps) -> list[str]:
    config, rows = prepared.config, [*steps.data.target, *steps.data.anchor]
    found = chat_templates.warnings(rows, prepared.workspace.tokenizer_of(config), config.objective.prompt_format)
    return [f"model {config.labels.model}: {line}" for line in found]


def _suites(prepared: Prepared) -> list[str]:
    """Return a line on the suites with documents that repeat another one."""
    every = {name: prepared.workspace.suite_of(name, prepared.config) for name in prepared.roles}
    counts = {name: sum(n for task, n in one.repeated.items() if not one.apart(task)) for name, one in every.items()}
    told = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
    return [f"suites: documents that repeat another one are not asked: {told}"] if told else []
