"""How to reproduce the results, and the overlap of training rows with evaluation items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.config import paths
from harness.report.content import CellView, ColumnView, Section, TableView
from harness.report.evidence import Evidence


def overlap(evidence: Evidence) -> Section | None:
    """Return the shares of each suite's items that occur in the training rows."""
    lines = {}
    anchored = set(evidence.table.loc[(evidence.table["anchor_rows"] > 0).fillna(value=False), "run_id"])
    for run_id, record in evidence.records.items():
        names = [record["labels"].get(name) for name in (("data", "anchor") if run_id in anchored else ("data",))]
        for suite, shares in record.get("overlap", {}).items():
            line = [" and ".join(map(str, names)), str(suite), *_shares(shares)]
            lines[tuple(line)] = line
    if not lines:
        return None
    titles = ["data", "suite", "items found in full", "items sharing 13 words in a row (of those long enough)"]
    table = TableView(
        name="overlap",
        columns=[ColumnView(title=title) for title in titles],
        rows=[[CellView(text) for text in line] for line in lines.values()],
        caption="Evaluation items that occur in the training rows, among them those of an anchor that were mixed in. expected: the suite"
        " asks about these rows on purpose.",
    )
    return Section(id="overlap", title="Overlap of training rows with evaluation items", tables=[table])


def _shares(shares: Any) -> list[str]:
    if not isinstance(shares, Mapping) or not shares:
        return [str(shares or "not measured"), str(shares or "not measured")]
    parts = [("exact", "exact_share", "items"), ("ngram", "ngram_share", "ngram_items")]
    return [f"{shares[count]} of {shares[total]} ({100 * float(shares[share]):.1f}%)" for count, share, total in parts]


def reproduce(evidence: Evidence) -> Section:
    """Return the commands, the versions and one resolved configuration."""
    name, records = evidence.experiment.name, list(evidence.records.values())
    made = list(dict.fromkeys(str(record["provenance"]["command"]) for record in records if record["provenance"].get("command")))
    shipped = [f"harness sweep experiment={name}"] if name in paths.members("conf/experiment") and not made else []
    place = "runs/RUN_ID/config.json, next to this folder"
    notes = [f"Each run's resolved configuration is in {place}; the whole tidy table is in {evidence.table_file}."]
    parts = ["\n".join([*shipped, *made, f"harness table {name}", f"harness report {name}"])]
    if records:
        notes.append(
            f"Run {records[0]['run_id']}, one of {len(records)}, was made with {_made_with(records[0]['provenance'])}; its configuration:"
        )
        parts.append(json.dumps(records[0]["config"], indent=2, ensure_ascii=False, sort_keys=True))
    return Section(id="reproduce", title="How to reproduce", notes=notes, code="\n\n".join(parts))


def _made_with(provenance: Mapping[str, Any]) -> str:
    git = provenance.get("git")
    code = f"commit {git['commit']}{' with local changes' if git['dirty'] else ''}" if git else "an installed harness"
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    return f"{code}; {versions}; {provenance.get('platform', '')}, {provenance.get('processor', '')}".rstrip("; ,")
