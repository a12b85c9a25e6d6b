"""A sweep before it starts: points, cost, stale runs, and everything it needs fetched."""
