"""Mitigation: what protects the past. One file a method, mirrored by ``conf/mitigation/``."""
