"""Law ``linear``: forgetting against the loss on the new data.

forgetting = slope * finetune_loss + intercept.

Source: Kalajdzievski 2024, arXiv 2401.05605, equation 4, L_f = −c·L_ft + s, so slope = −c and
intercept = s. In the paper, L_f is the cross-entropy on the base model's own predictions and the
first 50 steps are left out; with another response the numbers are not comparable.
"""

from harness.analysis.fits.laws import Law, Term

LAW = Law(
    name="linear",
    formula="slope * finetune_loss + intercept",
    source="arXiv 2401.05605, equation 4",
    terms=(Term("slope", "response per nat", linear=True), Term("intercept", "response", linear=True)),
    columns=("finetune_loss",),
    positive=frozenset(),
    needs={"finetune_loss": 2},
    curve=lambda term, column: term["slope"] * column["finetune_loss"] + term["intercept"],
)
