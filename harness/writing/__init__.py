"""Text that models write for methods before training, kept by content. The methods: ``harness.mitigation``, ``harness.objective``.

Models write through transformers (``author.py``). vLLM is not offered: nothing here could be tried on it. Another way to write is another
class with the methods of ``harness.contexts.Author``, made in ``context.py``.
"""
