"""Tiny models, pretrained on tinyworld and cached."""
