"""Tiny models, pretrained on tinyworld; some ship with the package."""
