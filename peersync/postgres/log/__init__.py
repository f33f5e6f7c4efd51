"""The log of changes in a database: capture, publish, feed, apply, and what goes with them."""
