"""Where `peersync convert` takes the keys of tables from that the dump does not tell.

A configured database, which is asked, or a file that a person wrote. Which key is used for which
table is decided in `dump.script`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from peersync.cli.context import Context
from peersync.core.errors import BadRequest
from peersync.core.names import TableName
from peersync.dump.grammar import parse_table_name
from peersync.dump.script import Key


def database_keys(ctx: Context, name: str) -> dict[TableName, Key]:
    """The key of each table of a configured database that ON CONFLICT can name.

    The primary key, else a unique index (not partial, without expressions or nullable columns,
    immediate). Tables without one are missing. Raises DatabaseUnreachable and the like.
    """
    import psycopg

    from peersync.postgres.errors import translated
    from peersync.postgres.sqlfiles import queries

    resolved = ctx.resolved(name)
    conninfo = resolved.psycopg_conninfo(application_name="peersync/convert")
    with (
        translated(f"reading the keys of {resolved.display()}"),
        psycopg.connect(conninfo, autocommit=True) as conn,
    ):
        rows = conn.execute(queries("keys")["conflict_keys"].encode()).fetchall()
    return {TableName(schema, table): tuple(columns) for schema, table, columns in rows}


def file_keys(path: Path) -> dict[TableName, Key]:
    """`"schema.table" = ["column", …]` from a TOML file; an empty list: no key.

    Raises BadRequest.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRequest(
            f"the keys in {path} cannot be read",
            detail=words,
            hint='It is a TOML file with lines like "public.orders" = ["id"].',
        ) from error
    keys: dict[TableName, Key] = {}
    for name, columns in content.items():
        schema, _, rest = name.partition(".")
        table = parse_table_name(name) or TableName(schema, rest)
        if not table.name or not isinstance(columns, list):
            raise BadRequest(
                f"{path}: {name!r} is not a key", hint='Write "schema.table" = ["column", …].'
            )
        if not all(isinstance(column, str) for column in columns):
            raise BadRequest(
                f"{path}: the key of {name!r} is not a list of column names",
                hint='Write "schema.table" = ["column", …].',
            )
        keys[table] = tuple(columns)
    return keys
