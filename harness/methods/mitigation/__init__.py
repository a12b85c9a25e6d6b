"""Mitigations: what protects the past. Members: ``conf/mitigation/``."""
