"""Keeps the PostgreSQL databases of independent servers in step, peer to peer."""

__version__ = "0.1.0"
