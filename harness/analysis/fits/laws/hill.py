"""Law ``hill``: forgetting against the number of target rows, towards a plateau.

forgetting = s * volume^h / (volume^h + v50^h): 0 at volume 0, half the plateau s at the volume v50,
where h is the steepness.

Source: Hill 1910 (Journal of Physiology 40, Proceedings, page iv), for the binding of oxygen; Hill3
among the learning curves of Domhan, Springenberg & Hutter 2015 (IJCAI, table 1). No source claims
it for forgetting against volume.
"""

from harness.analysis.fits.laws import Floats, Law, Prior, Term, Values


def _curve(term: Values, column: Values) -> Floats:
    return term["s"] / (1.0 + (term["v50"] / column["volume"]) ** term["h"])


LAW = Law(
    name="hill",
    formula="s * volume^h / (volume^h + v50^h)",
    source="Hill 1910; among the learning curves of Domhan et al. 2015; for forgetting ours",
    terms=(
        Term("s", "response", scale="signed", linear=True),
        Term("v50", "rows", starts=(0.1, 1.0, 10.0), low=1e-3, high=1e3, scale="log"),
        Term("h", "1", starts=(0.6, 1.0, 2.0), low=0.2, high=8.0, scale="log"),
    ),
    columns=("volume",),
    positive=frozenset({"volume"}),
    needs={"volume": 3},
    curve=_curve,
    shown=lambda term, reference: {"v50": term["v50"] * reference["volume"]},
    shape={"v50": Prior(mean=0.0, sd=2.0, step=0.15, widest=2.0), "h": Prior(mean=0.3, sd=0.6, step=0.1, widest=0.8)},
    plateau="s",
)
