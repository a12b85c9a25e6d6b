"""An lm-eval model class whose scores do not depend on which requests share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from harness.models import rotary


class RunsAlone:
    """Mixin of an HFLM: a request is run alone if the rest of its batch could change its outputs.

    Those are the requests longer than ``rotary.limit``; other models are left as they are.
    """

    @cached_property
    def alone_above(self) -> int | None:
        """Longest batch in tokens whose rows do not depend on each other; None for any length."""
        lm: Any = self
        return rotary.limit(lm.model.config)

    def _loglikelihood_tokens(self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        score = super()._loglikelihood_tokens  # type: ignore[misc]
        lengths = [min(len(context) + len(continuation) - 1, self._context()) for _, context, continuation in requests]
        return self._apart(requests, lengths, lambda part: score(part, disable_tqdm, override_bs))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Continue prompts."""
        write = super().generate_until  # type: ignore[misc]
        lengths = [] if self.alone_above is None else [self._whole(*request.args) for request in requests]
        return self._apart(requests, lengths, lambda part: write(part, disable_tqdm=disable_tqdm))

    def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
        rotary.fresh(self.model)  # type: ignore[attr-defined]
        return super()._model_call(inps, *args, **kwargs)  # type: ignore[misc]

    def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        rotary.fresh(self.model)  # type: ignore[attr-defined]
        return super()._model_generate(context, *args, **kwargs)  # type: ignore[misc]

    def _context(self) -> int:
        lm: Any = self
        return int(lm.max_length)

    def _whole(self, text: str, settings: dict[str, Any]) -> int:
        """Return the tokens of a prompt and its longest answer."""
        from lm_eval.models.utils import normalize_gen_kwargs

        lm: Any = self
        limit = int(normalize_gen_kwargs(settings, lm.max_gen_toks)["max_gen_toks"])
        prompt = min(len(lm.tok_encode(text)) + 1, self._context() - limit)  # 1: BOS, which a batch may get
        return prompt + max(limit, lm.model.generation_config.max_new_tokens or 0)

    def _apart(self, requests: Sequence[Any], lengths: Sequence[int], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Answer requests of the given lengths, the long ones one by one."""
        above = self.alone_above
        long = [] if above is None else [i for i, length in enumerate(lengths) if length > above]
        if not long:
            return answer(list(requests))
        answers: list[Any] = [None] * len(requests)
        short = sorted(set(range(len(requests))) - set(long))
        for chosen, alone in ((short, False), (long, True)):
            with self._one_by_one(alone):
                found = answer([requests[i] for i in chosen]) if chosen else []
            for i, one in zip(chosen, found, strict=True):
                answers[i] = one
        return answers

    @contextmanager
    def _one_by_one(self, alone: bool) -> Iterator[None]:
        lm: Any = self
        before = lm.batch_size
        lm.batch_size_per_gpu = 1 if alone else before
        try:
            yield
        finally:
            lm.batch_size_per_gpu = before
