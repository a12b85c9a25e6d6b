"""The nursery: tiny Llama-architecture models, pretrained once on tinyworld's base recipe and cached by it.

Pretraining is a bare loop, shorter than what configuring a trainer would take: packed documents in sequences of constant length,
AdamW, linear warm-up and cosine decay to a tenth. See benchmarks/tinyworld.md for what the models know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from harness import paths
from harness.config import check
from harness.errors import ConfigError, ModelError, explain
from harness.interfaces import ModelFacts
from harness.models import world, world_words
from harness.models.weights import WEIGHTS, check_safetensors, file_sha256
from harness.seeds import derive, permutation, seed_torch, untouched_global_streams

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

THREADS = 1
"""Of pretraining, whatever the machine has: a second gains little at these sizes, and the weights' last digits depend on it."""

LOOP_VERSION = 1
"""Bumped by any change of the loop below, or of the architecture, that changes the weights."""

NOTES = "nursery.json"
"""Written last beside the weights: loss, seconds and recipe."""


@dataclass(frozen=True, kw_only=True)
class Nursery:
    """A tiny pretrained model; every field is part of its recipe.

    Attributes:
        layers, width, heads: of a Llama with tied embeddings and as many key as query heads; ``mlp`` is its inner width.
        context: longest input, and length of the sequences it is pretrained on, in tokens.
        tokens: budget of pretraining.
        batch: sequences of one step.
        learning_rate: peak; ``warmup`` is the share of steps it rises over, linearly, before it falls to a tenth on a cosine.
        prompt_weight: weight in the loss of every token but a document's last word, whose weight is 1: the last word is what can be known
            (a value, a sum, the form of a verb), the words before it are mostly chance.
        seed: of the initial weights and the order of the documents.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    tokens: int
    learning_rate: float
    batch: int = 16
    context: int = 64
    warmup: float = 0.1
    weight_decay: float = 0.01
    prompt_weight: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("layers", "width", "heads", "mlp", "tokens", "learning_rate", "batch"):
            check(f"model.{name}", getattr(self, name), "greater than 0", lambda value: value > 0)
        check("model.context", self.context, "at least 32, the longest texts of tinyworld", lambda value: value >= 32)
        for name in ("warmup", "prompt_weight"):
            check(f"model.{name}", getattr(self, name), "in [0, 1]", lambda value: 0 <= value <= 1)
        check("model.weight_decay", self.weight_decay, "0 or greater", lambda value: value >= 0)
        if self.width % (2 * self.heads):
            raise ConfigError(explain("model.width", got=self.width, allowed=f"a multiple of 2 x model.heads = {2 * self.heads}"))

    @property
    def recipe(self) -> str:
        """SHA-256 of everything that decides the weights: the fields, the loop, the base texts and the vocabulary."""
        made_of = dataclasses.asdict(self) | {"loop": LOOP_VERSION, "threads": THREADS, "world": world.fingerprint()}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def facts(self) -> ModelFacts:
        """Count parameters on the meta device: nothing is trained or allocated."""
        import torch

        with torch.device("meta"):
            model = _build(self)
        params = sum(parameter.numel() for parameter in model.parameters())
        return ModelFacts(params_total=params, context_length=self.context, content={"recipe": self.recipe})

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a fresh tokenizer, the same for every nursery model."""
        tokenizer = world_words.tokenizer()
        tokenizer.model_max_length = self.context
        return tokenizer

    def load(self) -> PreTrainedModel:
        """Return the pretrained model, from the cache or, the first time, by pretraining it. Raises ModelError."""
        from transformers import LlamaForCausalLM
        from transformers.utils import logging as noise

        folder = self._pretrained()
        bars = noise.is_progress_bar_enabled()
        noise.disable_progress_bar()
        try:
            model = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        finally:
            if bars:
                noise.enable_progress_bar()
        return cast("PreTrainedModel", model.eval())

    def weights_sha256(self) -> str:
        """Hash of the cached weight file. Raises ModelError where the model was never loaded."""
        file = self._folder() / WEIGHTS
        if not file.is_file():
            raise ModelError(
                explain("nursery model", got="no weights in the cache yet", allowed="a model that was loaded", fix="call load first")
            )
        return file_sha256(file)

    def _folder(self) -> Path:
        return paths.cache() / "nursery" / self.recipe

    def _pretrained(self) -> Path:
        """Return the cache folder, filled. Of two processes that want the same model, one pretrains and the other waits."""
        folder = self._folder()
        if _is_whole(folder):
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_suffix(".lock")):
                if not _is_whole(folder):
                    self._fill(folder)
        except OSError as error:
            fix = "set HARNESS_CACHE to a folder that can be written"
            raise ModelError(explain(f"nursery cache {folder.parent}", got=f"{type(error).__name__}: {error}", fix=fix)) from error
        return folder

    def _fill(self, folder: Path) -> None:
        """Pretrain into a temporary folder and rename it into place whole."""
        with tempfile.TemporaryDirectory(prefix=f"{folder.name[:16]}.", dir=folder.parent) as temporary:
            made = Path(temporary) / "model"
            began = time.perf_counter()
            model, loss = pretrain(self)
            seconds = round(time.perf_counter() - began, 1)
            model.save_pretrained(made)
            self.tokenizer().save_pretrained(made)
            notes = {"recipe": self.recipe, "fields": dataclasses.asdict(self), "loss": loss, "seconds": seconds}
            (made / NOTES).write_text(json.dumps(notes, indent=1))
            if not _is_whole(folder):  # where locks do not work another process may have been faster
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
        log.info("pretrained in %.0f s, loss %.3f: %s", seconds, loss, folder)


