"""KL to the start model: a penalty on the divergence of next-token distributions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.config.strict import check
from harness.core.contexts import Penalty, PenaltyContext, Step
from harness.core.errors import DataError, explain
from harness.core.methods import Mitigation, Objective
from harness.core.rows import Example
from harness.core.sources import Source
from harness.core.tuning import Tuning
from harness.models import forward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Direction = Literal["base_tuned", "tuned_base"]


@dataclass(frozen=True, kw_only=True)
class Kl(Mitigation):
    """loss + λ · mean KL between the next-token distributions of start and live model.

    With z_b and z_t the logits of start and live model at a position that predicts a supervised
    token, over the whole vocabulary, and T = ``temperature``: p_b = softmax(z_b / T), p_t =
    softmax(z_t / T), and the penalty is λ · T² · mean over these positions of

    - ``base_tuned``: KL(p_b ‖ p_t) = Σ_v p_b(v) · (log p_b(v) − log p_t(v)), the forward direction;
    - ``tuned_base``: KL(p_t ‖ p_b), the reverse one.

    T² makes the size of the gradient independent of T (Hinton et al. 2015, arXiv 1503.02531,
    section 2).

    Paper: Li and Hoiem 2016, Learning without Forgetting, arXiv 1606.09282, section 3: the old
    model's answers on the new inputs, so ``inputs=new`` with ``base_tuned``. Its loss is the
    cross-entropy under p_b; KL differs from it by the entropy of p_b, which no weight moves.
    Differs from the paper: T = 1 by default instead of 2, and the factor T²; one head for old and
    new instead of two; rows are never packed here, even if the objective packs them. Checked
    against: a value by hand, ``harness.evaluation.divergence.measures``, and the gradient of a
    separate frozen copy of the model, bit for bit.

    The start model's logits come from the live model, with its start weights restored for that
    forward pass: no second model is held. They are computed without dropout, before the live
    model's, which are computed with dropout like the loss. Gradients are computed a few rows at a
    time, so that memory holds the activations of few rows and one copy of the gradients. Costs two
    forward passes and a backward pass over its rows; compatible with gradient checkpointing.

    Attributes:
        weight: λ; 0 is off.
        inputs: ``new``: the rows of the step itself that have supervised tokens. ``anchor``:
            ``anchor_batch`` rows of the anchor a step, in its (seeded) order, from its first row
            again after its last: the rows depend on the step's number alone.
        direction, temperature: see above.
        anchor_batch: anchor rows a step.
    """

    strength: ClassVar[str] = "weight"

    weight: float = 1.0
    inputs: Literal["new", "anchor"] = "new"
    direction: Direction = "base_tuned"
    temperature: float = 1.0
    anchor_batch: int = 8

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.weight", self.weight, "0 or greater", lambda value: value >= 0)
        check("mitigation.temperature", self.temperature, "greater than 0", lambda value: value > 0)
        check("mitigation.anchor_batch", self.anchor_batch, "1 or greater", lambda value: value >= 1)

    @property
    def needs_anchor(self) -> bool:
        """Whether anchor rows are read."""
        return self.inputs == "anchor" and self.weight > 0

    @property
    def trains_on_anchor(self) -> bool:
        """Never: anchor rows are read by the penalty alone."""
        return False

    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Reject ``inputs=new`` for objectives that learn no tokens."""
        if self.inputs == "anchor" or objective.learns == "tokens":
            return ""
        return f"inputs=new with an objective that learns {objective.learns}, not tokens; inputs=anchor is compatible"

    def anchor_rows(self, target_rows: int) -> int:
        """Return the rows of one step, since an anchor is repeated after its last row."""
        return self.anchor_batch if self.needs_anchor else 0

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Return λ times the mean KL of a step.

        Raises DataError for an anchor of fewer rows than ``anchor_batch``.
        """
        if self.weight == 0:
            return None
        if self.inputs == "anchor" and len(context.anchor) < self.anchor_batch:
            got, fix = f"{len(context.anchor)} rows", "a larger anchor, or a smaller mitigation.anchor_batch"
            raise DataError(explain("anchor", got=got, allowed=f"at least mitigation.anchor_batch = {self.anchor_batch}", fix=fix))
        base = forward.OnDevice(context.base, context.model.device)

        def penalty(model: PreTrainedModel, step: Step) -> torch.Tensor:
            rows = forward.taught(self._rows(step.number, step.examples, context.anchor))
            moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
            return forward.at_once(moving, self._parts(model, rows, base, context))

        return penalty

    def extra_tokens(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> int:
        """Return twice the tokens of the rows: for the start weights and the live ones."""
        if self.weight == 0:
            return 0
        rows = (row for number, step in enumerate(steps) for row in forward.taught(self._rows(number, step, anchor)))
        return 2 * sum(len(row.input_ids) for row in rows)

    def _rows(self, number: int, step: Sequence[Example], anchor: Sequence[Example]) -> Sequence[Example]:
        if self.inputs == "new":
            return step
        first = number * self.anchor_batch
        return [anchor[i % len(anchor)] for i in range(first, first + self.anchor_batch)]

    def _parts(
        self, model: PreTrainedModel, rows: Sequence[Example], base: forward.OnDevice, context: PenaltyContext
    ) -> Iterator[torch.Tensor]:
        """Yield the penalty in parts of a few rows."""
        import torch

        positions = sum(row.supervised_tokens for row in rows)
        for some in forward.chunks(rows, model.config.get_text_config().vocab_size):
            with torch.no_grad(), forward.without_dropout(model), context.tuning.base_weights(model, base):
                before = forward.logits(model, some, context.half)
            summed = divergence(before, forward.logits(model, some, context.half), self.direction, self.temperature)
            yield self.weight * summed / positions


def divergence(base: torch.Tensor, tuned: torch.Tensor, direction: Direction, temperature: float) -> torch.Tensor:
    """Return T² · KL in nats, summed over positions; see ``Kl``.

    Args:
        base: logits of the start model, float32 of shape (N, V).
        tuned: logits of the live one, of the same shape.
        direction: ``base_tuned`` is KL(p_base ‖ p_tuned).
        temperature: T.
    """
    import torch

    log_b, log_t = (torch.log_softmax(logits / temperature, dim=-1) for logits in (base, tuned))
    first, second = (log_b, log_t) if direction == "base_tuned" else (log_t, log_b)
    return temperature**2 * (first.exp() * (first - second)).sum()
