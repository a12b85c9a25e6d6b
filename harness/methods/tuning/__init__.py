"""Tunings: which weights move. Members: ``conf/tuning/``."""
