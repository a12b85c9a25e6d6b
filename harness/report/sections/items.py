"""Changed items: a bounded selection for browsing; each run's samples.parquet has all items."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.analysis.table.items import items_of_point
from harness.report.content import ItemsView, Section
from harness.report.curves import Series
from harness.report.evidence import Evidence

MAX_CELLS = 12
MAX_ITEMS = 100


def items(evidence: Evidence) -> Section | None:
    """Return the items that changed most in one run each of at most MAX_CELLS cells."""
    cells = [one for one in evidence.every if not one.is_control]
    places = sorted({round(float(at)) for at in np.linspace(0, len(cells) - 1, min(MAX_CELLS, len(cells)))})
    parts, total = [], 0
    for one in [cells[place] for place in places]:
        found = _changed(evidence, one)
        total += len(found)
        parts.append(found.head(MAX_ITEMS).assign(cell=one.short) if len(found) else found)
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True) if any(len(part) for part in parts) else pd.DataFrame()
    if rows.empty:
        return None
    each = "" if len(rows) == total else f", at most {MAX_ITEMS} items each (those that lost most confidence)"
    shown = (
        f"From {len(places)} of {len(cells)} methods{each}: {len(rows):,} of the {total:,} changed probe items of their first seed at"
        " their largest volume. The items of every run are in its samples.parquet."
    )
    intro = (
        "Probe items that were right before training and are wrong now (lost), or wrong before and right now (gained). Confidence is"
        " the right choice's share of the probability of all choices."
    )
    return Section(id="items", title="Changed items", intro=intro, items=ItemsView(rows=rows, shown=shown))


def _changed(evidence: Evidence, one: Series) -> pd.DataFrame:
    rows = one.rows[(one.rows["role"] == "probe") & one.rows["run_ids"].notna() & one.rows["delta"].notna()]
    rows = rows[rows["volume"] == rows["volume"].max()]
    if rows.empty:
        return pd.DataFrame()
    run_id, volume = str(rows["run_ids"].iloc[0]).split(",")[0], int(rows["volume"].iloc[0])
    return items_of_point(evidence.experiment, run_id, volume, rows)
