"""Findings: results over seeds, with intervals and verdicts, from the tidy table.

Takes: a tidy table, the item changes of its runs (anything with ``estimates.ItemChanges.get``) and
the experiment's declarations. Gives: pandas tables with one row per

- cell, volume, suite and task, with verdicts (``findings.findings``),
- cell and volume, gain against forgetting (``frontier.frontier``),
- pair of methods at equal gain (``equal_gain.equal_gain``),
- cell run on both kinds of trajectory (``contrasts.trajectories``),
- entry of the matrix of a sequence of stages, and metric of it (``sequences.sequences``).

``cells`` groups runs into cells, ``pairing`` and ``paths`` are shared tools, and ``learning_rates``
chooses the rates of ``conf/learning_rates.yaml``.
"""
