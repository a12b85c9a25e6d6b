"""The nursery: tiny Llama-architecture models, pretrained on tinyworld and cached by recipe.

``harness.models.nursery.pretraining`` trains them; benchmarks/tinyworld.md describes what they
know.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness.config import paths
from harness.core.errors import ModelError, explain
from harness.core.files import locked
from harness.core.sources import ModelFacts
from harness.data.tinyworld import vocabulary, world
from harness.models.nursery.pretraining import LOOP_VERSION, THREADS, build, pretrain
from harness.models.nursery.recipe import Recipe
from harness.models.quiet import quiet
from harness.models.weights import WEIGHTS, check_safetensors, file_sha256, sizes

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

NOTES = "nursery.json"
"""Written last, next to the weights: loss, seconds and recipe."""


@dataclass(frozen=True, kw_only=True)
class Nursery(Recipe):
    """A tiny model, pretrained by its recipe when it is first loaded, and cached."""

    @property
    def recipe(self) -> str:
        """SHA-256 of everything that decides the weights.

        That is the fields, the loop, the base texts and the vocabulary.
        """
        made_of = dataclasses.asdict(self) | {"loop": LOOP_VERSION, "threads": THREADS, "world": world.fingerprint()}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    @property
    def is_made(self) -> bool:
        """Whether its weights are in the cache."""
        return _is_whole(self._folder())

    def facts(self) -> ModelFacts:
        """Return sizes counted on the meta device, without training or allocating anything.

        Its content lacks the weights until it is pretrained: two machines that follow one recipe
        get different weights.
        """
        recipe, folder = {"recipe": self.recipe}, self._folder()
        weights = {WEIGHTS: file_sha256(folder / WEIGHTS)} if self.is_made else {}
        return ModelFacts(context_length=self.context, content=recipe | weights, **sizes(recipe, self.skeleton))

    def longest_input(self) -> int:
        """Return its context length in tokens."""
        return self.context

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a fresh tokenizer, the same for every nursery model."""
        tokenizer = vocabulary.tokenizer()
        tokenizer.model_max_length = self.context
        return tokenizer

    def load(self) -> PreTrainedModel:
        """Return the pretrained model, from the cache; the first call pretrains it.

        Raises ModelError.
        """
        from transformers import LlamaForCausalLM

        with quiet():
            model = LlamaForCausalLM.from_pretrained(self._pretrained(), use_safetensors=True, local_files_only=True)
        return cast("PreTrainedModel", model.eval())

    def weights_sha256(self) -> str:
        """Return the hash of the cached weight file.

        Raises ModelError for a model that was never loaded.
        """
        file = self._folder() / WEIGHTS
        if not file.is_file():
            raise ModelError(
                explain("nursery model", got="no weights in the cache yet", allowed="a model that was loaded", fix="call load first")
            )
        return file_sha256(file)

    def skeleton(self) -> PreTrainedModel:
        """Return the model on the meta device, where nothing is allocated: to count parameters."""
        import torch

        with torch.device("meta"):
            return build(self)

    def _made(self) -> tuple[LlamaForCausalLM, float]:
        """Train the model; return it and its last loss."""
        return pretrain(self)

    def _folder(self) -> Path:
        return paths.cache() / "nursery" / self.recipe

    def _pretrained(self) -> Path:
        """Return the cache folder of the pretrained model.

        Of two processes that need the same model, one pretrains it and the other waits.
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
            shutil.rmtree(folder, ignore_errors=True)  # it may be there, half-written
            try:
                made.rename(folder)
            except OSError:
                if not _is_whole(folder):  # on a file system without locks, another process may have finished first
                    raise
        log.info("pretrained in %.0f s, loss %.3f: %s", seconds, loss, folder)


def _is_whole(folder: Path) -> bool:
    """Return whether a cache folder holds a finished model."""
    if not (folder / NOTES).is_file():
        return False
    try:
        check_safetensors(folder / WEIGHTS)
    except ModelError:
        return False
    return True
