"""Claims of the literature: declared with a test and a margin, judged from small tables.

``declaration`` reads the ``claim:`` block of an experiment, ``tables`` the small tables of a
finished sweep. The tests (``contrasts``, ``order``, ``prediction``) are pure functions of these
tables; ``verdicts`` turns their lines into verdicts.
"""
