"""Law ``saturating_power``: forgetting against the number of target rows, towards a plateau.

forgetting = s - (b / volume)^beta, which is written here s * (1 - (v0 / volume)^beta), and 0 up to
the volume v0 = b / s^(1 / beta). Without the second part the law would tend to -infinity at small
volumes, although forgetting at volume 0 is 0. In this form s may be negative (a model that gains).

Source: the form of Kalajdzievski 2024, arXiv 2401.05605, equation 6, in one variable; pow3 among
the learning curves of Domhan, Springenberg & Hutter 2015 (IJCAI, table 1). No source claims it for
forgetting against volume.
"""

import numpy as np

from harness.analysis.fits.laws import Floats, Law, Prior, Term, Values


def _curve(term: Values, column: Values) -> Floats:
    shape: Floats = np.maximum(0.0, -np.expm1(term["beta"] * np.log(term["v0"] / column["volume"])))
    return term["s"] * shape


LAW = Law(
    name="saturating_power",
    formula="s * (1 - (v0 / volume)^beta)",
    source="arXiv 2401.05605, equation 6, in one variable; pow3 of Domhan et al. 2015; for forgetting ours",
    terms=(
        Term("s", "response", scale="signed", linear=True),
        Term("v0", "rows", starts=(0.01, 0.1, 0.3), low=1e-3, high=1e3, scale="log"),
        Term("beta", "1", starts=(0.1, 0.5, 1.0), low=0.02, high=6.0, scale="log"),
    ),
    columns=("volume",),
    positive=frozenset({"volume"}),
    needs={"volume": 3},
    curve=_curve,
    shown=lambda term, reference: {"v0": term["v0"] * reference["volume"]},
    shape={"v0": Prior(mean=-2.0, sd=1.2, step=0.15, widest=2.0), "beta": Prior(mean=-0.5, sd=0.9, step=0.15, widest=1.2)},
    plateau="s",
    notes=("it is 0 up to the volume v0, and equals s - (b / volume)^beta with b = v0 * s^(1 / beta)",),
)
