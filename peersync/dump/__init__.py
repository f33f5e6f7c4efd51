"""Reads what pg_dump writes, as data and never as a script. Pure bytes in, pieces out."""
