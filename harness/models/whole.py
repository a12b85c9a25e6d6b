"""Checks that a loaded model is all of its files, and stays that model in a library's hands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import ModelError, explain

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ROUNDING = 1e-3
"""Largest difference of two logits that rounding explains, as a share of the largest logit: of
float32, many times what was seen."""

PROBE = 8
"""Tokens of a probe of a model."""

OTHER_SENSES = re.compile(r"(^|[._])(vision|visual|image|img|audio|speech|multi_modal|mm)([._]|$)")
"""Names of tensors of a model's parts for other input than text."""

MASKS = re.compile(r"\.(attn|attention)\.((masked_)?bias|causal_mask)$|rotary_emb\.inv_freq$|\.position_ids$")
"""Buffers that old files hold and new code computes: causal masks, frequencies, positions."""


def require_used(name: str, loading: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> None:
    """Raise ModelError unless every weight comes from the files and every tensor of them is used.

    Tensors may be unused that belong to parts for other input than text, in a model that is loaded
    as its text part, and buffers that the code computes.

    Args:
        name: of the model.
        loading: transformers' report on it.
        shapes: of the tensors of the files.
        config: its config.json: a text part has none of the other parts.
    """
    where = f"model {name}"
    for problem in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(_shown, loading[problem])):
            got = f"{len(names)} {problem.replace('_', ' ')}, the first is {names[0]}"
            fix = "they would be random; use a checkpoint that holds every weight, with its own config.json"
            raise ModelError(explain(where, got=got, allowed="none", fix=fix))
    if names := sorted(str(key) for key in loading["unexpected_keys"] if not _may_be_unused(str(key), config, shapes)):
        got = f"{len(names)} tensors that its config.json does not use, the first is {names[0]}"
        fix = "the config.json that these weights were saved with, or remove the tensors with save_pretrained"
        raise ModelError(explain(where, got=got, allowed="files whose every tensor is used", fix=fix))


def _shown(key: Any) -> str:
    """Return a key of transformers' report; a mismatched one comes with both shapes."""
    if not isinstance(key, tuple):
        return str(key)
    name, *shapes = key
    return f"{name} of shape {' in the file and '.join(str(tuple(shape)) for shape in shapes)} in the model"


def _may_be_unused(key: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a tensor of the files may stay unused."""
    if MASKS.search(key):  # a mask has four dimensions, or none: a bias of a layer has one
        return not key.endswith("bias") or len(shapes.get(key, (0,))) != 1
    sections = {name for name, value in config.items() if isinstance(value, dict)}
    return bool(OTHER_SENSES.search(key)) and any(OTHER_SENSES.search(section) for section in sections)


def require_tied(name: str, model: PreTrainedModel, files: Sequence[Path] = ()) -> None:
    """Raise ModelError unless the weights that a model's config ties are one.

    Where a file holds different ones, transformers 5 keeps both, and lm-eval ties them; older
    versions tie them at once.

    Args:
        name: of the model.
        model: loaded, or on the meta device, where the weights of the files count.
        files: of its weights.
    """
    for target, source in _tied(model):
        if _differ(model, target, source, files):
            got = f"different tensors {target} and {source}"
            fix = "tie_word_embeddings: false in its config.json, or remove the one that was not trained"
            raise ModelError(explain(f"model {name}", got=got, allowed="equal ones: its config.json ties them", fix=fix))


def _tied(model: Any) -> list[tuple[str, str]]:
    """Return the names of weights that the config ties."""
    if hasattr(model, "get_expanded_tied_weights_keys"):
        return list(model.get_expanded_tied_weights_keys(all_submodels=True).items())
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return []
    paths = {id(module): path for path, module in model.named_modules()}
    return [(f"{paths[id(head)]}.weight", f"{paths[id(embedding)]}.weight")]


def _differ(model: Any, target: str, source: str, files: Sequence[Path]) -> bool:
    """Return whether two tied weights are different, in the files or else in the model."""
    import torch
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys() if name in {target, source}}  # noqa: SIM118
    if len(found) == 2:
        return not torch.equal(found[target], found[source])
    one, other = model.get_parameter(target), model.get_parameter(source)
    return one is not other and not one.is_meta


def logits(model: Any) -> torch.Tensor:
    """Return logits of a few tokens from all over the vocabulary, in float32 on the CPU."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.linspace(0, rows - 1, min(PROBE, rows)).long().reshape(1, -1)
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():  # buffers that a model makes on its first pass may be trained through
            found: torch.Tensor = model(input_ids=ids.to(model.device)).logits.float().cpu()
    finally:
        model.train(was_training)
    return found


def require_same(where: str, before: torch.Tensor, after: torch.Tensor, what: str, fix: str = "report it, with the model's name") -> None:
    """Raise ModelError where logits differ by more than rounding, or are not finite in one only.

    Args:
        where: of the message.
        before: logits of the model as loaded.
        after: likewise, of the model as used.
        what: was done to the model in between.
        fix: advice.
    """
    if before.shape != after.shape:
        got = f"{after.shape[-1]} logits {what}, {before.shape[-1]} before"
        raise ModelError(explain(where, got=got, allowed="the same model", fix=fix))
    difference, scale = float((before - after).abs().nan_to_num(nan=0.0).max()), float(before.abs().nan_to_num(nan=0.0).max())
    differs = bool((before.isnan() != after.isnan()).any())
    if differs or difference > ROUNDING * max(1.0, scale):
        got = f"logits that differ by {difference:.3g} {what}{', or are not numbers in one of them' if differs else ''}"
        raise ModelError(explain(where, got=got, allowed=f"the same model, within {ROUNDING:g} of its largest logit", fix=fix))
