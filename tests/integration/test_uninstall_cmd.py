"""`peersync uninstall` does not pull the schema from under a full sync."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from peersync.cli import main, uninstall_cmd
from peersync.cli.context import Context
from peersync.postgres.conninfo import resolve
from peersync.postgres.locks import Holder, lease
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import Database as Opened
from peersync.postgres.restore import LEASE
from tests.plugins.clusters import Database

assert uninstall_cmd  # its queries are read with it, before a loop runs
JOB = "0123456789abcdef0123456789abcdef"


async def uninstall_during_a_sync(database: Database, context: Context) -> tuple[int, int]:
    """The exit codes of an uninstall while the lease of a full sync is held, and after it."""
    opened = Opened("shop", resolve(database.conninfo()))
    try:
        async with opened.connect("test", what="preparing") as conn:
            await migrate(conn)
        async with lease(opened, LEASE, Holder("server-z", 4711, JOB, "a full sync")):
            during = await asyncio.to_thread(main.run, ["uninstall", "--yes", "--json"], context)
        after = await asyncio.to_thread(main.run, ["uninstall", "--yes", "--quiet"], context)
    finally:
        await opened.close()
    return during, after


def test_an_uninstall_during_a_sync_is_refused_and_names_the_holder(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "peersync.toml"
    config.write_text(f"[database.shop]\nconninfo = {json.dumps(database.conninfo())}\n")
    context = Context(environ={"HOME": str(tmp_path)}, uid=1000, config_path=str(config))
    assert asyncio.run(uninstall_during_a_sync(database, context)) == (6, 0)
    said = capsys.readouterr()
    error = json.loads(said.out.splitlines()[0])["error"]
    assert error["code"] == "locked" and error["exit_code"] == 6
    assert error["data"]["holder"]["node"] == "server-z" and error["data"]["holder"]["pid"] == 4711
    assert f"peersync jobs cancel {JOB}" in said.err
    assert database.psql("SELECT to_regnamespace('peersync') IS NULL").strip() == "t"
