"""Law ``injection``: forgetting against tokens, model size and share of injected old data.

forgetting = A * train_tokens^b / ((1 + B * inject_fraction) * params_total)^a + E, the rise over
the untuned model.

Source: Béthune et al. 2025, arXiv 2502.06042: L_pt = L⁰_pt + A·D^β / ((1 + B·p)·N)^α (+ E).
inject_fraction, p, is the share of training tokens from the pretraining distribution; it multiplies
the effective number of parameters. In the paper, the response is the loss on the pretraining
distribution at the early-stopped point, D counts unique fine-tuning tokens, and the fit is Huber's;
B is about 829 for data close to pretraining and 10⁴ for distant data. Unverified: whether E belongs
to the law (notes on the paper have it in brackets), and the values of A, a and b.

Here the exponent of the size may have either sign, since it is contested whether forgetting falls
or rises with size.
"""

import numpy as np

from harness.analysis.fits.laws import Floats, Law, Term, Values


def _curve(term: Values, column: Values) -> Floats:
    effective = (1.0 + term["B"] * column["inject_fraction"]) * column["params_total"]
    return term["A"] * column["train_tokens"] ** term["b"] * effective ** -term["a"] + term["E"]


def _idle(column: Values) -> dict[str, str]:
    found = np.unique(column["inject_fraction"])
    if len(found) > 1:
        return {}
    return {"B": f"inject_fraction is {found[0]:g} at every point, so B is not identified"}


LAW = Law(
    name="injection",
    formula="A * train_tokens^b / ((1 + B * inject_fraction) * params_total)^a + E",
    source="arXiv 2502.06042; whether E belongs to it is unverified",
    terms=(
        Term("A", "response * parameters^a / tokens^b", scale="signed", linear=True),
        Term("b", "1", starts=(0.1, 0.5, 1.0), low=0.01, high=4.0, scale="log"),
        Term("B", "1 / share", starts=(1.0, 100.0, 3000.0), low=1e-3, high=1e7, scale="log"),
        Term("a", "1", starts=(-0.3, 0.1, 0.5, 1.0), low=-4.0, high=4.0),
        Term("E", "response", linear=True),
    ),
    columns=("train_tokens", "params_total", "inject_fraction"),
    positive=frozenset({"train_tokens", "params_total"}),
    needs={"train_tokens": 2, "params_total": 2},
    curve=_curve,
    shown=lambda term, reference: {"A": term["A"] * reference["params_total"] ** term["a"] * reference["train_tokens"] ** -term["b"]},
    simpler={
        "without params_total (a = 0)": {"a": 0.0, "B": 0.0},
        "without inject_fraction (B = 0)": {"B": 0.0},
        "without a floor (E = 0)": {"E": 0.0},
    },
    idle=_idle,
    held={"B": 0.0},
    notes=("whether E belongs to this law in arXiv 2502.06042 is unverified",),
)
