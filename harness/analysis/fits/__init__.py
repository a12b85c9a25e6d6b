"""Laws of forgetting fitted to points.

Takes: a pandas table with one row per point, from a file (``points.from_file``) or from the tidy
table (``points.from_table``), and the name of a law in ``laws/``. Gives: a ``fitting.Fit`` with
parameters and their intervals, a verdict, the error on held-out points next to a naive one, and
predictions for new points (``fitting.predict``). ``all_laws.every`` fits each law wherever an
experiment has points for it.

Inside: ``solver`` minimises, ``estimate`` chooses starts and weights, ``jackknife``,
``uncertainty`` and ``intervals`` give the errors, ``support`` tests, ``judging`` holds out. Laws of
one cell are fitted to several cells ``together``: ``noise`` says how points vary, ``pooling`` what
cells have in common, ``posterior`` what is left possible of each.
"""
