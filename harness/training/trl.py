"""TRL's losses inside the harness's own loop: the only module that knows TRL.

TRL gives the losses of DPOTrainer and GRPOTrainer, from log-probabilities computed in slices of
rows. Its trainers are not built: they read data sets anew, add an adapter, write into the model's
config, replace its ``forward`` and report to a server. So ``__init__`` here is a plain Trainer's,
and each value that a loss reads is set by its name in TRL 1.16 (pyproject.toml bounds the version).
The fused head is on the model while a loss is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.core.contexts import LearningContext
from harness.core.rows import NO_LOSS
from harness.models import anatomy
from harness.models.batches import padded_batch
from harness.models.forward import without_dropout

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

EQUAL = 1e-6
"""Rewards that differ by less than this are equal."""

HEAD = ("log_probs", "entropy", "mean_logits", "is_top1")
"""Outputs of a forward pass that TRL's losses read, all but the first only for logs."""


@contextmanager
def fused_head(model: Any, temperature: float = 1.0) -> Iterator[None]:
    """Let a model answer ``fused_lm_head=True`` with log-probabilities, for a block.

    Afterwards its ``forward`` is its own.
    """
    from trl.trainer.utils import add_fused_lm_head

    plain = anatomy.unwrapped(model)
    own = vars(plain).get("forward")
    add_fused_lm_head(plain, temperature=temperature, outputs=HEAD)
    try:
        yield
    finally:
        del plain.forward
        if own is not None:
            plain.forward = own


