"""Records to one tidy row a point and suite, and per-item changes."""
