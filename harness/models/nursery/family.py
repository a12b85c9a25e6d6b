"""The nursery: tiny Llama-architecture models, pretrained once on tinyworld's base recipe and cached by it.

See ``harness.models.nursery.pretraining`` for how they are made, and benchmarks/tinyworld.md for
what they know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness.config import paths
from harness.config.strict import check
from harness.core.errors import ConfigError, ModelError, explain
from harness.core.files import locked
from harness.core.sources import ModelFacts
from harness.data.tinyworld import vocabulary, world
from harness.models.nursery.pretraining import LOOP_VERSION, THREADS, build, pretrain
from harness.models.weights import WEIGHTS, check_safetensors, file_sha256, sizes

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

NOTES = "nursery.json"
"""Written last beside the weights: loss, seconds and recipe."""


@dataclass(frozen=True, kw_only=True)
class Nursery:
    """A tiny pretrained model; every field is part of its recipe.

    Attributes:
        layers, width, heads: of a Llama with tied embeddings and as many key as query heads;
            ``mlp`` is its inner width.
        context: longest input, and length of the sequences it is pretrained on, in tokens.
        tokens: budget of pretraining.
        batch: sequences of one step.
        learning_rate: peak; ``warmup`` is the share of steps it rises over, linearly, before it
            falls to a tenth on a cosine.
        prompt_weight: weight in the loss of every token but a document's last word, whose weight is
            1: the last word is what can be known (a value, a sum, the form of a verb), the words
            before it are mostly chance.
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
        content = {"recipe": self.recipe}
        return ModelFacts(context_length=self.context, content=content, **sizes(content, self._without_weights))

    def longest_input(self) -> int:
        """Return its context length in tokens."""
        return self.context

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a fresh tokenizer, the same for every nursery model."""
        tokenizer = vocabulary.tokenizer()
        tokenizer.model_max_length = self.context
        return tokenizer

    def load(self) -> PreTrainedModel:
        """Return the pretrained model, from the cache or, the first time, by pretraining it.

        Raises ModelError.
        """
        from transformers import LlamaForCausalLM

        with _without_bars():
            model = LlamaForCausalLM.from_pretrained(self._pretrained(), use_safetensors=True, local_files_only=True)
        return cast("PreTrainedModel", model.eval())

    def weights_sha256(self) -> str:
        """Hash of the cached weight file. Raises ModelError where the model was never loaded."""
        file = self._folder() / WEIGHTS
        if not file.is_file():
            raise ModelError(
                explain("nursery model", got="no weights in the cache yet", allowed="a model that was loaded", fix="call load first")
            )
        return file_sha256(file)

    def _without_weights(self) -> PreTrainedModel:
        import torch

        with torch.device("meta"):
            return build(self)

    def _made(self) -> tuple[LlamaForCausalLM, float]:
        """Make the model; return it and its last loss."""
        return pretrain(self)

    def _folder(self) -> Path:
        return paths.cache() / "nursery" / self.recipe

    def _pretrained(self) -> Path:
        """Return the cache folder, filled.

        Of two processes that want the same model, one pretrains and the other waits.
        """
        folder = self._folder()
        if _is_whole(folder):
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.with_suffix(".lock")):
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
            model, loss = self._made()
            seconds = round(time.perf_counter() - began, 1)
            model.save_pretrained(made)
            self.tokenizer().save_pretrained(made)
            notes = {"recipe": self.recipe, "fields": dataclasses.asdict(self), "loss": loss, "seconds": seconds}
            (made / NOTES).write_text(json.dumps(notes, indent=1))
            shutil.rmtree(folder, ignore_errors=True)  # a half-written one
            try:
                made.rename(folder)
            except OSError:
                if not _is_whole(folder):  # where locks do not work, another process may have been faster
                    raise
        log.info("pretrained in %.0f s, loss %.3f: %s", seconds, loss, folder)


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
def _without_bars() -> Iterator[None]:
    """Keep the library's progress bars out of our own progress, for a while."""
    from transformers.utils import logging as noise

    bars = noise.is_progress_bar_enabled()
    noise.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            noise.enable_progress_bar()
