"""Measured peaks of the bytes of live tensors."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Peak(TorchDispatchMode):
    """Bytes of the tensors given, or made since the block began, and still alive; their peak.

    Attributes:
        live, most: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known: dict[int, Any] = {}

    def given(self, *tensors: torch.Tensor) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_iter((args, found)):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known[key] = weakref.finalize(storage, self._free, key, size)
        self.live += size
        self.most = max(self.most, self.live)

    def _free(self, key: int, size: int) -> None:
        self.known.pop(key, None)
        self.live -= size
