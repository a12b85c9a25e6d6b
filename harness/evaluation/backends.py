"""Evaluation backends: settings, and the lm-eval model class made from a live model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harness.config.strict import LATER, check
from harness.core.progress import Progress
from harness.core.rows import PromptFormat
from harness.core.sources import Dtype, EvaluationBackend, Items, Where
from harness.data import specials
from harness.evaluation.alone import RunsAlone

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Evaluation(EvaluationBackend):
    """Settings that all backends share.

    Attributes:
        items: items of each suite: those that are reported, or those on which choices may be made.
        limit: most items of a task, chosen as a suite's ``report`` chooses them; null for no limit.
        prompt_format: ``chat`` puts every prompt through the tokenizer's chat template, before and
            after training alike.
        dtype: of the forward pass; the softmax is always float32.
        add_bos: whether lm-eval's prompts begin with the BOS token; null leaves it to the
            tokenizer, as likelihood suites always do.
        likelihood_tokens: padded tokens of one forward pass of a suite that scores rows; 2048 keep
            the logits at about 0.4 GB for a vocabulary of 50k in float32.
        where: ``inline``: points are measured in the process that trains, which waits.
            ``separate``: a stop saves a checkpoint, unrounded, training continues, and any worker
            measures it, then deletes it unless ``save_weights`` keeps it. ``auto``: inline below
            100 million parameters. Early stop and choices of coefficients read scores while
            training runs, so they are always inline.
    """

    items: Items = "report"
    limit: int | None = field(default=None, metadata=LATER)
    prompt_format: PromptFormat = "plain"
    dtype: Dtype = "auto"
    add_bos: bool | None = None
    likelihood_tokens: int = 2048
    where: Where = "auto"

    @property
    def unidentified(self) -> frozenset[str]:
        return frozenset({"likelihood_tokens", "where", "limit"})  # the items themselves are identified

    def __post_init__(self) -> None:
        """Check ranges."""
        check("evaluation.limit", self.limit, "null or greater than 0", lambda value: value is None or value > 0)
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
            "tokenizer": specials.without_appended(tokenizer),
            "max_length": max_length,
            "softmax_dtype": "float32",
            "mixed_precision_dtype": "bfloat16" if dtype == "bfloat16" else None,
            "add_bos_token": self.add_bos,
        }


def another(count: int) -> int:
    """Return another number of rows, tokens or threads: half as many, but two for one."""
    return count // 2 or 2


class NotesCutAnswers:
    """Mixin of an HFLM that notes the prompts whose answers a length limit cut.

    It cannot be known later: lm-eval cuts the text at a stop sequence, and encoding a text again
    need not give the tokens that were generated.

    Attributes:
        cut_answers: token ids of those prompts, as the model read them, without padding.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cut_answers: set[tuple[int, ...]] = set()

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **generation_kwargs: Any) -> Any:
        lm: Any = self
        output = super()._model_generate(context, max_length=max_length, stop=stop, **generation_kwargs)  # type: ignore[misc]
        last = {lm.eot_token_id, lm.tokenizer.pad_token_id}  # an answer shorter than others of its batch is padded
        for prompt, mask, whole in zip(context.tolist(), generation_kwargs["attention_mask"].tolist(), output.tolist(), strict=True):
            answer = whole[len(prompt) :]
            if len(whole) == max_length and answer[-1] not in last and not any(text in lm.tok_decode(answer) for text in stop):
                self.cut_answers.add(tuple(token for token, kept in zip(prompt, mask, strict=True) if kept))
        return output


class Shown:
    """Mixin of an HFLM: a display stage per kind of request, without lm-eval's bars."""

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
        batch_size: rows of one forward pass; fixed, since it can change the last digits of a score.
    """

    batch_size: int = 16

    @property
    def unidentified(self) -> frozenset[str]:
        return super().unidentified | {"batch_size"}

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

        class Watched(Shown, NotesCutAnswers, RunsAlone, HFLM):  # type: ignore[misc]
            """HFLM that reports its progress to our display."""

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
    """``prefix``, which computes shared parts of requests once: HFLM's scores, but faster.

    Attributes:
        token_budget: tokens of one forward pass; null finds it from the machine's memory and
            caches. It can change the last digits of a score.
        parts: divisor of the budget, and least number of batches. Volume 0 is measured a second
            time with twice as many, to see the effect of rounding.
    """

    token_budget: int | None = None
    parts: int = 1

    @property
    def unidentified(self) -> frozenset[str]:
        return super().unidentified | {"token_budget", "parts"}

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check("evaluation.token_budget", self.token_budget, "null or greater than 0", lambda value: value is None or value > 0)
        check("evaluation.parts", self.parts, "greater than 0", lambda value: value > 0)

    def otherwise(self) -> Self:
        # Half the budget, and at least two batches: where all items fit into one, another budget
        # alone changes nothing.
        return dataclasses.replace(super().otherwise(), parts=2 * self.parts)

    def model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str, progress: Progress, stage: str
    ) -> HFLM:
        from harness.evaluation.prefix.lm import PrefixLM

        class Watched(Shown, NotesCutAnswers, PrefixLM):
            """``prefix`` that reports its progress to our display."""

            def advance(self, bar: Any, done: int) -> None:
                progress.advance(done)

        Watched.progress, Watched.stage = progress, stage
        lm = Watched(token_budget=self.token_budget, **self.arguments(model, tokenizer, max_length, dtype))
        lm.engine.divide(self.parts)
        return lm

    def facts(self, lm: HFLM) -> dict[str, Any]:
        """Return the budget in force, its halvings, and the plain requests with their reason."""
        engine = lm.engine
        return {
            "token_budget": engine.tokens,
            "halvings": engine.halvings,
            "plain_requests": lm.plain_requests,
            "not_shared": engine.verdict.refusal,
        }
