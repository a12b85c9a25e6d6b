"""Data: sources, nested subsets, tokens and masks, overlap with evaluation items. Members: ``conf/data/``."""
