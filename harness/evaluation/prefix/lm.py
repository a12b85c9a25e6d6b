"""The class that lm-eval sees under the name ``prefix``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from harness.core import memory
from harness.core.errors import ModelError, explain
from harness.data import specials
from harness.evaluation.alone import RunsAlone
from harness.evaluation.prefix import check
from harness.evaluation.prefix.engine import Engine
from harness.evaluation.prefix.generation import greedy, is_greedy

Request = tuple[Any, list[int], list[int]]
"""The request's key in lm-eval's cache (or None), its context and its continuation, in tokens."""


@dataclass(frozen=True)
class _Stops:
    """Stop sequences, each with the number of last tokens that are decoded for it."""

    tokenizer: Any
    spans: Sequence[tuple[str, int]]

    def within(self, tokens: Sequence[int], new: int) -> bool:
        """Return whether an answer may end at one of its last ``new`` tokens."""
        if not self.spans:
            return False
        decoded = self.tokenizer.decode(tokens[-(max(size for _, size in self.spans) + new - 1) :])
        return any(text in decoded for text, _ in self.spans)

    def at_end(self, tokens: Sequence[int]) -> bool:
        """Return whether an answer ends with these tokens."""
        return any(text in self.tokenizer.decode(tokens[-size:]) for text, size in self.spans)


@register_model("prefix")
class PrefixLM(RunsAlone, HFLM):  # type: ignore[misc]
    """lm-eval's HFLM, with shared parts of requests computed once.

    Loading, tokenisation, BOS, chat templates, truncation and return values are HFLM's, but a
    tokenizer that appends EOS appends none here. A model whose attention cannot be shared runs on
    HFLM's own path (the plain path), with one warning; so do requests that sample or search.

    Args:
        pretrained: name, folder or loaded model.
        token_budget: tokens of a forward pass; None finds it from the device's memory. It is halved
            where memory runs out.
        arguments: HFLM's.

    Attributes:
        plain_requests: number of requests that ran on the plain path.
        cut_answers: prompts, in tokens, whose answers a length limit cut.

    Raises:
        ModelError: for an encoder-decoder model.
    """

    def __init__(self, pretrained: Any, *, token_budget: int | None = None, **arguments: Any) -> None:
        if isinstance(pretrained, str) and not torch.cuda.is_available():
            arguments.setdefault("device", "cpu")  # HFLM's own default fails where there is no GPU
        super().__init__(pretrained, **arguments)
        self.tokenizer: Any = specials.without_appended(cast(Any, self).tokenizer)
        mixed = cast("torch.dtype | None", self.mixed_precision_dtype)
        self.engine = Engine(self.model, token_budget, autocast=mixed, softmax_dtype=self.softmax_dtype)
        self.plain_requests = 0
        self.cut_answers: set[tuple[int, ...]] = set()

    def _get_backend(self, config: Any, backend: Any = "default", trust_remote_code: bool | None = False) -> None:
        super()._get_backend(config=config, backend=backend, trust_remote_code=trust_remote_code)
        if self.backend != "causal" or getattr(config, "is_encoder_decoder", False):
            got = f"{getattr(config, 'model_type', 'a model')}, an encoder-decoder"
            raise ModelError(explain("model prefix", got=got, allowed="decoder-only models", fix="evaluate it with lm-eval's own model hf"))

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Score continuations, as HFLM's method of the same name, which is the plain path."""
        self.engine.begin()
        if not requests:
            return []
        for _, context, continuation in requests:
            if not context or not continuation or len(continuation) > self.max_length:
                got = f"{len(context)} tokens of context, {len(continuation)} of continuation"
                allowed = f"at least 1 of each, at most {self.max_length} of continuation"
                raise ValueError(explain("request", got=got, allowed=allowed))
        inputs = [(context + continuation)[-(self.max_length + 1) :][:-1] for _, context, continuation in requests]
        longest = max(map(len, inputs))
        if check.refusal(self.engine, longest) is not None:
            self.plain_requests += len(requests)
            plain = super()._loglikelihood_tokens
            return cast(list[tuple[float, bool]], self._on_plain_path(longest, lambda: plain(list(requests), disable_tqdm)))
        with tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests") as bar:
            answers = self.engine.score(inputs, [continuation for _, _, continuation in requests], lambda done: self.advance(bar, done))
        for (name, _, _), answer in zip(requests, answers, strict=True):
            if name is not None:
                self.cache_hook.add_partial("loglikelihood", name, answer)
        return answers

    def advance(self, bar: tqdm[Any], done: int) -> None:
        """Report further requests as done."""
        bar.update(done)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Score whole texts in windows, all in one call, so that they fill batches."""
        with self._batch_size(len(requests) * 10**6 + 1):
            return cast("list[float]", super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm))

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Continue prompts, as HFLM's method of the same name, which is the plain path."""
        self.engine.begin()
        answers: list[str | None] = [None] * len(requests)
        plain: list[int] = []
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        with tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running generate_until requests") as bar:
            for group in groups.values():
                found = self._greedy([requests[i].args for i in group], lambda done: self.advance(bar, done))
                plain += group if found is None else []
                for i, text in zip(group, found or (), strict=False):
                    answers[i] = text
        if plain:
            self.plain_requests += len(plain)
            longest = max(len(self.tok_encode(requests[i].args[0])) for i in plain) + self.max_gen_toks
            generate = super().generate_until
            texts = self._on_plain_path(longest, lambda: generate([requests[i] for i in plain], disable_tqdm))
            for i, text in zip(plain, texts, strict=True):
                answers[i] = text
        return cast("list[str]", answers)

    def _greedy(self, requests: Sequence[tuple[str, dict[str, Any]]], advance: Any) -> list[str] | None:
        """Continue prompts of equal settings.

        Returns None if the settings or the model need the plain path.
        """
        settings: dict[str, Any] = dict(normalize_gen_kwargs(requests[0][1], self.max_gen_toks))
        until = handle_stop_sequences(settings.pop("until", None), eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False))
        limit = settings.pop("max_gen_toks")
        room = self.max_length - limit
        if room <= 0:
            got = f"max_gen_toks {limit} with a context of {self.max_length} tokens"
            raise ValueError(explain("generation", got=got, allowed=f"fewer than {self.max_length}"))
        if not is_greedy(settings, self.model.generation_config):
            return None
        prompts = [self._prompt(text, room) for text, _ in requests]
        if not all(prompts):
            raise ValueError(explain("request", got="a prompt of no tokens", allowed="at least one", fix="add_bos_token=True"))
        limit = self.model.generation_config.max_new_tokens or limit  # transformers prefers it to the max_length that HFLM sets
        if check.refusal(self.engine, max(map(len, prompts)) + limit) is not None:
            return None
        ends = self.model.generation_config.eos_token_id
        ends = frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends)
        stops = self._stops(until)
        tokens = greedy(self.engine, prompts, limit, ends, stops, advance)
        for prompt, found in zip(prompts, tokens, strict=True):
            if len(found) == limit and found[-1] not in ends and not stops.at_end(found):
                self.cut_answers.add(tuple(prompt))
        texts = [self._text(found, until) for found in tokens]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request, text)
        return texts

    def _prompt(self, text: str, room: int) -> list[int]:
        """Encode a prompt, cut on the left to ``room`` tokens."""
        special = {}
        if has_bos_prefix(text, getattr(self.tokenizer, "bos_token", None)):
            special = {"add_special_tokens": False}
        elif self.add_bos_token is not None:
            special = {"add_special_tokens": self.add_bos_token}
        return cast("list[int]", self.tokenizer(text, truncation=self.truncation, **special)["input_ids"][-room:])

    def _stops(self, until: Sequence[str]) -> _Stops:
        """Return HFLM's stopping criterion: a stop sequence in the last tokens.

        It decodes two tokens more than the stop sequence has.
        """
        return _Stops(self.tokenizer, [(text, len(self.tokenizer.encode(text, add_special_tokens=False)) + 2) for text in until])

    def _text(self, tokens: list[int], until: list[str]) -> str:
        """Return an answer up to its first stop sequence, without a reasoning model's thoughts."""
        think = self.think_end_token
        if isinstance(think, int) and think in tokens:
            tokens = tokens[len(tokens) - tokens[::-1].index(think) :]
        text = self.tok_decode(tokens)
        text = text.lstrip() if isinstance(think, int) else text
        return cast(str, postprocess_generated_text(text, stop=until, think_end_token=think if isinstance(think, str) else None))

    def _on_plain_path(self, longest: int, call: Any) -> Any:
        """Call HFLM with batches of the token budget, halving it while memory runs out."""
        while True:
            rows = max(1, self.engine.tokens // longest)
            try:
                with self._batch_size(rows):
                    return call()
            except RuntimeError as error:
                if not memory.out_of_memory(error) or rows == 1:
                    raise
            self.engine.halve()

    @contextmanager
    def _batch_size(self, rows: int) -> Iterator[None]:
        before = self.batch_size
        self.batch_size_per_gpu: Any = rows
        try:
            yield
        finally:
            self.batch_size_per_gpu = before
