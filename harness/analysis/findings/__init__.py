"""Tidy table to findings: cells, verdicts, frontiers, equal gain, sequences."""