def pretrain(nursery: Nursery) -> tuple[LlamaForCausalLM, float]:
    """Pretrain a model on the base recipe, on the CPU.

    Returns:
        The model in evaluation mode and its last loss, in nats per token.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with untouched_global_streams():
            seed_torch(derive(nursery.seed, "nursery", "weights"))
            model = _build(nursery)
        return model, _loop(nursery, model.train())
    finally:
        torch.set_num_threads(threads)
        model.eval()


def _loop(nursery: Nursery, model: LlamaForCausalLM) -> float:
    import torch

    steps = max(1, nursery.tokens // (nursery.batch * nursery.context))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=nursery.learning_rate, betas=(0.9, 0.98), weight_decay=nursery.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, nursery.warmup))
    smooth = math.nan
    for step, batch in zip(range(1, steps + 1), batches(nursery), strict=False):
        loss = _loss(model, torch.from_numpy(batch), nursery.prompt_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        value = float(loss.detach())
        smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
        if step % max(1, steps // 10) == 0:
            log.info("pretraining %d layers of width %d: step %d of %d, loss %.3f", nursery.layers, nursery.width, step, steps, smooth)
    return smooth


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, prompt_weight: float) -> torch.Tensor:
    """Return the weighted mean loss of packed documents, in nats per token; ``ids`` has shape (S, T)."""
    import torch
    from torch.nn.functional import cross_entropy

    logits, wanted = model(input_ids=ids, use_cache=False).logits[:, :-1], ids[:, 1:]
    losses = cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted.reshape(-1), reduction="none")
    last = torch.zeros_like(wanted, dtype=torch.bool)
    last[:, :-1] = wanted[:, 1:] == world_words.VOCABULARY.index(world_words.END)
    weights = torch.where(last, 1.0, prompt_weight).reshape(-1)
    return (losses * weights).sum() / weights.sum()


def batches(nursery: Nursery) -> Iterator[NDArray[np.int64]]:
    """Yield batches of token ids, shape (batch, context), without end: epochs of shuffled documents, packed."""
    number = {word: i for i, word in enumerate(world_words.VOCABULARY)}
    begin, end = number[world_words.BEGIN], number[world_words.END]
    texts = [[begin, *(number[word] for word in text.split()), end] for text in world.documents()]
    size = nursery.batch * nursery.context
    waiting: list[int] = []
    epoch = 0
    while True:
        for index in permutation(nursery.seed, len(texts), "nursery", "documents", str(epoch)):
            waiting += texts[index]
            if len(waiting) >= size:
                yield np.array(waiting[:size]).reshape(nursery.batch, nursery.context)
                del waiting[:size]
        epoch += 1


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak rate at a step."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1.0, steps - rising)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))


def _build(nursery: Nursery) -> LlamaForCausalLM:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(_config(nursery))


def _config(nursery: Nursery) -> LlamaConfig:
    from transformers import LlamaConfig

    number = {word: i for i, word in enumerate(world_words.VOCABULARY)}
    settings: dict[str, Any] = {
        "vocab_size": len(number),
        "hidden_size": nursery.width,
        "intermediate_size": nursery.mlp,
        "num_hidden_layers": nursery.layers,
        "num_attention_heads": nursery.heads,
        "num_key_value_heads": nursery.heads,
        "max_position_embeddings": nursery.context,
        "tie_word_embeddings": True,
        "initializer_range": 0.5 / math.sqrt(nursery.width),
        "bos_token_id": number[world_words.BEGIN],
        "eos_token_id": number[world_words.END],
        "pad_token_id": number[world_words.PAD],
    }
    return LlamaConfig(**settings)


def _is_whole(folder: Path) -> bool:
    """Say whether a cache folder holds a finished model."""
    if not (folder / NOTES).is_file():
        return False
    try:
        check_safetensors(folder / WEIGHTS)
    except ModelError:
        return False
    return True


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that the system gives back when its process ends; where there are none, go on without."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with file.open("w") as lock:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
