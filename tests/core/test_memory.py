"""Memory that runs out, told apart from other errors; memory that is available."""

from __future__ import annotations

import pytest
import torch

from harness.core import memory
from harness.core.memory import out_of_memory


def test_a_lack_of_memory_is_known_by_type_or_text() -> None:
    """Python's, a GPU's and the CPU allocator's, which is a plain RuntimeError.

    The last one here really asks for too much.
    """
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(raised.value)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_job_may_take_no_more_than_its_cgroup_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container of 1 GB on a large machine, workers share that gigabyte."""
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: [1e9, 2.0**62])
    assert memory.available_bytes() == 1e9
    monkeypatch.setattr(memory, "_cgroup_limits", list)
    assert memory.available_bytes() > 1e8
