"""Kept digests and a restore: what they have not seen they never tell, however rows came back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peersync.postgres.proof_lists import SQL
from tests.integration.kept_rig import Rig, enrol_all, open_rig
from tests.plugins.clusters import Database, MakeDatabase

TABLE = """
CREATE TABLE public.t (id int PRIMARY KEY, v text);
INSERT INTO public.t SELECT g, 'row ' || g FROM generate_series(1, 700) AS g;
"""
LATER = "UPDATE t SET v = 'later' WHERE id % 7 = 0; DELETE FROM t WHERE id % 7 = 1"
EMPTIED = "DELETE FROM t"
REPLICA = {"PGOPTIONS": "-c session_replication_role=replica"}


@pytest.fixture
def database(make_database: MakeDatabase) -> Database:
    return make_database(18)


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with open_rig(database, TABLE) as made:
        yield made


def dump(database: Database, file: Path) -> None:
    _run(database, "pg_dump", "--format=custom", f"--file={file}", database.conninfo())


def restore(
    database: Database, file: Path, *options: str, env: dict[str, str] | None = None
) -> None:
    _run(database, "pg_restore", *options, f"--dbname={database.conninfo()}", str(file), env=env)


def _run(
    database: Database, program: str, *arguments: str, env: dict[str, str] | None = None
) -> None:
    command = [str(database.cluster.bindir / program), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, done.stderr


ONE_TABLE = {
    "emptied, triggers off": (EMPTIED, ("--data-only", "--disable-triggers", "--table=t"), {}),
    "truncated, as a replica": ("TRUNCATE t", ("--data-only", "--table=t"), REPLICA),
    "emptied, captured": (EMPTIED, ("--data-only", "--table=t"), {}),
    "dropped": ("DROP TABLE t", ("--table=t",), {}),
}


async def test_a_table_that_is_restored_alone_is_read(
    rig: Rig, database: Database, tmp_path: Path
) -> None:
    dump(database, tmp_path / "dump")
    for what, (before, options, env) in ONE_TABLE.items():
        await rig.app.execute(LATER)
        t = await rig.keep("t")
        assert await rig.told(t) is not None, what
        await rig.app.execute(before)
        restore(database, tmp_path / "dump", *options, env=env)
        told = await rig.told(t)  # as the rows are, or nothing
        assert told is None or what == "emptied, captured", what
        await rig.work_off()
        await rig.told(t)


async def test_lists_that_came_with_a_dump_are_not_used(
    rig: Rig, database: Database, make_database: MakeDatabase, tmp_path: Path
) -> None:
    """The lists and the log are as old as the dump, and tell of other numbers of transactions."""
    t = await rig.keep("t")
    dump(database, tmp_path / "dump")
    await rig.app.execute(LATER)
    restore(database, tmp_path / "dump", "--clean", "--if-exists")
    other = make_database(18)
    restore(other, tmp_path / "dump")
    async with open_rig(other, None) as copy:
        for there in (rig, copy):
            assert await there.told(t) is None
            await there.work_off()
            await there.told(t)
            await there.app.execute("UPDATE t SET v = 'meanwhile' WHERE id = 5")
            await there.told(t)
            await enrol_all(there.agent)
            again = await there.keep("t")
            assert await there.told(again) is not None, "it is captured again"


async def test_a_list_of_transactions_that_have_not_begun_is_not_used(rig: Rig) -> None:
    """What is written next would seem to be in it."""
    t = await rig.keep("t")
    await rig.agent.execute("UPDATE peersync.proof_list SET snapshot = '900000000:900000000:'")
    await rig.app.execute(LATER)
    assert await rig.told(t) is None
    async with rig.agent.transaction(isolation="repeatable_read"):
        await rig.agent.execute(SQL["advance_quiet"], [])
    assert await rig.told(t) is None, "nor is it said to be of now"
    await rig.work_off()
    assert await rig.told(t) is not None
