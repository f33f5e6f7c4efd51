"""The configured databases of this node, each opened once and kept at this code's schema.

Owns their connections. Which database a request may touch, and whether it is busy, is decided by
who asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from peersync.config.model import Config
from peersync.core.errors import NotFound
from peersync.core.patterns import Patterns
from peersync.postgres.conninfo import read_password_file, resolve
from peersync.postgres.migrate import migrate, status
from peersync.postgres.pool import Database


class Databases:
    """By name, in the order of the configuration."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        """Resolves every conninfo; ConfigError for one that libpq does not understand."""
        self._databases: dict[str, Database] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._patterns: dict[str, Patterns] = {}
        for name, settings in config.database.items():
            file = settings.password_file
            password = read_password_file(file, environ) if file else None
            self._databases[name] = Database(
                name,
                resolve(settings.conninfo, password=password),
                connect_timeout_s=config.network.connect_timeout_s,
            )
            self._locks[name] = asyncio.Lock()
            self._patterns[name] = Patterns(settings.include, settings.exclude)

    def __iter__(self) -> Iterator[Database]:
        return iter(self._databases.values())

    def names(self) -> tuple[str, ...]:
        return tuple(self._databases)

    def get(self, name: str) -> Database:
        """A configured database; NotFound names those that there are."""
        try:
            return self._databases[name]
        except KeyError:
            listed = ", ".join(self._databases) or "none"
            raise NotFound(
                f"this node has no database {name!r}",
                detail=f"configured here: {listed}",
                hint=f"Add [database.{name}] to the configuration and restart the agent.",
            ) from None

    def patterns(self, name: str) -> Patterns:
        """Which tables of a database are synced, by the configuration."""
        self.get(name)
        return self._patterns[name]

    async def ready(self, name: str) -> Database:
        """A database whose schema peersync is this code's: a new or emptied one is set up."""
        database = self.get(name)
        async with self._locks[name], database.connect("migrate", what=f"preparing {name}") as conn:
            if not (await status(conn)).current:
                await migrate(conn)
        return database

    async def close(self) -> None:
        for database in self._databases.values():
            await database.close()
