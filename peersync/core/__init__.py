"""What can be decided without I/O: no asyncio, no driver, no clock, no randomness."""
