"""Law ``power``: forgetting against the number of target rows.

forgetting = c * volume^k, the simplest law with one exponent. No source claims it for forgetting
against volume alone. It has no ceiling, so where a model has nothing left to lose the points
deviate from it; the error at the held-out largest volume shows this.
"""

from harness.analysis.fits.laws import Law, Prior, Term

LAW = Law(
    name="power",
    formula="c * volume^k",
    source="ours: the power law in one variable, as a plain description of a cell",
    terms=(
        Term("c", "response at volume 1", scale="signed", linear=True),
        Term("k", "1", starts=(-0.3, 0.1, 0.3, 0.6, 1.0, 2.0), low=-4.0, high=6.0),
    ),
    columns=("volume",),
    positive=frozenset({"volume"}),
    needs={"volume": 2},
    curve=lambda term, column: term["c"] * column["volume"] ** term["k"],
    shown=lambda term, reference: {"c": term["c"] * reference["volume"] ** -term["k"]},
    shape={"k": Prior(mean=0.5, sd=0.7, step=0.05, widest=0.8)},
    simpler={"c * volume (k = 1)": {"k": 1.0}},
)
