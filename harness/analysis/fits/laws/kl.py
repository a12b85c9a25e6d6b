"""Law ``kl``: forgetting against the divergence from the base model on the new task.

forgetting = a * kl + b * kl^2, with kl = KL(base ‖ tuned).

Source: Shenfeld, Pari & Agrawal 2025, arXiv 2509.04259: forgetting is approximately quadratic in
the forward KL (R² 0.96 on ParityMNIST, 0.71 for a language model). Unverified: that the paper's
quadratic has no constant. Here it has none, since a model at KL 0 is its base.
"""

from harness.analysis.fits.laws import Law, Term

LAW = Law(
    name="kl",
    formula="a * kl + b * kl^2",
    source="arXiv 2509.04259",
    terms=(Term("a", "response per nat", linear=True), Term("b", "response per nat²", linear=True)),
    columns=("kl",),
    positive=frozenset({"kl"}),
    needs={"kl": 2},
    curve=lambda term, column: term["a"] * column["kl"] + term["b"] * column["kl"] ** 2,
    shown=lambda term, reference: {"a": term["a"] / reference["kl"], "b": term["b"] / reference["kl"] ** 2},
    simpler={"a * kl (b = 0)": {"b": 0.0}},
)
