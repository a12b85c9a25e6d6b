"""Rows that models generate for methods before training, kept by content.

Models write through transformers (``harness.models.author``). Another backend is another class with
the members of ``harness.core.contexts.Author``, made in ``authors.py``. vLLM is not offered: nothing
here could be tried on it.
"""
