"""Commands of the CLI that talk to a database without the agent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from peersync.cli import main
from peersync.cli.context import Context
from peersync.cli.convert_keys import database_keys
from peersync.core.names import TableName
from peersync.postgres.migrate import migrate
from tests.plugins.clusters import Database

KEYS = """
CREATE TABLE public.plain (a int, b int, PRIMARY KEY (b, a), UNIQUE (a));
CREATE TABLE public.uniq (a int NOT NULL, b int NOT NULL, c int UNIQUE, UNIQUE (a, b) INCLUDE (c));
CREATE TABLE public.late (a int NOT NULL UNIQUE DEFERRABLE);
CREATE TABLE public.part (a int NOT NULL);
CREATE UNIQUE INDEX ON public.part (a) WHERE a > 0;
CREATE UNIQUE INDEX ON public.part (abs(a));
CREATE TABLE public.none (a int);
CREATE SCHEMA "Odd ""s";
CREATE TABLE "Odd ""s"."t.x" ("K;" text PRIMARY KEY) PARTITION BY LIST ("K;");
"""


@pytest.fixture
def context(database: Database, tmp_path: Path) -> Context:
    config = tmp_path / "peersync.toml"
    conninfo = json.dumps(database.conninfo())
    config.write_text(f"[database.shop]\nconninfo = {conninfo}\n")
    return Context(environ={}, uid=1000, config_path=str(config))


def install(database: Database) -> None:
    async def run() -> None:
        conn = await asyncpg.connect(database.url())
        try:
            await migrate(conn)
        finally:
            await conn.close()

    asyncio.run(run())


@pytest.mark.parametrize("database", [15, 18], indirect=True)
def test_keys_are_those_that_on_conflict_can_name(database: Database, context: Context) -> None:
    database.psql(KEYS)
    install(database)
    assert database_keys(context, "shop") == {
        TableName("public", "plain"): ("b", "a"),
        TableName("public", "uniq"): ("a", "b"),
        TableName('Odd "s', "t.x"): ("K;",),
    }
    for table, columns in database_keys(context, "shop").items():
        names = ", ".join(f'"{c}"' for c in columns)
        database.psql(f"EXPLAIN INSERT INTO {table.sql} DEFAULT VALUES ON CONFLICT ({names}) "
                      "DO NOTHING")  # fmt: skip


def test_uninstall_lists_asks_and_drops(
    database: Database, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    install(database)
    assert main.run(["uninstall", "--dry-run"], context) == 0
    assert "table peersync.migration\n" in capsys.readouterr().out
    assert database.psql("SELECT to_regnamespace('peersync') IS NOT NULL").strip() == "t"

    assert main.run(["uninstall"], context) == 2  # nobody is here to be asked
    assert "--yes" in capsys.readouterr().err
    assert database.psql("SELECT to_regnamespace('peersync') IS NOT NULL").strip() == "t"

    assert main.run(["uninstall", "--yes", "--json"], context) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["dropped"] is True
    assert {"kind": "schema", "name": "peersync"} in answer["objects"]
    assert database.psql("SELECT to_regnamespace('peersync') IS NULL").strip() == "t"

    assert main.run(["uninstall", "--yes", "--json"], context) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] is False
