"""The nursery: tiny Llama-architecture models, pretrained on tinyworld.

Some ship with the package, so that every machine starts from the same weights. Others, such as
the same sizes with another seed, are pretrained when they are first loaded, and cached by recipe.
Weights are rounded to bfloat16, and loaded in float32.

``harness.models.nursery.pretraining`` trains them; benchmarks/tinyworld.md describes what they
know.
"""

from __future__ import annotations

import dataclasses
import functools
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
from harness.core.files import locked, rename_folder
from harness.core.footprint import Dimensions
from harness.core.sources import ModelFacts
from harness.data.tinyworld import vocabulary, world
from harness.models.nursery.pretraining import LOOP_VERSION, THREADS, build, pretrain
from harness.models.nursery.recipe import Recipe
from harness.models.quiet import quiet
from harness.models.weights import WEIGHTS, check_safetensors, file_sha256, sizes
from harness.models.whole import require_used

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

NOTES = "nursery.json"
"""Written last, next to the weights: loss, seconds, recipe, and the hashes of all other files."""

SHIPPED = Path(__file__).parent / "shipped"
"""Folders of the models that ship with the package, each as in the cache; `make nursery` trains
them."""


@dataclass(frozen=True, kw_only=True)
class Nursery(Recipe):
    """A tiny model that ships with the package, or is pretrained when it is first loaded."""

    @property
    def recipe(self) -> str:
        """SHA-256 of everything that decides the weights.

        That is the fields, the loop, the base texts and the vocabulary.
        """
        made_of = dataclasses.asdict(self) | {"loop": LOOP_VERSION, "threads": THREADS, "world": world.fingerprint()}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    @property
    def ships(self) -> bool:
        """Whether it comes with the package."""
        return self._shipped() is not None

    @property
    def is_made(self) -> bool:
        """Whether it is on disk, with every file as it was written."""
        return not self._damaged()

    @property
    def has_weights(self) -> bool:
        """Whether its weights are on disk as they were written, whatever else is damaged."""
        return WEIGHTS not in self._damaged()

    @property
    def damage(self) -> str | None:
        """A line on damaged files and their repair; None without any."""
        folder = self._folder()
        if self.ships or not folder.is_dir() or not (names := self._damaged()):
            return None
        repair = "written again, with the same weights" if self.has_weights else "pretrained again"
        return f"nursery model {folder}: damaged or missing: {', '.join(names)}; {repair}"

    def require_whole(self) -> None:
        """Raise ModelError for a damaged model of the package: pretrained, it would be another."""
        if self.ships and (names := self._damaged()):
            got = f"damaged or missing: {', '.join(names)}"
            fix = "install the package again"
            raise ModelError(explain(f"nursery model {self._folder()}", got=got, allowed="the files of the package", fix=fix))

    def facts(self) -> ModelFacts:
        """Return sizes counted on the meta device, without training or allocating anything.

        The content of a model that ships is its files. That of another one is its recipe, and its
        weights once it is pretrained: two machines that follow one recipe get different weights.
        """
        recipe = {"recipe": self.recipe}
        if self.ships:
            content = dict(self._notes()["files"])
        else:
            content = recipe | ({WEIGHTS: self._notes()["files"][WEIGHTS]} if self.has_weights else {})
        notes = (self.damage,) if self.damage else ()
        found = sizes(recipe, self.skeleton)
        return ModelFacts(context_length=self.context, content=content, notes=notes, dimensions=self._dimensions, **found)

    @property
    def _dimensions(self) -> Dimensions:
        heads = {"heads": self.heads, "kv_heads": self.heads, "head_width": self.width // self.heads}
        sizes = {"layers": self.layers, "width": self.width, "mlp": self.mlp, "vocabulary": len(vocabulary.VOCABULARY)}
        return Dimensions(family="llama", tied=True, **heads, **sizes)

    def longest_input(self) -> int:
        """Return its context length in tokens."""
        return self.context

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a fresh tokenizer, the same for every nursery model."""
        tokenizer = vocabulary.tokenizer()
        tokenizer.model_max_length = self.context
        return tokenizer

    def load(self) -> PreTrainedModel:
        """Return the pretrained model in float32; the first call pretrains one that does not ship.

        Raises ModelError.
        """
        return loaded(self._pretrained())

    def weights_sha256(self) -> str:
        """Return the hash of its weight file.

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

    def make(self, folder: Path, start: Path | None = None) -> None:
        """Pretrain the model into a folder, which must not exist.

        Args:
            folder: gets the files of a Hugging Face model, and NOTES.
            start: folder of the model that training starts from, for those that start from another;
                None: that model itself.
        """
        began = time.perf_counter()
        model, loss = self._trained(start)
        seconds = round(time.perf_counter() - began, 1)
        self._write(model.bfloat16(), folder, {"loss": loss, "seconds": seconds})

    def _trained(self, start: Path | None) -> tuple[LlamaForCausalLM, float]:
        """Train the model; return it and its last loss."""
        return pretrain(self)

    def _write(self, model: PreTrainedModel, folder: Path, notes: Mapping[str, Any], weights: dict[str, Any] | None = None) -> None:
        model.save_pretrained(folder, state_dict=weights)
        self.tokenizer().save_pretrained(folder)
        known = {"recipe": self.recipe, "fields": dataclasses.asdict(self), "files": _hashes(folder)}
        (folder / NOTES).write_text(json.dumps({**notes, **known}, indent=1) + "\n", encoding="utf-8")

    def _folder(self) -> Path:
        return self._shipped() or paths.cache() / "nursery" / self.recipe

    def _shipped(self) -> Path | None:
        return _shipped_folders().get(json.dumps(dataclasses.asdict(self), sort_keys=True))

    def _pretrained(self) -> Path:
        """Return the folder of the pretrained model.

        Of two processes that need the same model, one pretrains it and the other waits.
        """
        self.require_whole()
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
        from safetensors.torch import load_file

        if damage := self.damage:
            log.warning(damage)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name[:16]}.", dir=folder.parent) as temporary:
            made = Path(temporary) / "model"
            if self.has_weights:
                self._write(self.skeleton().bfloat16(), made, self._notes(), load_file(folder / WEIGHTS))
            else:
                self.make(made)
            notes = json_text.loads((made / NOTES).read_text(encoding="utf-8"))
            # Where locks do not work, another process may have finished first.
            rename_folder(made, folder, over=bool(self._damaged()))
        log.info("pretrained in %.0f s, loss %.3f: %s", notes["seconds"], notes["loss"], folder)

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
        """Return the notes on the model; empty where they are missing or damaged."""
        try:
            notes = json_text.loads((self._folder() / NOTES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) and isinstance(notes.get("files"), dict) and WEIGHTS in notes["files"] else {}


@functools.cache
def _shipped_folders() -> Mapping[str, Path]:
    """Return fields, as JSON → folder of the models that ship.

    Raises ModelError for a folder without readable notes: its model would be pretrained instead,
    which gives other weights.
    """
    found = {}
    for folder in sorted(path for path in SHIPPED.glob("*") if path.is_dir()):
        try:
            notes = json_text.loads((folder / NOTES).read_text(encoding="utf-8"))
            fields, _ = notes["fields"], notes["files"][WEIGHTS]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(explain(f"nursery model {folder}", got=f"no readable {NOTES}", fix="install the package again")) from error
        found[json.dumps(fields, sort_keys=True)] = folder
    return found


def loaded(folder: Path) -> PreTrainedModel:
    """Return the model of a folder in float32, in evaluation mode.

    Raises ModelError unless its files hold every weight, and no other.
    """
    import torch
    from transformers import LlamaForCausalLM

    shapes = {name: tuple(entry["shape"]) for name, entry in check_safetensors(folder / WEIGHTS).items()}
    with quiet():
        found: Any = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    model, report = found
    require_used(str(folder), report, shapes, {})
    return cast("PreTrainedModel", model.eval())


def _hashes(folder: Path) -> Mapping[str, str]:
    """Return name → SHA-256 of the files of a model, but its notes.

    They are read each time: the hashes of ``file_sha256`` are cached, too.
    """
    files = sorted(path for path in folder.glob("[!.]*") if path.is_file() and path.name != NOTES)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
