"""Elastic weight consolidation: the weights that mattered for the past are drawn back to where they started."""

from __future__ import annotations

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
    """loss + (λ/2) · Σ_i F_i · (θ_i − θ*_i)², θ* the start weights, F the diagonal of their Fisher information on the anchor.

    With g(x) the gradient, at θ*, of log p(y | x) summed over the supervised tokens y of an anchor
    row x: F_i = Σ_x g_i(x)² / Σ_x (supervised tokens of x), over the first ``fisher_rows`` anchor
    rows that have any. Which y is ``fisher``:

    - ``sampled``: at each place a token drawn from the start model itself, given the row's own text
      before it: the Fisher information;
    - ``empirical``: the row's own tokens: what most published code computes, and not the Fisher
      information where the model is wrong.

    Paper: Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks, arXiv
    1612.00796, equation 3. Differs from the paper: F is per supervised token rather than per row,
    so that ½ Σ F_i (θ_i − θ*_i)² estimates, in nats per token, by how much the anchor's loss rises
    (to second order, the diagonal alone), and λ says how much more that counts than the loss that
    is learned, whatever the length of rows and the size of the model. Under LoRA, F and θ are of
    the adapted weights themselves, W + (alpha / rank)·B·A, never of A and B. Checked against: a
    softmax worked out by hand, and per-row gradients of a plain model.

    F is computed once, before training, in float32 without dropout, one row at a time (and again
    where a run goes on from a saved state); its tokens are in ``extra_tokens``, its seconds in no
    point's ``wall_seconds``. It takes as much memory as the weights that can move.

    Attributes:
        weight: λ; 0 is off. At 1 the anchor would count as much as the target if the diagonal were
            the whole of it; the diagonal of so few rows is far from that, and published values are
            far above 1, hence the default. Search it where it matters.
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
        """Return False: anchor rows are read for F alone."""
        return False

    def anchor_rows(self, target_rows: int) -> int:
        """Return those that F is averaged over."""
        return self.fisher_rows if self.needs_anchor else 0

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Compute F, and return half of λ times the weighted squared distance from the start.

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
        """Return the tokens of the rows that F is computed from: once, however many steps follow."""
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
    """Return the diagonal Fisher information per supervised token of weights, frozen or not, by name; see ``Ewc``.

    Args:
        model: computes with these weights; it is left as it was.
        weights: by name.
        rows: each with a supervised token.
        fisher: which tokens the likelihood is of.
        seed: of the tokens that are sampled; global streams stay where they are.
    """
    import torch

    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with forward.without_dropout(model), forward.differentiable(list(weights.values())), torch.enable_grad():
        for number, row in enumerate(rows):
            scores = forward.logits(model, [row], half=False)  # (N, V)
            said = forward.targets([row]) if fisher == "empirical" else drawn(scores.detach(), derive(seed, "fisher", str(number)))
            likelihood = torch.log_softmax(scores, dim=-1).gather(-1, said.to(scores.device)[:, None]).sum()
            gradients = torch.autograd.grad(likelihood, list(weights.values()), allow_unused=True)
            for total, gradient in zip(found.values(), gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
    tokens = sum(row.supervised_tokens for row in rows)
    return {name: total / tokens for name, total in found.items()}


def drawn(scores: torch.Tensor, seed: int) -> torch.Tensor:
    """Return one token for each row of logits (N, V), drawn by their softmax: int64 of shape (N,), on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.softmax(scores, dim=-1).cpu(), 1, generator=generator).squeeze(-1)
