"""Sweeps: the Cartesian product of an experiment's axes, run one after another."""
