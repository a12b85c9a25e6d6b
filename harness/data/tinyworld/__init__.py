"""A small synthetic world: base recipe, targets and questions; see benchmarks/tinyworld.md."""
