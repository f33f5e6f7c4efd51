"""What `scripts/bench` is made of: data, servers, meters, contestants, and the report."""
