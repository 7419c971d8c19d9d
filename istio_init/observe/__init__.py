"""A snapshot of a namespace: taken, and as a value."""
