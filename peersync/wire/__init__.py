"""What crosses the wire between two nodes, and nothing about how it gets there."""
