"""Models, checkpoints and lm-eval logs made elsewhere, compared item by item.

Contract: anything that was measured is a ``Side``. A side has the source as the user typed it, the
name of the model, and for each suite scores and items in the schema of a run's volume 0. Sides are
made by readers and used by everything else:

- readers: ``models`` measures live models and adapters with the code of volume 0; ``logs`` and
  ``matching`` read lm-eval output. Each rejects sources that cannot be compared, with the reason;
- users: ``judge`` pairs the items of two sides and computes changes, intervals and verdicts;
  ``gate`` turns them into an exit code; ``text`` and ``page`` present them.

A new kind of source, such as the checkpoints of somebody's training, needs a kind in ``sides`` and
a reader that returns sides; the users stay as they are. This room trains nothing and never writes
into a source: measurements are stored under ``results/compare``.
"""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.external.gate import Decision as Decision
    from harness.external.gate import Gate as Gate
    from harness.external.judge import Comparison as Comparison
    from harness.external.sides import Side as Side

__getattr__ = exports(__name__)
