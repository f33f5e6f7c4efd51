"""The method delta: both sides compare digests of their rows, and only what differs is sent."""
