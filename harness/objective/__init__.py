"""Objective: what is learned. One file a method, mirrored by ``conf/objective/``."""
