"""The order of changes: clock, vectors, what may be applied, who wins, what may be forgotten."""
