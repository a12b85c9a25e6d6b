"""The nursery: tiny Llama-architecture models, pretrained on tinyworld and cached by recipe.

``harness.models.nursery.pretraining`` trains them; benchmarks/tinyworld.md describes what they
know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.config import paths
from harness.core import json_text
from harness.core.errors import ModelError, explain
from harness.core.files import locked, rename_folder, write_text
from harness.core.sources import ModelFacts
from harness.data.tinyworld import vocabulary, world
from harness.models.nursery.pretraining import LOOP_VERSION, THREADS, build, pretrain
from harness.models.nursery.recipe import Recipe
from harness.models.quiet import failures, quiet
from harness.models.weights import WEIGHTS, check_safetensors, file_sha256, sizes
from harness.models.whole import require_used

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

NOTES = "nursery.json"
"""Written last, next to the weights: loss, seconds, recipe, and the hashes of all other files."""


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
        """Whether it is in the cache, with every file as it was written."""
        return not self._damaged()

    @property
    def has_weights(self) -> bool:
        """Whether its weights are in the cache as they were written, whatever else is damaged."""
        return WEIGHTS not in self._damaged()

    @property
    def damage(self) -> str | None:
        """A line on damaged files in the cache and their repair; None without any."""
        folder = self._folder()
        if not folder.is_dir() or not (names := self._damaged()):
            return None
        repair = "written again, with the same weights" if self.has_weights else "pretrained again"
        return f"nursery model {folder}: damaged or missing: {', '.join(names)}; {repair}"

    def facts(self) -> ModelFacts:
        """Return sizes counted on the meta device, without training or allocating anything.

        Its content lacks the weights until it is pretrained: two machines that follow one recipe
        get different weights.
        """
        recipe = {"recipe": self.recipe}
        weights = {WEIGHTS: self._notes()["files"][WEIGHTS]} if self.has_weights else {}
        notes = (self.damage,) if self.damage else ()
        return ModelFacts(context_length=self.context, content=recipe | weights, notes=notes, **sizes(recipe, self.skeleton))

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
        return _loaded(self._pretrained())

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
        if not self._damaged():
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.with_suffix(".lock")):
                if self._damaged():
                    self._fill(folder)
        except OSError as error:
            fix = "set HARNESS_CACHE to a folder that can be written"
            raise ModelError(explain(f"nursery cache {folder.parent}", got=f"{type(error).__name__}: {error}", fix=fix)) from error
        return folder

    def _fill(self, folder: Path) -> None:
        """Write the model to a temporary folder and rename it into place whole.

        It is pretrained, unless a damaged folder has its weights: others would be another model.
        """
        if damage := self.damage:
            log.warning(damage)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name[:16]}.", dir=folder.parent) as temporary:
            made = Path(temporary) / "model"
            notes = self._saved_again(folder, made) if self.has_weights else self._pretrain(made)
            self.tokenizer().save_pretrained(made)
            notes |= {"recipe": self.recipe, "fields": dataclasses.asdict(self), "files": _hashes(made)}
            (made / NOTES).write_text(json.dumps(notes, indent=1))
            # Where locks do not work, another process may have finished first.
            rename_folder(made, folder, over=bool(self._damaged()))
        log.info("pretrained in %.0f s, loss %.3f: %s", notes["seconds"], notes["loss"], folder)

    def _pretrain(self, made: Path) -> dict[str, Any]:
        """Save the pretrained model to a folder; return notes on its pretraining."""
        began = time.perf_counter()
        model, loss = self._made()
        seconds = round(time.perf_counter() - began, 1)
        model.save_pretrained(made)
        return {"loss": loss, "seconds": seconds}

    def _saved_again(self, folder: Path, made: Path) -> dict[str, Any]:
        """Save the weights of a folder to another, with what else a model's folder has."""
        from safetensors.torch import load_file

        self.skeleton().save_pretrained(made, state_dict=load_file(folder / WEIGHTS))
        return {name: value for name, value in self._notes().items() if name in {"loss", "seconds"}}

    def _damaged(self) -> list[str]:
        """Return the names of files that are not as they were written.

        Without notes that can be read, they are NOTES and WEIGHTS.
        """
        notes = self._notes()
        if not notes:
            return [NOTES, WEIGHTS]
        written, found = notes["files"], _hashes(self._folder())
        return sorted(name for name in {*written, *found} if written.get(name) != found.get(name))

    def _notes(self) -> dict[str, Any]:
        """Return the notes on the model in the cache; empty where they are missing or damaged."""
        try:
            notes = json_text.loads((self._folder() / NOTES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if isinstance(notes, dict) and "files" not in notes:
            notes = self._adopted(notes)
        return notes if isinstance(notes, dict) and isinstance(notes.get("files"), dict) and WEIGHTS in notes["files"] else {}

    def _adopted(self, notes: dict[str, Any]) -> dict[str, Any]:
        """Return notes with the hashes that earlier versions did not write.

        They are written, too, where the cache can be. Empty for damaged files.
        """
        folder = self._folder()
        if notes.get("recipe") != self.recipe:
            return {}
        try:
            model = _loaded(folder)
        except ModelError:
            return {}
        except failures():
            return {}
        if not self._has_shapes(model):
            return {}
        notes |= {"files": _hashes(folder)}
        with contextlib.suppress(OSError):
            write_text(folder / NOTES, json.dumps(notes, indent=1))
        return notes

    def _has_shapes(self, model: PreTrainedModel) -> bool:
        """Return whether a model has the weights of the recipe's, by name and shape."""
        wanted, found = ({name: value.shape for name, value in one.named_parameters()} for one in (self.skeleton(), model))
        return wanted == found


def _loaded(folder: Path) -> PreTrainedModel:
    """Return the model of a folder, in evaluation mode.

    Raises ModelError unless its files hold every weight, and no other.
    """
    from transformers import LlamaForCausalLM

    shapes = {name: tuple(entry["shape"]) for name, entry in check_safetensors(folder / WEIGHTS).items()}
    with quiet():
        found: Any = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True, output_loading_info=True)
    model, report = found
    require_used(str(folder), report, shapes, {})
    return cast("PreTrainedModel", model.eval())


def _hashes(folder: Path) -> Mapping[str, str]:
    """Return name → SHA-256 of the files of a model, but its notes.

    They are read each time: the hashes of ``file_sha256`` are cached, too.
    """
    files = sorted(path for path in folder.glob("[!.]*") if path.is_file() and path.name != NOTES)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
