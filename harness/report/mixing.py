"""Shares of old data in words: a table for a terminal, the answer, and values for programs."""

from __future__ import annotations

from typing import Any

from harness.analysis.findings.shares import Change, Mixing, Share
from harness.analysis.table.columns import SUITE_TASK
from harness.report import tables, words
from harness.report.evidence import Evidence, at_largest_volume
from harness.report.tables import Panel, possible_ends

NOTHING = "No share is measured yet."


def text(evidence: Evidence) -> str:
    """Return the table of shares and the answer, for each model and training."""
    return "\n\n".join(_text(evidence, one) for one in evidence.mixings) or NOTHING


def values(evidence: Evidence) -> list[dict[str, Any]]:
    """Return answer and shares as plain values, for each model and training."""
    return [_values(evidence, one) for one in evidence.mixings]


def answer(evidence: Evidence, mixing: Mixing) -> str:
    """Return the smallest share that is enough, or that there is none, as one sentence or two."""
    if enough := mixing.enough:
        parts = [*_smaller(mixing, enough), *_gains(evidence, mixing, enough), *_unlearned(evidence, enough)]
        return " ".join([_enough(evidence, mixing, enough), *parts])
    last = mixing.shares[-1]
    if mixing.answer == "none":
        return (
            f"None of these shares is enough: even {percent(last.reached)} of the loss leaves a loss of {_worst(evidence, last)}."
            " A larger share, a lower learning rate or fewer rows lose less."
        )
    near = min((share for share in mixing.shares if share.losses), key=_above, default=mixing.shares[-1])
    if "not measured" in (near.state, last.state):
        return "Not settled: not every probe is measured."
    if any(share.state == "enough" for share in mixing.shares):
        return (
            f"Not settled: shares are tested from the largest down, and {percent(last.reached)} of the loss is {last.state}, with a loss of"
            f" {_worst(evidence, last)}. More seeds or more held-out rows may settle it."
        )
    return (
        f"Not settled: no share keeps every loss within its margin beyond doubt. Nearest is {percent(near.reached)} of the loss,"
        f" with a loss of {_worst(evidence, near)}. More seeds, more held-out rows or a larger share may settle it."
    )


def percent(share: float) -> str:
    """Return a share of the loss, such as ``5.2%``."""
    return f"{100 * share:.1f}%"


def extra(mixing: Mixing, share: Share) -> tuple[float | None, float | None]:
    """Return tokens and seconds of training beyond those of share 0; None where unknown."""
    plain = mixing.plain
    pairs = [(share.tokens, plain.tokens), (share.seconds, plain.seconds)] if plain else [(None, None)] * 2
    tokens, seconds = (None if own is None or base is None else own - base for own, base in pairs)
    return tokens, seconds


def change(evidence: Evidence, found: Change, *, is_gain: bool = False) -> str:
    """Return a gain or loss with its interval, in the unit shown."""
    panel = _panel(evidence, found)
    if found.value is None:
        return "not measured"
    turned = panel.sign if is_gain else -panel.sign
    low, high = possible_ends(found.low, found.high, found.before, panel.unit, sign=turned) if found.low is not None else (None, None)
    value = words.amount(found.value, panel.unit, sign=True)
    return f"{value} {words.interval(low, high, panel.unit)}"


def cost(mixing: Mixing, share: Share) -> tuple[str, str]:
    """Return tokens and seconds beyond share 0, as text."""
    tokens, seconds = extra(mixing, share)
    plain = mixing.plain
    part = f" (+{100 * tokens / plain.tokens:.0f}%)" if tokens and plain and plain.tokens else ""
    return (
        words.UNKNOWN if tokens is None else f"{tokens:+,.0f}{part}" if tokens else "0",
        words.UNKNOWN if seconds is None else f"{seconds:+,.1f}" if share is not plain else "0",
    )


