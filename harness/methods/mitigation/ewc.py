"""Elastic weight consolidation: a Fisher-weighted distance from the start weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.config.strict import check
from harness.core.contexts import Penalty, PenaltyContext, Step
from harness.core.errors import DataError, explain
from harness.core.methods import Mitigation
from harness.core.rows import Example
from harness.core.seeds import derive
from harness.models import forward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Fisher = Literal["sampled", "empirical"]


@dataclass(frozen=True, kw_only=True)
class Ewc(Mitigation):
    """EWC: loss + (λ/2) · Σ_i F_i · (θ_i − θ*_i)².

    θ* are the start weights, and F is the diagonal of their Fisher information on the anchor: with
    g(x) the gradient, at θ*, of log p(y | x) summed over the supervised tokens y of an anchor row
    x, F_i = Σ_x g_i(x)² / Σ_x (supervised tokens of x), over the first ``fisher_rows`` anchor rows
    that have any. ``fisher`` chooses y:

    - ``sampled``: at each position a token drawn from the start model, given the row's own text
      before it. This is the Fisher information.
    - ``empirical``: the row's own tokens. Most published code computes this; it is not the Fisher
      information where the model is wrong.

    Paper: Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks, arXiv
    1612.00796, equation 3. Differs from the paper: F is per supervised token rather than per row,
    so that ½ Σ F_i (θ_i − θ*_i)² estimates the rise of the anchor's loss in nats per token (to
    second order, by the diagonal alone). λ is then the weight of that rise relative to the training
    loss, for any length of rows and size of model. Under LoRA, F and θ are of the adapted weights
    themselves, W + (alpha / rank)·B·A, never of A and B. Checked against: a softmax by hand, and
    per-row gradients of a plain model.

    F is computed once, before training (and again when a run resumes), in float32 without dropout,
    one row at a time. Its tokens count in ``extra_tokens``, its seconds in no point's
    ``wall_seconds``. It needs as much memory as the weights that can move: a gradient is squared as
    soon as it is computed, and freed.

    Attributes:
        weight: λ; 0 is off. At 1, anchor and target would count equally if the diagonal were the
            whole Fisher information; that of few rows is far from it, and published values are far
            above 1, hence the default. Search it if it matters.
        fisher: see above.
        fisher_rows: anchor rows that F is averaged over.
    """

    strength: ClassVar[str] = "weight"

    weight: float = 100.0
    fisher: Fisher = "sampled"
    fisher_rows: int = 64

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.weight", self.weight, "0 or greater", lambda value: value >= 0)
        check("mitigation.fisher_rows", self.fisher_rows, "1 or greater", lambda value: value >= 1)

    @property
    def needs_anchor(self) -> bool:
        """Whether F is computed."""
        return self.weight > 0

    @property
    def trains_on_anchor(self) -> bool:
        """Never: anchor rows are read for F alone."""
        return False

    @property
    def needs_weights(self) -> bool:
        """Whether F is computed: it is of the weights themselves, under an adapter too."""
        return self.weight > 0

    def anchor_rows(self, target_rows: int) -> int:
        """Return the number of rows that F is averaged over."""
        return self.fisher_rows if self.needs_anchor else 0

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Compute F, and return λ/2 times the weighted squared distance from the start weights.

        Raises:
            DataError: for an anchor of fewer rows than ``fisher_rows``, or without a supervised
                token in them.
        """
        import torch

        if self.weight == 0:
            return None
        base, tuning = forward.OnDevice(context.base, context.model.device), context.tuning
        with torch.no_grad():
            names = [name for name, _ in tuning.deltas(context.model, base)]
        weights = forward.plain_parameters(context.model, names)
        found = information(context.model, weights, self._rows(context.anchor), self.fisher, context.seed)

        def penalty(model: PreTrainedModel, _: Step) -> torch.Tensor:
            parts = [(found[name] * delta.square()).sum() for name, delta in tuning.deltas(model, base)]
            return self.weight / 2 * torch.stack(parts).sum()

        return penalty

    def extra_tokens(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> int:
        """Return the tokens of the rows of F, once for any number of steps."""
        if self.weight == 0 or not steps:
            return 0
        return sum(len(row.input_ids) for row in self._rows(anchor))

    def _rows(self, anchor: Sequence[Example]) -> list[Example]:
        drawn = anchor[: self.fisher_rows]
        found, fix = forward.taught(drawn), "another anchor, or another mitigation.fisher_rows"
        if len(drawn) < self.fisher_rows or not found:
            got = f"{len(drawn)} rows, {len(found)} of them with supervised tokens"
            raise DataError(explain("anchor", got=got, allowed=f"at least mitigation.fisher_rows = {self.fisher_rows} rows", fix=fix))
        return found


def information(
    model: PreTrainedModel, weights: dict[str, torch.nn.Parameter], rows: Sequence[Example], fisher: Fisher, seed: int
) -> dict[str, torch.Tensor]:
    """Return the diagonal Fisher information per supervised token, by name; see ``Ewc``.

    Args:
        model: computes with these weights; unchanged.
        weights: by name, frozen or not.
        rows: each with a supervised token.
        fisher: tokens of the likelihood.
        seed: of sampled tokens; global streams are not used.
    """
    import torch

    found, moving = {name: torch.zeros_like(weight) for name, weight in weights.items()}, list(weights.values())
    squaring = forward.taken(moving, [functools.partial(_add_square, total) for total in found.values()])
    with forward.without_dropout(model), forward.differentiable(moving), squaring, torch.enable_grad():
        for number, row in enumerate(rows):
            scores = forward.logits(model, [row], half=False)  # (N, V)
            chosen = forward.targets([row]) if fisher == "empirical" else drawn(scores.detach(), derive(seed, "fisher", str(number)))
            likelihood = torch.log_softmax(scores, dim=-1).gather(-1, chosen.to(scores.device)[:, None]).sum()
            likelihood.backward(inputs=moving)
    tokens = sum(row.supervised_tokens for row in rows)
    return {name: total.div_(tokens) for name, total in found.items()}


def _add_square(total: torch.Tensor, gradient: torch.Tensor) -> None:
    total.addcmul_(gradient, gradient)


def drawn(scores: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a token drawn by softmax for each row of logits.

    Args:
        scores: logits of shape (N, V).
        seed: of a generator of its own.

    Returns:
        int64 of shape (N,), on the CPU.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.softmax(scores, dim=-1).cpu(), 1, generator=generator).squeeze(-1)
