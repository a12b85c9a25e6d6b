"""Named random streams from one seed. The only module that seeds anything global.

Each purpose has its own stream: drawing from one never changes another, so that a mitigation at
strength 0 equals none bit for bit.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

LARGEST = 2**32 - 1
"""Largest seed: generators of libraries take 32 bits."""

ALLOWED = f"a whole number from 0 to {LARGEST}"


def derive(seed: int, *names: str) -> int:
    """Derive an independent 32-bit seed for a purpose.

    Args:
        seed: the one seed of the configuration.
        names: the purpose, such as ``"data-order"``.
    """
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return the generator of a named stream."""
    return np.random.default_rng(derive(seed, *names))


def permutation(seed: int, size: int, *names: str) -> list[int]:
    """Return a seeded permutation of ``range(size)``.

    Its prefixes are the nested subsets of that size.
    """
    return [int(i) for i in stream(seed, *names).permutation(size)]


def seed_torch(seed: int) -> None:
    """Seed the global generators, which libraries draw from (dropout, initialisation)."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the legacy generator
    torch.manual_seed(seed)


@contextmanager
def untouched_global_streams() -> Iterator[None]:
    """Restore the global generators after a block that may seed or draw from them.

    lm-eval does both. Without this, an evaluation at one more volume would change the dropout
    masks, and so the weights, of all later steps.
    """
    import torch

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


def global_streams() -> dict[str, torch.Tensor]:
    """Return the states of the global generators: python, numpy, torch, and a GPU in use."""
    import torch

    _, words, python_gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    numpy_words = [*legacy["state"]["key"].tolist(), legacy["state"]["pos"], legacy["has_gauss"]]
    found = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.tensor(numpy_words, dtype=torch.int64),
        "gauss": torch.tensor([np.nan if python_gauss is None else python_gauss, legacy["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def set_global_streams(streams: Mapping[str, torch.Tensor]) -> None:
    """Set the global generators to states from ``global_streams``."""
    import torch

    python_gauss, numpy_gauss = streams["gauss"].tolist()
    *keys, position, has_gauss = streams["numpy"].tolist()
    random.setstate((3, tuple(streams["python"].tolist()), None if np.isnan(python_gauss) else python_gauss))
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, numpy_gauss))  # noqa: NPY002
    torch.set_rng_state(streams["torch"])
    if "cuda" in streams and torch.cuda.is_available():
        torch.cuda.set_rng_state(streams["cuda"])
