"""PEFT adapters, merged into their base as PEFT computes them unmerged."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import paths
from harness.core import json_text
from harness.core.errors import ModelError, explain
from harness.core.sources import ModelFacts, ModelSource
from harness.models import folders, whole
from harness.models.quiet import failures
from harness.models.vocabulary import differences, read_template, read_tokenizer, require_rows
from harness.models.weights import ADAPTER, SAFE, check_safetensors, file_sha256, first_line, sizes, without_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"
TEMPLATE = "chat_template.jinja"
PREFIX = "base_model.model."
"""Of the names of an adapter's tensors, before the name of the module in the plain model."""

BASE = "model.base=FOLDER_OR_HUB_NAME of the model that it was trained on"

QUANTISED = re.compile(r"-(bnb-)?[48]bit$")


def settings(folder: Path) -> Mapping[str, Any]:
    """Return an adapter's settings. Raises ModelError."""
    file = folder / ADAPTER
    try:
        values = json_text.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError) as error:
        raise ModelError(explain(str(file), got=first_line(error), allowed="the settings of a PEFT adapter")) from error
    return values


def named_base(values: Mapping[str, Any]) -> str:
    """Return the base that an adapter names, with its revision in the hub; empty without one."""
    name, revision = str(values.get("base_model_name_or_path") or ""), values.get("revision")
    is_folder = folders.is_path(name) or paths.expanded(name).is_dir()
    return f"{name}@{revision}" if name and revision and not is_folder else name


