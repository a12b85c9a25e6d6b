"""Models: where they come from and how they are loaded. Members: ``conf/model/``."""
