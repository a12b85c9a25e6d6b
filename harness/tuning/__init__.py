"""Tuning: which weights move. One file a method, mirrored by ``conf/tuning/``."""
