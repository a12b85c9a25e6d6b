"""Objectives: what is learned. Members: ``conf/objective/``."""
