"""A backup that rested is taken up again: what its peer says of the attempt before counts no more.

Reports travel for long and come twice, and people look at any moment.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.services import Services, Spawn
from peersync.agent.workers import Workers
from peersync.config.model import Config, Node
from peersync.config.model import Database as DatabaseConfig
from peersync.core.progress import Progress
from peersync.postgres.history import Entry, History
from peersync.postgres.sqlfiles import queries, query_modules
from peersync.transport.peers import Peer, PeerBook
from peersync.wire.messages import BackupRequest, FinishRequest, ProgressReport, TableRef
from peersync.wire.spool import Budget
from tests.plugins.clusters import MakeDatabase
from tests.plugins.waiting import LIMIT_S

SESSION = "0123456789abcdef" * 2
PEER = Peer(name="server-b", node_id="b" * 64, cert_pem="", address=None, added_at="")
REQUEST = BackupRequest(
    session=SESSION, database="shop", tables=(TableRef(schema="public", name="t"),), method="http"
)


def told(state: str, *, resumed: int) -> Progress:
    return Progress(
        session=SESSION, action="pull", database="shop", source="server-a", target="server-b",
        state=state, resumed=resumed,
    )  # fmt: skip


def report(state: str, *, resumed: int) -> ProgressReport:
    return ProgressReport(progress=told(state, resumed=resumed))


async def initiate(backups: Backups, seen: set[str]) -> None:
    """Takes it up, while somebody looks at every turn of the loop."""
    asked = asyncio.create_task(backups.initiate(PEER, REQUEST), name="initiate")
    while not asked.done():
        progress = backups.progress(SESSION)
        seen.add(progress.state if progress else "nothing")
        await asyncio.sleep(0)
    await asked


@pytest.fixture
def book(tmp_path: Path) -> PeerBook:
    for module in query_modules():
        queries(module)  # as a node does at its start: its loop waits for no file
    return PeerBook(tmp_path / "peers.json", "a" * 64)


async def test_a_late_report_of_an_ended_attempt_changes_nothing(
    make_database: MakeDatabase, tmp_path: Path, book: PeerBook
) -> None:
    database = make_database(18, migrated=True)
    database.psql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    shop = DatabaseConfig(conninfo=database.conninfo())
    config = Config(node=Node(name="server-a"), database={"shop": shop})
    databases, workers = Databases(config, {}), Workers(pumps=4)
    history = History(databases.get("shop"))

    async def entry() -> Entry:
        found = await history.get(SESSION)
        assert found is not None
        return found

    try:
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            services = Services(
                config, {}, "a" * 64, databases, book, cast("Any", None), workers,
                cast("Spawn", group.create_task),
            )  # fmt: skip
            backups = Backups(services, tmp_path / "given", Budget(tmp_path / "given", 0))
            await backups.initiate(PEER, REQUEST)
            await backups.report(PEER, SESSION, report("running", resumed=0))
            assert backups.progress(SESSION) is not None
            await backups.report(PEER, SESSION, report("failed", resumed=0))
            ended = (await entry()).completed_at
            assert (await entry()).state == "failed"
            assert backups.progress(SESSION) is None

            await backups.report(PEER, SESSION, report("failed", resumed=0))  # told twice
            await backups.report(PEER, SESSION, report("running", resumed=0))  # late
            assert backups.progress(SESSION) is None
            assert ((await entry()).state, (await entry()).completed_at) == ("failed", ended)

            seen: set[str] = set()
            await initiate(backups, seen)
            assert seen == {"nothing"}
            assert backups.ring(SESSION) is not None
            assert (await entry()).completed_at is None
            await backups.report(PEER, SESSION, report("failed", resumed=0))  # later still
            assert backups.progress(SESSION) is None
            assert (await entry()).completed_at is None

            await backups.report(PEER, SESSION, report("running", resumed=1))
            progress = backups.progress(SESSION)
            assert progress is not None
            assert (progress.state, progress.resumed) == ("running", 1)
            end = FinishRequest(state="done", progress=told("done", resumed=1))
            await backups.finish(PEER, SESSION, end)
            assert (await entry()).state == "done"
            assert SESSION not in backups
    finally:
        workers.close()
        await databases.close()
