"""How suites are evaluated: the settings of each backend, and the lm-eval model class that each makes of a live model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.config import Dtype, check
from harness.interfaces import Progress, PromptFormat

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What every backend has in common.

    Attributes:
        items: which items of each suite: those that are reported, or those on which things may be chosen.
        prompt_format: ``chat`` puts every prompt through the tokenizer's chat template, before and after alike.
        dtype: of the forward pass; the softmax is float32 always.
        add_bos: whether lm-eval's prompts begin with the BOS token; null leaves it to the tokenizer, as likelihood suites always do.
    """

    items: Literal["report", "select"] = "report"
    prompt_format: PromptFormat = "plain"
    dtype: Dtype = "auto"
    add_bos: bool | None = None

    def model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str, progress: Progress, stage: str
    ) -> HFLM:
        """Wrap a live model for lm-eval, without reloading it.

        Args:
            model: plain or PEFT, on its device.
            tokenizer: the start model's.
            max_length: of the model's context, in tokens.
            dtype: ``float32`` or ``bfloat16``, of the forward pass.
            progress: told how far it is.
            stage: what to call it there.
        """
        raise NotImplementedError

    def arguments(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str) -> dict[str, Any]:
        """Return the arguments that lm-eval's model classes share."""
        return {
            "pretrained": model,
            "tokenizer": tokenizer,
            "max_length": max_length,
            "softmax_dtype": "float32",
            "mixed_precision_dtype": "bfloat16" if dtype == "bfloat16" else None,
            "add_bos_token": self.add_bos,
        }


@dataclass(frozen=True, kw_only=True)
class HfEvaluation(Evaluation):
    """lm-eval's HFLM on the live model: the reference.

    Attributes:
        batch_size: rows of one forward pass, fixed, since it can move the last digits of a score.
    """

    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check ranges."""
        check("evaluation.batch_size", self.batch_size, "greater than 0", lambda value: value > 0)

    def model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str, progress: Progress, stage: str
    ) -> HFLM:
        from lm_eval.models.huggingface import HFLM

        class Watched(HFLM):  # type: ignore[misc]
            """HFLM that tells our display how far it is, and keeps its own bars off."""

            def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
                progress.stage(stage, len(requests))
                return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

            def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
                progress.stage(stage, len(requests))
                return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

            def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
                progress.stage(stage, len(requests))
                return super().generate_until(requests, disable_tqdm=disable_tqdm)

            def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
                progress.advance(len(inps))
                return super()._model_call(inps, *args, **kwargs)

            def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
                progress.advance(len(context))
                return super()._model_generate(context, *args, **kwargs)

        return Watched(batch_size=self.batch_size, **self.arguments(model, tokenizer, max_length, dtype))
