"""Rows that models generate for methods before training, cached by everything that decides them.

Models generate through transformers (``harness.models.author``). Another backend is another class
with the members of ``harness.core.methods.Author``, created in ``authors.py``. There is no vLLM
backend, because it could not be tested here.
"""