@cache
def _learner() -> type[Any]:
    import torch
    from transformers import Trainer

    class Learner:
        """Base of the trainers: a plain Trainer whose reference is the start model.

        Attributes:
            learning: set after construction, before training.
        """

        learning: LearningContext
        temperature = 1.0

        def __init__(self, **arguments: Any) -> None:
            Trainer.__init__(self, **arguments)  # type: ignore[arg-type]
            self._metrics: Any = {"train": defaultdict(list), "eval": defaultdict(list)}
            self.aux_loss_enabled = False
            # TRL gathers its metrics, which nothing reads, in every micro-batch, and processes may
            # differ in their number of micro-batches: they would wait for each other for ever.
            accelerator: Any = self.accelerator  # type: ignore[attr-defined]
            accelerator.gather = accelerator.gather_for_metrics = lambda values: values

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            return Trainer.training_step(self, model, inputs, num_items_in_batch)  # type: ignore[arg-type]

        def _prepare_inputs(self, inputs: Any) -> Any:
            return Trainer._prepare_inputs(self, inputs)  # type: ignore[arg-type]

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            Trainer.log(self, logs, start_time)  # type: ignore[arg-type]

        def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
            """Keep what the harness made."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            self._metrics["train"].clear()
            with fused_head(self.model, self.temperature):  # type: ignore[attr-defined]
                loss = self.loss_of(model, inputs, num_items_in_batch)  # type: ignore[attr-defined]
            return (loss, None) if return_outputs else loss

        def reference(self, batch: Any, labels: torch.Tensor) -> torch.Tensor:
            """Return the log-probabilities of labels under the start model, (S, T - 1).

            There is no dropout. Autocast has a region of its own, which neither keeps cast weights
            nor sees earlier ones.
            """
            model: Any = self.model  # type: ignore[attr-defined]
            kind = model.device.type
            autocast = torch.autocast(kind, dtype=torch.bfloat16, enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
            with self.learning.start(), without_dropout(model), torch.no_grad(), autocast:
                found = model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    labels=labels,
                    fused_lm_head=True,
                    use_cache=False,
                )
            log_probs: torch.Tensor = found.log_probs
            return log_probs

    return Learner


@cache
def pair_trainer(beta: float) -> type[Trainer]:
    """Return a Trainer that learns from pairs by the loss of TRL's DPOTrainer.

    Its batches hold, of (S, T), the better and the worse answer of each pair in turn;
    ``num_items_in_batch`` is the pairs of the step.
    """
    import torch
    from trl.trainer.dpo_trainer import DPOTrainer

    class PairTrainer(_learner(), DPOTrainer):  # type: ignore[misc]
        """A Trainer whose loss is the mean over the pairs of a step."""

        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.beta, self.loss_types, self.loss_weights, self.label_smoothing = beta, ["sigmoid"], [1.0], 0.0
            self.f_divergence_type, self.ld_alpha, self.use_weighting = "reverse_kl", None, False
            self.precompute_ref_logps, self.ref_model, self._total_train_tokens, self._tp_size = True, None, 0, 1

        def loss_of(self, model: Any, inputs: Any, num_items_in_batch: int) -> Any:
            sequences = inputs["input_ids"].shape[0]
            order = torch.cat([torch.arange(0, sequences, 2), torch.arange(1, sequences, 2)]).to(inputs["input_ids"].device)
            labels = inputs["labels"][order]
            batch = {name: inputs[name][order] for name in ("input_ids", "attention_mask")}
            better, worse = self.reference(batch, labels).sum(dim=1).chunk(2)
            known = {"ref_chosen_logps": better, "ref_rejected_logps": worse, "completion_mask": (labels != NO_LOSS).long()}
            compute: Any = self._compute_loss
            loss = compute(model, {**batch, **known}, False)
            return loss * (sequences // 2 / num_items_in_batch)

    return PairTrainer


@cache
def reward_trainer(*, beta: float, temperature: float, loss_type: str, clip: float, max_new_tokens: int) -> type[Trainer]:
    """Return a Trainer that learns from rewarded answers by the loss of TRL's GRPOTrainer.

    Its batches are those of ``Rollouts``; ``num_items_in_batch`` is the answers of the step.
    """
    from trl.trainer.grpo_trainer import GRPOTrainer

    class RewardTrainer(_learner(), GRPOTrainer):  # type: ignore[misc]
        """A Trainer on prompts with their answers, padded on the right.

        So the position of a token does not depend on the batch. TRL pads prompts on the left; here
        its prompt is the first token alone, and other tokens outside the answer are masked by name.
        """

        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.beta, self.temperature, self.loss_type = beta, temperature, loss_type
            self.epsilon_low = self.epsilon_high = clip
            self.max_completion_length, self.importance_sampling_level = max_new_tokens, "token"
            self.top_entropy_quantile, self.off_policy_mask_threshold, self._entropy_bonus_enabled = 1.0, None, False
            self.use_vllm, self.vllm_importance_sampling_correction = False, False
            for name, value in {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1}.items():
                setattr(self.args, name, value)

        def loss_of(self, model: Any, inputs: Any, num_items_in_batch: int) -> Any:
            ids, attention, answer = inputs["input_ids"], inputs["attention_mask"], inputs["labels"] != NO_LOSS
            batch = {
                "prompt_ids": ids[:, :1],
                "prompt_mask": attention[:, :1],
                "completion_ids": ids[:, 1:],
                "completion_mask": attention[:, 1:],
                "tool_mask": answer[:, 1:].long(),
                "advantages": inputs["advantages"][:, 0],
                "num_items_in_batch": inputs["answer_tokens"][0, 0],
            }
            if beta:
                # Outside answers too: TRL takes the exponential of the difference before it masks,
                # and 0 · infinity is not a number.
                batch["ref_per_token_logps"] = self.reference(inputs, ids.masked_fill(attention == 0, NO_LOSS))
            compute: Any = self._compute_loss
            loss = compute(model, batch)
            # TRL's dapo already divides by the tokens of the whole step; the others are means over
            # the sequences of this part.
            return loss if loss_type == "dapo" else loss * (ids.shape[0] / num_items_in_batch)

    return RewardTrainer


def stacked(answers: Sequence[tuple[Sequence[int], Sequence[int]]], advantages: Sequence[float], pad_id: int) -> dict[str, torch.Tensor]:
    """Stack prompts and their answers, token ids, into the batch of ``Rollouts``."""
    import torch

    ids, labels = [[*prompt, *answer] for prompt, answer in answers], [[*[NO_LOSS] * len(prompt), *answer] for prompt, answer in answers]
    written = sum(len(answer) for _, answer in answers)
    return {
        **padded_batch(ids, labels, pad_id),
        "advantages": torch.tensor(advantages, dtype=torch.float32)[:, None],
        "answer_tokens": torch.full((len(answers), 1), float(written)),
    }


def advantages_of(rewards: Sequence[float], group: int, *, scaled: bool) -> list[float]:
    """Return the advantage of each answer over its group, as TRL defines it.

    It is r - mean, where scaled over (standard deviation + 1e-4). A group with equal rewards has
    none: there, r - mean in float32 is rounding, which the division would make large.

    Args:
        rewards: of the answers; those to one prompt are adjacent.
        group: answers to a prompt, 2 or more.
        scaled: whether to divide; the deviation is the one with n - 1.
    """
    import torch

    groups = torch.tensor(rewards, dtype=torch.float32).view(-1, group)
    found = groups - groups.mean(dim=1, keepdim=True)
    equal = groups.amax(dim=1, keepdim=True) - groups.amin(dim=1, keepdim=True) < EQUAL
    found = found.masked_fill(equal, 0.0)
    if scaled:
        found = found / (groups.std(dim=1, keepdim=True) + 1e-4)
    return [float(value) for value in found.flatten()]
