"""Intervals, tests and metrics of change, as pure functions of arrays.

Takes: values, weights and clusters of items, one array per task, with shape (n,) for one seed and
(k, n) for k seeds. Gives: estimates, intervals, p-values and metrics in the unit and sign of the
metric. Nothing here knows of tables, runs or files.
"""
