"""Facts that notifications read from a real database: a log that is kept for somebody away."""

from __future__ import annotations

import asyncio

from peersync.agent.databases import Databases
from peersync.agent.notify.sources import kept_logs
from peersync.config.model import Config, Database, Periodic
from peersync.postgres.log.members import add_member
from peersync.postgres.log.publish import publish
from tests.integration.log_rig import make_log, open_connection
from tests.plugins import clusters


async def test_a_log_that_is_kept_for_longer_than_wanted_is_found_and_for_whom(
    database: clusters.Database,
) -> None:
    conn = await open_connection(database.url())
    tables = {
        "shop": Database(conninfo=database.conninfo()),
        "gone": Database(conninfo="host=/nonexistent"),
    }
    patient = Config(database=tables)
    impatient = Config(database=tables, periodic=Periodic(retention_d=1e-6))
    databases = Databases(patient, {})
    try:
        assert await kept_logs(databases, impatient) == {}  # no member of anything
        await make_log(conn)
        await add_member(conn, 77, "b" * 32, "beta")
        await conn.execute("INSERT INTO acc SELECT i, 0 FROM generate_series(1, 10) i")
        await publish(conn)
        await asyncio.sleep(0.2)
        assert await kept_logs(databases, patient) == {}
        found = await kept_logs(databases, impatient)
    finally:
        await databases.close()
        await conn.close()
    words, fix = found["shop"]
    assert "kept for beta" in words
    assert fix is not None and "start beta again" in fix
    assert list(found) == ["shop"]
