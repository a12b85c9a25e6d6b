"""The words of the page, each in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from harness.report.content import CellView, ColumnView, Section, TableView
from harness.report.evidence import Evidence

TERMS: Mapping[str, str] = {
    "method": "A model and how it was trained: runs that differ only in their seed. Its numbers are means over these seeds.",
    "gain, loss": "The change of a suite from before training to after it, on the same items: gain on what was to be learned (targets),"
    " loss on what could be forgotten (probes). A negative loss is a gain.",
    "points": "Percentage points of a share of items. Likelihoods are in nats per token.",
    "interval": "In brackets: the range of changes that agrees with the data, over seeds and items together from three seeds on, else over"
    " items alone.",
    "over": "What an interval allows for: over items, that other questions could have been asked; over seeds, that training could have been"
    " repeated with other random numbers.",
    "pooled": "The spread between seeds, judged from all methods measured on the same items: three seeds alone tell little of it.",
    "margin, kept": "A change whose interval is inside ±margin is negligible: kept.",
    "lost, gained": "p < 0.05 and an interval that excludes 0. With fewer than three seeds the verdict is about these runs alone.",
    "these runs": "The verdict holds for the runs that were made; a further seed may give another one.",
    "not enough evidence": "Neither: more items or seeds would decide. The column detectable has the smallest change that would have been"
    " found.",
    "adjusted (Holm)": "Among many tests some are significant by chance; counts over methods are corrected for their number.",
    "at equal gain": "A method that learns more also forgets more. Two methods are compared over the gains that both reach: the mean"
    " difference of their losses there. No mitigation is taken at the best of its learning rates and numbers of passes.",
    "same-data control": "A run that continues training on data that the model already knew, at the same rate: what it loses is lost to"
    " training as such. If it loses more than the margin, the rate is too high.",
    "floors": "Changes without new training: the spread of seeds, the control, and rounding.",
    "could be lost": "The largest loss that is possible beyond what guessing explains: a model that guesses has lost all of it.",
    "FG over volumes": "The share of the value before training that is lost, in percent, mean over the volumes (arXiv 2308.08747).",
    "frontier": "The points of gain and loss that no other point beats in both.",
    "law": "A formula of forgetting by volume, size or distance, fitted to the points; supported where forgetting changes with it.",
    "headline": "The probe suite that the experiment declared beforehand as its claim.",
}


def glossary(evidence: Evidence) -> Section:
    """Return the words of the page and the version of the protocol."""
    versions = ", ".join(map(str, evidence.table["protocol_version"].dropna().unique()))
    table = TableView(
        name="",
        columns=[ColumnView(title="word"), ColumnView(title="meaning", is_prose=True)],
        rows=[[CellView(word, kind="strong"), meaning] for word, meaning in TERMS.items()],
        sortable=False,
    )
    return Section(id="words", title="How to read this", tables=[table], notes=[f"Protocol version {versions or '-'}."])
