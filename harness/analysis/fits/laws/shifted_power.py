"""Law ``shifted_power``: forgetting against trainable parameters and steps.

forgetting = s − (a / params_trainable)^alpha − (b / steps)^beta, which approaches the plateau s
with many trainable parameters and many steps.

Source: Kalajdzievski 2024, arXiv 2401.05605, equations 5 and 6, "shifted power laws" in fine-tuned
parameters and update steps. Unverified: the exact form (a sum as here, or a product), and which
coefficients are shared; this form agrees with the paper's description.

The fitted terms are (a / params_trainable)^alpha and (b / steps)^beta at the references, from which
a and b follow. With an exponent near 0 (the paper's are 0.035 and 0.147), a and b are hardly
determined, while the curve is.
"""

from harness.analysis.fits.laws import Floats, Law, Term, Values


def _curve(term: Values, column: Values) -> Floats:
    by_size = term["a"] * column["params_trainable"] ** -term["alpha"]
    return term["s"] - by_size - term["b"] * column["steps"] ** -term["beta"]


LAW = Law(
    name="shifted_power",
    formula="s - (a / params_trainable)^alpha - (b / steps)^beta",
    source="arXiv 2401.05605, equations 5 and 6; the exact form is unverified",
    terms=(
        Term("s", "response", linear=True),
        Term("a", "parameters", low=1e-9, scale="log", linear=True),
        Term("alpha", "1", starts=(0.05, 0.3, 1.0), low=0.005, high=6.0, scale="log"),
        Term("b", "steps", low=1e-9, scale="log", linear=True),
        Term("beta", "1", starts=(0.05, 0.3, 1.0), low=0.005, high=6.0, scale="log"),
    ),
    columns=("params_trainable", "steps"),
    positive=frozenset({"params_trainable", "steps"}),
    needs={"params_trainable": 3, "steps": 3},
    curve=_curve,
    shown=lambda term, reference: {
        "a": reference["params_trainable"] * term["a"] ** (1.0 / term["alpha"]),
        "b": reference["steps"] * term["b"] ** (1.0 / term["beta"]),
    },
    simpler={
        "s - (b / steps)^beta (no params_trainable)": {"a": 0.0, "alpha": 1.0},
        "s - (a / params_trainable)^alpha (no steps)": {"b": 0.0, "beta": 1.0},
    },
    notes=("the exact form of this law in arXiv 2401.05605 is unverified: a sum of two terms is one reading of it",),
)
