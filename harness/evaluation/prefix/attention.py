"""Attention of many trees packed into one row without padding.

The model runs on one row (1, N): every token of every tree of a batch, one after another, each with
its position in its own sequence. Linear layers and norms never see padding. The attention function
here, which transformers calls in each layer, takes the row apart: trees become padded (R, T) rows,
each attends to itself under its tree mask and to the kept keys and values of its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from harness.evaluation.prefix.tree import Tree

NAME = "harness_packed"

UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask", "cu_seq_lens_q", "block_mask")
"""Arguments of an attention other than softmax(QKᵀ)V under a mask; a model that uses one is not
shared."""


class NotShared(Exception):
    """Raised where a model's attention cannot be packed."""


@dataclass(frozen=True)
class Call:
    """Arguments of one layer's attention.

    ``query`` is (1, H, N, D), ``key`` (1, Hk, N, D), ``value`` (1, Hk, N, Dv). ``scaling`` None is
    1 / √D, ``window`` None is no sliding window.
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scaling: float | None
    window: int | None


KeysValues = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Attention module → keys and values (Hk, P, D) of a prefix."""


@dataclass
class Layout:
    """Map between a packed row of N tokens and padded rows, one for each tree.

    Attributes:
        gather: (R · T,) token at each place of the padded rows (0 for padding); None for a single
            row without padding.
        scatter: (N,) place of each token in the padded rows.
        shape: (R, T).
        visible: (R, 1, T, P + T) whether a token may attend to another; None if every row is a
            chain without prefix.
        depths: (R, T) positions; with ``visible`` they cut sliding windows.
        prefix: keys and values that every row attends to, P of them, or None.
        keep: for each tree the store for its keys and values, and its (start, end) in the packed
            row.
    """

    gather: torch.Tensor | None
    scatter: torch.Tensor
    shape: tuple[int, int]
    visible: torch.Tensor | None
    depths: torch.Tensor
    prefix: KeysValues | None = None
    prefix_length: int = 0
    keep: Sequence[tuple[KeysValues, int, int]] = ()
    _windows: dict[int, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Return the mask under a sliding window of this many tokens (None: no window).

        None for plain causal rows.
        """
        if window is None:
            return self.visible
        if window not in self._windows:
            self._windows[window] = self._cut(window)
        return self._windows[window]

    def attend(self, call: Call) -> torch.Tensor:
        """Unpack a row, attend within each tree, and pack the result."""
        if len(self.scatter) != call.query.shape[2]:
            raise NotShared("its attention does not see one row of tokens")
        for store, start, end in self.keep:
            store[id(call.module)] = call.key[0, :, start:end], call.value[0, :, start:end]
        queries, keys, values = (self._rows(tensor) for tensor in (call.query, call.key, call.value))  # (R, H, T, D)
        if self.prefix is not None:
            past_keys, past_values = self.prefix[id(call.module)]
            keys = torch.cat([past_keys.expand(len(keys), -1, -1, -1), keys], dim=2)
            values = torch.cat([past_values.expand(len(values), -1, -1, -1), values], dim=2)
        attended = attend(queries, keys, values, self.mask(call.window), call.scaling)  # (R, H, T, Dv)
        flat = attended.transpose(1, 2).flatten(0, 1)  # (R · T, H, Dv)
        return (flat if self.gather is None else flat[self.scatter])[None]

    def _rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """(1, H, N, D) packed → (R, H, T, D) padded."""
        if self.gather is None:
            return tensor
        padded = tensor[0].transpose(0, 1)[self.gather].unflatten(0, self.shape)  # type: ignore[no-untyped-call, unused-ignore]
        return cast(torch.Tensor, padded).transpose(1, 2)

    def _cut(self, window: int) -> torch.Tensor | None:
        if int(self.depths.max()) < window:
            return self.visible
        past = torch.arange(self.prefix_length, device=self.depths.device).expand(self.shape[0], -1)
        distance = self.depths[:, :, None] - torch.cat([past, self.depths], dim=1)[:, None, :]  # (R, T, P + T)
        inside = (distance < window)[:, None]
        if self.visible is not None:
            return torch.logical_and(self.visible, inside)
        return torch.logical_and(inside, torch.ones(self.shape[1], self.shape[1], dtype=torch.bool, device=inside.device).tril())


def layout(
    trees: Sequence[Tree], device: torch.device, prefix: KeysValues | None, prefix_length: int, keep: Sequence[KeysValues] = ()
) -> Layout:
    """Return the layout of trees packed one after another into a row.

    Args:
        trees: of one batch; they all follow the same prefix, or none.
        device: of the model.
        prefix: its keys and values.
        prefix_length: its tokens, P.
        keep: a store for keys and values for each tree, or empty.
    """
    sizes = [len(tree.tokens) for tree in trees]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows, longest = len(trees), max(sizes)
    place = np.zeros((rows, longest), dtype=np.int64)
    depths = np.zeros((rows, longest), dtype=np.int64)
    for row, tree in enumerate(trees):
        place[row, : sizes[row]] = np.arange(starts[row], starts[row + 1])
        depths[row, : sizes[row]] = tree.depths
    scatter = np.concatenate([row * longest + np.arange(size) for row, size in enumerate(sizes)])
    chains = prefix is None and all(tree.is_chain for tree in trees)
    visible = None if chains else torch.from_numpy(_visible(trees, longest, prefix_length)).to(device)
    spans = zip(keep, starts[:-1].tolist(), starts[1:].tolist(), strict=True) if keep else ()
    return Layout(
        gather=None if rows == 1 else torch.from_numpy(place.reshape(-1)).to(device),
        scatter=torch.from_numpy(scatter).to(device),
        shape=(rows, longest),
        visible=visible,
        depths=torch.from_numpy(depths).to(device),
        prefix=prefix,
        prefix_length=prefix_length,
        keep=tuple(spans),
    )


def _visible(trees: Sequence[Tree], longest: int, prefix_length: int) -> np.ndarray[Any, Any]:
    """Return the mask (R, 1, T, P + T).

    Padding sees itself, since a softmax over no token is NaN.
    """
    seen = np.zeros((len(trees), 1, longest, prefix_length + longest), dtype=np.bool_)
    seen[..., :prefix_length] = True
    places = np.arange(longest)
    seen[:, :, places, prefix_length + places] = True
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        seen[row, 0, :size, prefix_length : prefix_length + size] = tree.visible()
    return seen


class Attention(Protocol):
    """Attention that the layers of a forward pass call."""

    def attend(self, call: Call) -> torch.Tensor:
        """Return the attention output of each token of a packed row, (1, N, H, Dv)."""
        ...


@dataclass
class _Current:
    """State of the current forward pass: its attention, and its layers' windows so far."""

    attention: Attention
    windows: list[int | None] = field(default_factory=list)


_current: ContextVar[_Current | None] = ContextVar("attention", default=None)


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Let a model's layers call ``_attend`` for a while.

    Only the name of the attention in its configs changes.
    """
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    found = {key: config for key, config in configs.items() if hasattr(config, "_attn_implementation_internal")}
    before = {key: config._attn_implementation_internal for key, config in found.items()}
    for config in found.values():
        config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for key, config in found.items():
            config._attn_implementation_internal = before[key]


@contextmanager
def using(attention: Attention) -> Iterator[list[int | None]]:
    """Set the attention that the layers of a forward pass call.

    Yields the list of the sliding windows of the layers that called it, None for no window.
    """
    current = _Current(attention)
    token = _current.set(current)
    try:
        yield current.windows
    finally:
        _current.reset(token)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the interface is transformers'
    scaling: float | None = None,
    sliding_window: int | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each tree of a packed row.

    Args:
        module: of the layer.
        query: (1, H, N, D).
        key: (1, Hk, N, D), Hk divides H.
        value: (1, Hk, N, Dv).
        attention_mask: ignored; transformers makes none for an attention of an unknown name.
        scaling: of the scores; None is 1 / √D.
        sliding_window: tokens that a token of this layer sees, itself included; None is all.
        arguments: must not contain one of UNKNOWN.

    Returns:
        (1, N, H, Dv), and None for the attention weights.

    Raises:
        NotShared: for an attention that cannot be packed.
    """
    current = _current.get()
    if asked := [name for name in UNKNOWN if arguments.get(name) is not None]:
        raise NotShared(f"its attention uses {', '.join(asked)}")
    if current is None or query.shape[0] != 1 or key.shape[2] != query.shape[2]:
        raise NotShared("its attention does not see one row of tokens")
    current.windows.append(sliding_window)
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions are float32, also in mixed precision
    return current.attention.attend(Call(module, query, key, value, scaling, sliding_window)), None


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Return scaled dot-product attention with grouped keys; causal without a mask.

    Fast kernels of GPUs do not take groups together with a mask: the queries of a group then follow
    one another along their axis, so that keys and values are not repeated.
    """
    groups = queries.shape[1] // keys.shape[1]
    if groups > 1 and mask is not None and queries.is_cuda:
        return folded(queries, keys, values, mask, scaling)
    return scaled_dot_product_attention(  # type: ignore[no-any-return, unused-ignore]
        queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=groups > 1
    )


def folded(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Return the attention of (R, H, T, D) queries, the G of each group one after another.

    ``mask`` is (R, 1, T or 1, P + T).
    """
    heads, tokens = keys.shape[1], queries.shape[2]
    groups = queries.shape[1] // heads
    rows = queries.unflatten(1, (heads, groups)).flatten(2, 3)  # type: ignore[no-untyped-call, unused-ignore]
    repeated = mask.expand(-1, -1, tokens, -1).repeat(1, 1, groups, 1)
    found = scaled_dot_product_attention(rows, keys, values, attn_mask=repeated, scale=scaling)
    return cast(torch.Tensor, found.unflatten(2, (groups, tokens)).flatten(1, 2))  # type: ignore[no-untyped-call, unused-ignore]


AttentionInterface.register(NAME, _attend)
