"""A small synthetic world: its base recipe, what is learned on top of it, and questions."""