def base_of(name: str, values: Mapping[str, Any], given: str | None) -> str:
    """Return the base that an adapter is loaded onto.

    Args:
        name: of the adapter, for messages.
        values: its settings.
        given: by the user; None is the base that the adapter names.

    Raises:
        ModelError: if there is none, or the adapter was trained on quantised weights.
    """
    found, allowed, fix = given or named_base(values), "a base that exists", BASE
    if not found or (folders.is_path(found) and not paths.expanded(folders.split(found)[0]).is_dir()):
        got = f"model.base {found!r}" if given else f"base_model_name_or_path {found!r}"
        raise ModelError(explain(f"adapter {name}", got=got, allowed=allowed, fix=fix))
    if given is None and QUANTISED.search(place := found.partition("@")[0]):
        allowed, fix = "a base as floating point", f"model.base={QUANTISED.sub('', place)}, if that is the model that was quantised"
        raise ModelError(explain(f"adapter {name}", got=f"the quantised base {found}", allowed=allowed, fix=fix))
    return found


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A base with an adapter merged into it, in float32.

    Attributes:
        name: of the adapter, as the user typed it.
        folder: of its files; its tokenizer and chat template are used where it has them.
        base: the model that it is loaded onto.
        base_name: of that.
        named: the base that the adapter names.
    """

    name: str
    folder: Path
    base: ModelSource
    base_name: str
    named: str

    def facts(self) -> ModelFacts:
        """Return its facts, whose content names base and adapter. Raises ModelError."""
        base = self._base_facts()
        files = {file.name: file_sha256(file) for file in [*self._files(), *self._own_files()]}
        kept = {name: one for name, one in base.content.items() if not (self._has_vocabulary and name in folders.TOKENIZER)}
        content = kept | files
        if ADAPTER in base.content:  # both adapters have files of these names
            content["base"] = hashlib.sha256(json.dumps(sorted(base.content.items())).encode()).hexdigest()
        found = sizes(content, self._described)
        if found["params_total"] != base.params_total:  # untied, or other rows: not the sum of base and adapter alone
            content["params_total"] = str(found["params_total"])
        fix = f"delete its tokenizer files, which {self.base_name} has, or save it with its embedding (save_embedding_layers=True)"
        require_rows(self.name, self.tokenizer(), self._rows[1], fix)
        return dataclasses.replace(base, content=content, vocabulary=self._rows[1], notes=(*base.notes, *self._notes()), **found)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the adapter's own tokenizer or chat template, else the base's.

        Raises ModelError.
        """
        if self._has_vocabulary:
            return read_tokenizer(self.name, self.folder, trust=False)
        found = self.base.tokenizer()
        if (self.folder / TEMPLATE).is_file():
            found.chat_template = read_template(self.name, self.folder / TEMPLATE)
        return found

    def load(self) -> PreTrainedModel:
        """Return the base with the adapter merged, in float32, in evaluation mode, on the CPU.

        Raises ModelError, also if the merged model does not compute what PEFT computes unmerged.
        """
        self._files()
        base = self.base.load()
        with self._explained() as caught:
            self._resize(base)
            from peft import PeftModel

            adapted: Any = PeftModel.from_pretrained(base, str(self.folder)).eval()
            report = adapted.load_adapter(str(self.folder), "default")  # the same again, for what of the file was used
            unmerged = whole.logits(adapted)
            merged: PreTrainedModel = _merged(adapted).eval()
        self._require_used(report, [str(one.message) for one in caught])
        whole.require_same(f"adapter {self.name}", unmerged, whole.logits(merged), "when the adapter is merged")
        whole.require_tied(self.name, merged)
        # PEFT writes it into an adapter that is trained on this model: another base would be lost.
        merged.name_or_path = merged.config._name_or_path = str(self.folder) if self.named == self.base_name else ""
        return merged

    def skeleton(self) -> PreTrainedModel:
        """Return the merged model on the meta device, where nothing is allocated."""
        import torch

        model = self._base_skeleton()
        ends = any(name.startswith(f"{path}.") for name in self._shapes for path in _ends(model) if path)
        if not ends and not settings(self.folder).get("layer_replication"):
            return model
        with self._explained(), torch.device("meta"):
            self._resize(model)
            from peft import get_peft_model

            return _merged(get_peft_model(model, self._settings()))

    def _settings(self) -> Any:
        """Return PEFT's settings for the meta device, where weights have no values."""
        from peft import PeftConfig

        config: Any = PeftConfig.from_pretrained(str(self.folder))
        if isinstance(getattr(config, "init_lora_weights", None), str):
            config.init_lora_weights = True
        return config

    def weights_sha256(self) -> str:
        """Return the hash of the base's weight bytes and the adapter's files."""
        lines = [self.base.weights_sha256(), *(f"{file.name} {file_sha256(file)}" for file in self._files())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _base_facts(self) -> ModelFacts:
        """Return the facts of the base. Raises ModelError."""
        try:
            return self.base.facts()
        except RecursionError as error:
            got, allowed = f"the base {self.base_name}, which is loaded onto it", "a base of its own"
            raise ModelError(explain(f"adapter {self.name}", got=got, allowed=allowed, fix=BASE)) from error
        except ModelError as error:
            if str(error).startswith("adapter "):  # of the base's own base
                raise
            raise ModelError(f"adapter {self.name}, base {self.base_name}: {error}; another base: model.base=NAME") from error

    def _described(self) -> PreTrainedModel:
        """Return the model on the meta device, once the adapter is known to fit its base.

        Methods of PEFT that need values, which that device lacks, are checked at load alone.

        Raises ModelError.
        """
        try:
            self._require_fit()
        except ModelError as error:
            if not _needs_values(error.__cause__):
                raise
        return self.skeleton()

    def _require_fit(self) -> None:
        """Raise ModelError unless the adapter fits its base, by names and shapes of its tensors."""
        import torch

        model = self._base_skeleton()
        with self._explained() as caught, torch.device("meta"):
            self._resize(model)
            from peft import PeftModel

            adapted: Any = PeftModel.from_pretrained(model, str(self.folder), config=self._settings())
            report = adapted.load_adapter(str(self.folder), "default")
        self._require_used(report, [str(one.message) for one in caught])

    def _base_skeleton(self) -> PreTrainedModel:
        build: Any = getattr(self.base, "skeleton", None)
        if build is None:
            got, allowed = f"a base of {type(self.base).__qualname__}", "a folder, a hub model or a model of the nursery"
            raise ModelError(explain(f"adapter {self.name}", got=got, allowed=allowed))
        found: PreTrainedModel = build()
        return found

    def _files(self) -> list[Path]:
        """Return the adapter's settings and weights. Raises ModelError."""
        if not (self.folder / WEIGHTS).is_file():
            got, fix = without_weights(self.folder, WEIGHTS)
            raise ModelError(explain(f"adapter {self.name}", got=got, allowed=SAFE, fix=fix))
        return [self.folder / ADAPTER, self.folder / WEIGHTS]

    @property
    def _has_vocabulary(self) -> bool:
        return any((self.folder / name).is_file() for name in folders.VOCABULARIES)

    def _own_files(self) -> list[Path]:
        """Return the files of the adapter's tokenizer that are used."""
        names = folders.TOKENIZER if self._has_vocabulary else (TEMPLATE,)
        return [self.folder / name for name in names if (self.folder / name).is_file()]

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the adapter's tensors, by name in the plain model. Raises ModelError."""
        header = check_safetensors(self._files()[1])
        return {name.removeprefix(PREFIX): tuple(entry["shape"]) for name, entry in header.items()}

    @functools.cached_property
    def _rows(self) -> tuple[int, int]:
        """Rows of the base's embedding, and of the adapted model's.

        Raises ModelError where the adapter has more rows, but not their values.
        """
        model: Any = self._base_skeleton()
        own, (embedding, head) = model.get_input_embeddings().weight.shape[0], _ends(model)
        rows, full = set(), set()
        for name, shape in self._shapes.items():
            for path in (embedding, head):
                if path and name.startswith(f"{path}.") and (found := _rows_of(name, shape)):
                    rows.add(found)
                    full |= {path} if name.endswith(".weight") and "lora" not in name else set()
        if not rows:
            return own, own
        tied = not head or model.get_output_embeddings().weight is model.get_input_embeddings().weight
        if len(rows) > 1 or (max(rows) > own and not (full if tied else {embedding, head} <= full)):
            got = f"{' and '.join(map(str, sorted(rows)))} rows of the embedding for a base of {own}"
            fix = "save it again with save_embedding_layers=True, or model.base=NAME of a base with these rows"
            raise ModelError(explain(f"adapter {self.name}", got=got, allowed="the base's rows, or all rows with their values", fix=fix))
        return own, max(rows)

    def _resize(self, model: PreTrainedModel) -> None:
        """Give a base the rows that the adapter was trained with, whose values it brings."""
        own, rows = self._rows
        if rows != own:
            model.resize_token_embeddings(rows, mean_resizing=False)

    def _notes(self) -> Iterator[str]:
        """Yield what a reader should know of this adapter."""
        if self.named != self.base_name:
            yield f"{self.name} names the base {self.named or 'none'}, but is loaded onto {self.base_name}"
        if self._own_files() and (differing := differences(self.tokenizer(), self.base.tokenizer())):
            yield f"{self.name} brings its own {' and '.join(differing)}, in place of those of its base {self.base_name}"
        own, rows = self._rows
        if rows != own:
            yield f"{self.name} has {rows} rows of the embedding: its base {self.base_name} is resized from {own}"

    def _require_used(self, report: Any, warned: list[str]) -> None:
        """Raise ModelError unless every tensor of the adapter is used, and none is missing."""
        where, allowed = f"adapter {self.name}", "an adapter whose weights all belong to its base"
        if lost := [text for text in warned if "missing adapter keys" in text]:
            raise ModelError(explain(where, got=" ".join(lost[0].split())[:200], allowed=allowed, fix=BASE))
        # PEFT writes a whole copy of an embedding twice where its embedding layers are saved too.
        twice = {name for name in report.unexpected_keys if ".modules_to_save." in name and _once(name) in self._shapes}
        unused = sorted({*report.unexpected_keys} - twice)
        if unused:
            got = f"{len(unused)} tensors that its base does not use, the first is {unused[0]}"
            raise ModelError(explain(where, got=got, allowed=allowed, fix=BASE))

    @contextmanager
    def _explained(self) -> Iterator[list[warnings.WarningMessage]]:
        """Raise ModelError for an error of PEFT; yields the list of its warnings."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield caught
        except ModelError:
            raise
        except failures() as error:
            allowed = "an adapter of this base that can be merged into its weights, such as LoRA"
            got, fix = " ".join(str(error).split())[:200] or first_line(error), f"check its base, {self.base_name}"
            raise ModelError(explain(f"adapter {self.name}", got=f"{type(error).__name__}: {got}", allowed=allowed, fix=fix)) from error


def _needs_values(error: BaseException | None) -> bool:
    """Return whether an error is of PyTorch's meta device, not of an adapter."""
    return isinstance(error, NotImplementedError) or (isinstance(error, RuntimeError) and "meta tensor" in str(error))


def _once(name: str) -> str:
    return name.replace(".modules_to_save.", ".").removeprefix(PREFIX)


def _rows_of(name: str, shape: tuple[int, ...]) -> int | None:
    """Return the rows of an embedding that a tensor of an adapter shows, if it does."""
    if name.endswith("lora_embedding_A"):
        return shape[1]
    if name.endswith("lora_B.weight") or ("lora" not in name and name.endswith(".weight")):
        return shape[0]
    return None


def _ends(model: Any) -> tuple[str, str]:
    """Return the paths of a model's embedding and output head; empty where it has none."""
    paths = {id(module): path for path, module in model.named_modules()}
    first, last = (paths.get(id(module), "") for module in (model.get_input_embeddings(), model.get_output_embeddings()))
    return first, last


def _merged(adapted: Any) -> PreTrainedModel:
    """Return a PEFT model's base with the adapter merged into it.

    PEFT computes an unmerged adapter of a tied embedding with terms of its own, and adds them to
    the shared weight when it merges, so the weight is separated before.
    """
    separated = separate(adapted.get_base_model())
    merged: Any = adapted.merge_and_unload()
    if separated or not _is_tied(merged):
        for config in {id(one): one for one in (merged.config, merged.config.get_text_config())}.values():
            config.tie_word_embeddings = False
        if hasattr(merged, "get_expanded_tied_weights_keys"):
            merged.all_tied_weights_keys = merged.get_expanded_tied_weights_keys(all_submodels=True)
    for parameter in merged.parameters():  # PEFT froze them
        parameter.requires_grad_(True)
    return merged  # type: ignore[no-any-return]


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def separate(model: torch.nn.Module) -> bool:
    """Give each place of a shared weight that an adapter changes its own copy.

    Returns whether there was one.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer)]
    changed = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    places: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    shared = [name for key, names in places.items() if key in changed for name in names[1:]]
    for name in shared:
        path, _, last = name.rpartition(".")
        copy = torch.nn.Parameter(model.get_parameter(name).detach().clone(), requires_grad=False)
        setattr(model.get_submodule(path), last, copy)
    return bool(shared)
