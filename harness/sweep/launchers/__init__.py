"""Launchers: processes on this machine, or jobs of a cluster. Members: ``conf/launcher/``."""