def basis(evidence: Evidence, mixing: Mixing) -> str:
    """Return rows, seeds, intervals and rate that all shares have in common."""
    rows = evidence.findings[evidence.findings["cell"].isin([share.cell for share in mixing.shares])]
    wholes = at_largest_volume(rows[rows["task"] == SUITE_TASK])
    over = " or ".join(sorted(wholes["varies"].dropna().unique()))
    rate, tuned = wholes["learning_rate"].iloc[0], bool(wholes["lr_tuned"].fillna(value=False).any())
    counts = sorted({share.seeds for share in mixing.shares})
    seeds = words.seeds(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    rate_text = f"learning rate {rate:.3g}, {'searched for without old data' if tuned else 'not searched for: a lower one may lose less'}"
    intervals = f"{words.levels_of(wholes)} intervals over {over}" if over else "no intervals"
    return f"{mixing.shares[0].volume:,} rows, {seeds}; {intervals}; {rate_text}."


def _panel(evidence: Evidence, found: Change) -> Panel:
    return evidence.panel_of[found.suite, SUITE_TASK]


def _text(evidence: Evidence, mixing: Mixing) -> str:
    shares, first = mixing.shares, mixing.shares[0]
    asked = ["" if share.asked is None else f"{share.asked:g}" for share in shares]
    columns = [
        tables.column(["share of the loss", "asked"], asked, right=True),
        tables.column(["", "reached"], [percent(share.reached) for share in shares], right=True),
    ]
    if first.gain:
        heading = [f"gain on {first.gain.suite}", _panel(evidence, first.gain).unit.name]
        texts = [change(evidence, share.gain, is_gain=True) if share.gain else words.UNKNOWN for share in shares]
        columns.append(tables.column(heading, texts, right=True))
    for suite in dict.fromkeys(loss.suite for share in shares for loss in (*share.losses, *share.others)):
        found = [next((loss for loss in (*share.losses, *share.others) if loss.suite == suite), None) for share in shares]
        unit = next(_panel(evidence, loss).unit.name for loss in found if loss)
        texts = [change(evidence, loss) if loss else words.UNKNOWN for loss in found]
        columns.append(tables.column([f"loss on {suite}", unit], texts, right=True))
    costs = [cost(mixing, share) for share in shares]
    columns.append(tables.column(["beyond share 0", "tokens"], [tokens for tokens, _ in costs], right=True))
    columns.append(tables.column(["", "seconds"], [seconds for _, seconds in costs], right=True))
    columns.append(tables.column(["", "old data"], [share.state for share in shares], right=False))
    lines = ["  ".join(parts).rstrip() for parts in zip(*columns, strict=True)]
    title = f"{evidence.by_cell[first.cell].model}:" if len(evidence.mixings) > 1 else ""
    return "\n".join(filter(None, [title, *lines])) + f"\n\n{basis(evidence, mixing)}\n{answer(evidence, mixing)}"


def _enough(evidence: Evidence, mixing: Mixing, share: Share) -> str:
    if share.reached == 0:
        return f"No old data is needed: without it, the loss is {_worst(evidence, share)}."
    tokens, seconds = cost(mixing, share)
    return (
        f"{percent(share.reached)} of the loss from old data is enough: the loss is {_worst(evidence, share)}."
        f" It costs {tokens} training tokens and {seconds} seconds."
    )


def _smaller(mixing: Mixing, enough: Share) -> list[str]:
    """Return a sentence on smaller shares."""
    below = mixing.shares[: mixing.shares.index(enough)]
    rule = " (enough counts only where all larger shares are)" if any(share.state == "enough" for share in below) else ""
    return [f"Smaller shares: {', '.join(f'{percent(one.reached)} {one.state}' for one in below)}{rule}."] if below else []


def _gains(evidence: Evidence, mixing: Mixing, share: Share) -> list[str]:
    """Return a sentence on the gain with and without old data."""
    plain = mixing.plain
    if not share.gain or not plain or not plain.gain or share is plain:
        return []
    with_old, without = (change(evidence, gain, is_gain=True) for gain in (share.gain, plain.gain))
    unit = _panel(evidence, share.gain).unit.name
    return [f"Gain on {share.gain.suite}: {with_old} {unit}, without old data {without}."]


def _unlearned(evidence: Evidence, share: Share) -> list[str]:
    """Return a warning where the gain may be nothing: then little was there to be forgotten."""
    gain = share.gain
    if gain is None or gain.low is None or gain.low > 0:
        return []
    unit = _panel(evidence, gain).unit.name
    found = f"the gain on {gain.suite} is {change(evidence, gain, is_gain=True)} {unit}"
    return [f"But it is not settled that anything was learned: {found}; more rows, or a higher rate, may need more old data."]


def _above(share: Share) -> float:
    """Return how many margins the worst loss of a share may be."""
    return max(_nearness(loss) for loss in share.losses)


def _nearness(loss: Change) -> float:
    """Return the upper end of a loss in margins; 0 where either is unknown."""
    return (loss.high or 0.0) / loss.margin if loss.margin else 0.0


def _worst(evidence: Evidence, share: Share) -> str:
    """Return the loss that is nearest to its margin, or farthest above it, in words."""
    measured = [loss for loss in share.losses if loss.value is not None]
    loss = max(measured, key=_nearness)
    unit = _panel(evidence, loss).unit
    margin = words.amount(loss.margin, unit)
    most = f" (the nearest to its margin, or farthest above, of {len(measured)} probes)" if len(measured) > 1 else ""
    relation = {"enough": "within the margin of", "too little": "above the margin of"}.get(loss.state, "against a margin of")
    return f"{change(evidence, loss)} {unit.name} on {loss.suite}{most}, {relation} {margin}"


def _values(evidence: Evidence, mixing: Mixing) -> dict[str, Any]:
    labels = evidence.by_cell[mixing.shares[0].cell].labels
    enough = mixing.enough
    return {
        "experiment": evidence.experiment.name,
        "model": labels["model"],
        "answer": mixing.answer,
        "share": None if enough is None else enough.reached,
        "sentence": answer(evidence, mixing),
        "basis": basis(evidence, mixing),
        "shares": [_share(mixing, share) for share in mixing.shares],
    }


def _share(mixing: Mixing, share: Share) -> dict[str, Any]:
    tokens, seconds = extra(mixing, share)
    return {
        "asked": share.asked,
        "reached": share.reached,
        "state": share.state,
        "volume": share.volume,
        "seeds": share.seeds,
        "gain": _change(share.gain),
        "losses": [{**(_change(loss) or {}), "margin": loss.margin, "state": loss.state} for loss in share.losses],
        "other_losses": [_change(loss) for loss in share.others],
        "tokens": share.tokens,
        "tokens_beyond_share_0": tokens,
        "seconds": share.seconds,
        "seconds_beyond_share_0": seconds,
    }


def _change(found: Change | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"suite": found.suite, "metric": found.metric, "value": found.value, "low": found.low, "high": found.high}
