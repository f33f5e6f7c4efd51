"""Makes and removes schema `peersync` in a database.

Owns the order of migrations, the proof that released ones did not change, and the refusal of
a schema that this code does not understand. Each migration commits with its own record, so
being killed anywhere leaves whole steps. It touches nothing outside the schema but our own
triggers, when it uninstalls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from peersync import __version__
from peersync.core.errors import SchemaMismatch
from peersync.postgres.errors import translated
from peersync.postgres.sqlfiles import Migration, Scripts, queries, shipped

LOCK_TIMEOUT_S = 30
_SQL: Final = queries("schema")  # read here, so that no file is read on the event loop
_SHIPPED: Final = shipped()


@dataclass(frozen=True)
class Applied:
    """One row of peersync.migration."""

    number: int
    name: str
    sha256: str
    breaking: bool
    applied_at: datetime
    by_version: str


@dataclass(frozen=True)
class SchemaStatus:
    """How the schema stands to this code. `unknown`: migrations of a newer peersync."""

    installed: bool
    applied: tuple[Applied, ...] = ()
    pending: tuple[Migration, ...] = ()
    unknown: tuple[Applied, ...] = ()
    functions_current: bool = False

    @property
    def current(self) -> bool:
        return (
            self.installed and not self.pending and (self.functions_current or bool(self.unknown))
        )


@dataclass(frozen=True)
class SchemaObject:
    """Something that an uninstall drops."""

    kind: str
    name: str


@dataclass(frozen=True)
class Membership:
    """A member of periodic sync. `unsent`: its changes that no other is known to have."""

    state: str
    others: list[str]
    unsent: int


async def status(conn: asyncpg.Connection, scripts: Scripts | None = None) -> SchemaStatus:
    """What is installed and what is pending; raises SchemaMismatch where they do not fit."""
    scripts = scripts or _SHIPPED
    with translated("reading the state of schema peersync"):
        state = await conn.fetchrow(_SQL["schema_state"])
        if not state["has_migration"]:
            if state["relations"]:
                raise SchemaMismatch(
                    "the database has a schema peersync that peersync did not make",
                    hint="rename it, or drop it if nobody needs it",
                )
            return SchemaStatus(installed=False, pending=scripts.migrations)
        rows = await conn.fetch(_SQL["applied"])
        functions = await conn.fetchval(_SQL["functions_hash"])
    applied = tuple(Applied(**row) for row in rows)
    return _compare(applied, functions, scripts)


async def migrate(
    conn: asyncpg.Connection, scripts: Scripts | None = None, *, version: str = __version__
) -> tuple[Migration, ...]:
    """Bring the schema up to this code; returns what was applied. Concurrent runs are fine.

    `conn` must be outside a transaction. Raises SchemaMismatch for a changed migration or a
    newer schema, Locked when another run holds the lock too long, PermissionMissing, ….
    """
    scripts = scripts or _SHIPPED
    with translated("migrating schema peersync"):
        async with _exclusive(conn):
            before = await status(conn, scripts)
            if not before.installed:
                await _install(conn, scripts)
            for migration in before.pending:
                await _apply(conn, migration, version)
            if not before.functions_current and not before.unknown:
                await _create_functions(conn, scripts, version)
    return before.pending


async def list_objects(conn: asyncpg.Connection) -> tuple[SchemaObject, ...]:
    """Everything that `uninstall` drops, in the order in which it does."""
    with translated("listing what peersync installed"):
        rows = await conn.fetch(_SQL["objects"])
    return tuple(SchemaObject(row["kind"], row["name"]) for row in rows)


async def read_membership(conn: asyncpg.Connection) -> Membership | None:
    """None where the database takes part in no periodic sync, or has no schema for it."""
    with translated("looking whether the database is a member"):
        if await conn.fetchval("SELECT pg_catalog.to_regclass('peersync.replica')") is None:
            return None
        row = await conn.fetchrow(_SQL["membership"])
    return None if row is None else Membership(**row)


async def uninstall(conn: asyncpg.Connection, *, dry_run: bool) -> tuple[SchemaObject, ...]:
    """Drop our triggers and the schema in one transaction; returns what goes, or would.

    Raises SchemaMismatch when something of the user's depends on our tables: it would go too.
    """
    with translated("uninstalling peersync"):
        async with _exclusive(conn), conn.transaction():
            objects = await list_objects(conn)
            if not objects:
                return ()
            foreign = [r["name"] for r in await conn.fetch(_SQL["foreign_dependents"])]
            if foreign:
                raise SchemaMismatch(
                    "objects outside schema peersync depend on its tables",
                    detail="\n".join(foreign),
                    hint="drop them first, then uninstall again",
                )
            if not dry_run:  # takes our triggers along, for which it needs not own their tables
                await conn.execute("DROP SCHEMA peersync CASCADE")
    return objects


@asynccontextmanager
async def _exclusive(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """One runner at a time; the database frees the lock when the connection dies."""
    before = await conn.fetchval("SELECT pg_catalog.current_setting('lock_timeout')")
    await _set(conn, "lock_timeout", f"{LOCK_TIMEOUT_S}s")
    await conn.fetchval(_SQL["take_migration_lock"])
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.fetchval(_SQL["give_migration_lock"])
            await _set(conn, "lock_timeout", before)


async def _set(conn: asyncpg.Connection, name: str, value: str, *, local: bool = False) -> None:
    await conn.fetchval("SELECT pg_catalog.set_config($1, $2, $3)", name, value, local)


async def _install(conn: asyncpg.Connection, scripts: Scripts) -> None:
    async with conn.transaction():
        state = await conn.fetchrow(_SQL["schema_state"])
        if not state["has_schema"]:  # IF NOT EXISTS would demand the right even where it exists
            await conn.execute("CREATE SCHEMA peersync")
        await conn.execute(scripts.bookkeeping)


async def _apply(conn: asyncpg.Connection, migration: Migration, version: str) -> None:
    with translated(f"migration {migration.file}"):
        async with conn.transaction():
            await _set(conn, "search_path", "pg_catalog, pg_temp", local=True)
            await conn.execute(migration.sql)
            await conn.execute(
                _SQL["record_migration"],
                migration.number,
                migration.name,
                migration.sha256,
                migration.breaking,
                version,
            )


async def _create_functions(conn: asyncpg.Connection, scripts: Scripts, version: str) -> None:
    with translated("creating the functions of schema peersync"):
        async with conn.transaction():
            await _set(conn, "search_path", "pg_catalog, pg_temp", local=True)
            for sql in scripts.functions:
                await conn.execute(sql)
            await conn.execute(_SQL["record_functions"], scripts.functions_sha256, version)


def _compare(
    applied: tuple[Applied, ...], functions_hash: str | None, scripts: Scripts
) -> SchemaStatus:
    known = {migration.number: migration for migration in scripts.migrations}
    for done in applied:
        ours = known.get(done.number)
        if ours is not None and ours.sha256 != done.sha256:
            raise SchemaMismatch(
                f"migration {ours.file} is not the one that this database has",
                detail=f"applied by peersync {done.by_version} as {done.name}, "
                f"sha256 {done.sha256}; here {ours.sha256}",
                hint="reinstall peersync; a released migration never changes",
            )
    unknown = tuple(done for done in applied if done.number not in known)
    if breaking := [done for done in unknown if done.breaking]:
        raise SchemaMismatch(
            f"schema peersync was made by peersync {breaking[-1].by_version}, "
            f"and this one ({__version__}) does not understand it",
            detail=f"unknown migration {breaking[-1].number:04}_{breaking[-1].name}",
            hint=f"upgrade peersync here to {breaking[-1].by_version} or newer",
        )
    have = {done.number for done in applied}
    return SchemaStatus(
        installed=True,
        applied=applied,
        pending=tuple(m for m in scripts.migrations if m.number not in have),
        unknown=unknown,
        functions_current=functions_hash == scripts.functions_sha256,
    )
