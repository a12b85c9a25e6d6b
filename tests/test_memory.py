"""How memory that runs out is told from other errors."""

from __future__ import annotations

import pytest
import torch

from harness.memory import out_of_memory


def test_a_lack_of_memory_is_known_by_type_or_text() -> None:
    """Python's, a GPU's and the CPU allocator's, which is a RuntimeError like any other; the last one here really asks for too much."""
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(raised.value)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
