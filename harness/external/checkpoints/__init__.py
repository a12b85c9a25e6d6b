"""Checkpoints of trainings elsewhere: found, claimed, measured, watched."""
