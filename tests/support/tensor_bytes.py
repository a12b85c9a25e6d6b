"""Bytes of tensors, counted by storage, so that views count once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def held(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes of the storages of some tensors."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Tensors that autograd keeps for the backward pass of a block."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        self.tensors.append(tensor)
        return tensor


class Peak(TorchDispatchMode):
    """Most bytes of storages alive at once that operations inside the block made.

    Attributes:
        bytes: the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.now = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and (key := _key(value)) not in given | self.known:
                self._add(key, value.untyped_storage())
        return found

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        self.known.add(key)
        self.now += storage.nbytes()
        self.bytes = max(self.bytes, self.now)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
