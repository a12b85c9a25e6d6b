"""Records of an experiment to a tidy table and to changes item by item.

Takes: the results folder of one experiment (``harness.records.store.Experiment``). Gives: a pandas
table with one row per run, volume, suite, task and metric (``frame.table``, columns in
``columns``), and for every run, volume and task the change of each item (``changes.Changes``).
Both are kept as files next to each recorded run and reused while its record is unchanged.
"""
