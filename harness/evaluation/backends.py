"""How suites are evaluated: the settings of each backend, and the lm-eval model class that each makes of a live model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harness.config.strict import check
from harness.core.progress import Progress
from harness.core.rows import PromptFormat
from harness.core.sources import Dtype, EvaluationBackend, Items

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Evaluation(EvaluationBackend):
    """What every backend has in common.

    Attributes:
        items: which items of each suite: those that are reported, or those on which things may be
            chosen.
        prompt_format: ``chat`` puts every prompt through the tokenizer's chat template, before and
            after alike.
        dtype: of the forward pass; the softmax is float32 always.
        add_bos: whether lm-eval's prompts begin with the BOS token; null leaves it to the
            tokenizer, as likelihood suites always do.
        likelihood_tokens: padded tokens of one forward pass of a suite that scores rows; 2048 bound
            the logits to about 0.4 GB at a vocabulary of 50k in float32.
    """

    items: Items = "report"
    prompt_format: PromptFormat = "plain"
    dtype: Dtype = "auto"
    add_bos: bool | None = None
    likelihood_tokens: int = 2048

    def __post_init__(self) -> None:
        """Check ranges."""
        check("evaluation.likelihood_tokens", self.likelihood_tokens, "greater than 0", lambda value: value > 0)

    def for_items(self, items: Items) -> Self:
        return dataclasses.replace(self, items=items)

    def otherwise(self) -> Self:
        return dataclasses.replace(self, likelihood_tokens=another(self.likelihood_tokens))

    def facts(self, lm: HFLM) -> dict[str, Any]:
        return {}

    def arguments(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str) -> dict[str, Any]:
        return {
            "pretrained": model,
            "tokenizer": tokenizer,
            "max_length": max_length,
            "softmax_dtype": "float32",
            "mixed_precision_dtype": "bfloat16" if dtype == "bfloat16" else None,
            "add_bos_token": self.add_bos,
        }


def another(count: int) -> int:
    """Return another number of rows, tokens or threads: half as many, and two in place of one."""
    return count // 2 or 2


class NotesCutAnswers:
    """Beside an HFLM: notes which prompts' answers ended at their length limit alone.

    Afterwards one cannot tell: lm-eval cuts the text at its stop, and text encoded again need not
    give the tokens it was made of.

    Attributes:
        cut_answers: token ids of those prompts, as the model saw them, without padding.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cut_answers: set[tuple[int, ...]] = set()

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **generation_kwargs: Any) -> Any:
        lm: Any = self
        output = super()._model_generate(context, max_length=max_length, stop=stop, **generation_kwargs)  # type: ignore[misc]
        last = {lm.eot_token_id, lm.tokenizer.pad_token_id}  # an answer that ended before the others of its batch is padded
        for prompt, mask, whole in zip(context.tolist(), generation_kwargs["attention_mask"].tolist(), output.tolist(), strict=True):
            answer = whole[len(prompt) :]
            if len(whole) == max_length and answer[-1] not in last and not any(text in lm.tok_decode(answer) for text in stop):
                self.cut_answers.add(tuple(token for token, kept in zip(prompt, mask, strict=True) if kept))
        return output


class Shown:
    """Beside an HFLM: begins a stage of our display for each kind of request, and keeps lm-eval's own bars off."""

    progress: ClassVar[Progress]
    stage: ClassVar[str]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Score continuations."""
        self.progress.stage(self.stage, len(requests))
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[misc]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Score whole texts."""
        self.progress.stage(self.stage, len(requests))
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)  # type: ignore[misc]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Continue prompts."""
        self.progress.stage(self.stage, len(requests))
        return super().generate_until(requests, disable_tqdm=disable_tqdm)  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class HfEvaluation(Evaluation):
    """lm-eval's HFLM on the live model: the reference.

    Attributes:
        batch_size: rows of one forward pass, fixed, since it can move the last digits of a score.
    """

    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check("evaluation.batch_size", self.batch_size, "greater than 0", lambda value: value > 0)

    def otherwise(self) -> Self:
        return dataclasses.replace(super().otherwise(), batch_size=another(self.batch_size))

    def model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str, progress: Progress, stage: str
    ) -> HFLM:
        from lm_eval.models.huggingface import HFLM

        class Watched(Shown, NotesCutAnswers, HFLM):  # type: ignore[misc]
            """HFLM that tells our display how far it is, and keeps its own bars off."""

            def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
                progress.advance(len(inps))
                return super()._model_call(inps, *args, **kwargs)

            def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
                progress.advance(len(context))
                return super()._model_generate(context, *args, **kwargs)

        Watched.progress, Watched.stage = progress, stage
        return Watched(batch_size=self.batch_size, **self.arguments(model, tokenizer, max_length, dtype))


@dataclass(frozen=True, kw_only=True)
class PrefixEvaluation(Evaluation):
    """``prefix``, which computes once what requests share: the scores of HFLM, several times faster.

    Attributes:
        token_budget: tokens of one forward pass; null finds it from the memory of the machine. It
            can move the last digits of a score.
        parts: into how many the budget is divided; volume 0 is measured a second time in more, to
            see what that moves.
    """

    token_budget: int | None = None
    parts: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check("evaluation.token_budget", self.token_budget, "null or greater than 0", lambda value: value is None or value > 0)
        check("evaluation.parts", self.parts, "greater than 0", lambda value: value > 0)

    def otherwise(self) -> Self:
        # So few tokens that a task of ten short items is several batches: within one batch, another
        # budget would change nothing.
        return dataclasses.replace(super().otherwise(), parts=16 * self.parts)

    def model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str, progress: Progress, stage: str
    ) -> HFLM:
        from harness.evaluation.prefix.lm import PrefixLM

        class Watched(Shown, NotesCutAnswers, PrefixLM):
            """``prefix`` that tells our display how far it is, and keeps its own bars off."""

            def advance(self, bar: Any, done: int) -> None:
                progress.advance(done)

        Watched.progress, Watched.stage = progress, stage
        lm = Watched(token_budget=self.token_budget, **self.arguments(model, tokenizer, max_length, dtype))
        lm.engine.divide(self.parts)
        return lm

    def facts(self, lm: HFLM) -> dict[str, Any]:
        """Return the budget in force, how often memory ran out, and what ran on the plain path and why."""
        engine = lm.engine
        return {
            "token_budget": engine.tokens,
            "halvings": engine.halvings,
            "plain_requests": lm.plain_requests,
            "not_shared": engine.verdict.refusal,
        }
