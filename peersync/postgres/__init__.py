"""Everything that talks to a PostgreSQL server or runs its client programs."""
