"""Running servers and fresh databases for the tests.

A worker of pytest-xdist has servers of its own, started when a test first asks and ended
with the session. Databases are made from templates inside a server, one per test. Which
pairs of majors are tested is said by `PEERSYNC_PAIRS`: "15-18,18-18" (the default) or "all".
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import pgcluster
import pytest
from pgcluster import Cluster

from peersync.postgres import pool
from peersync.postgres.conninfo import resolve
from peersync.postgres.migrate import migrate
from tests.plugins import least

MAJORS = (15, 17, 18)
DEFAULT_MAJOR = 18
DEFAULT_PAIRS = "15-18,18-18"


class Majors(NamedTuple):
    """One direction between two servers."""

    source: int
    target: int


@dataclass(frozen=True)
class Database:
    """A database of a test; `user` is whom its connections log in as."""

    cluster: Cluster
    name: str
    user: str = pgcluster.SUPERUSER

    @property
    def major(self) -> int:
        return self.cluster.major

    def conninfo(self, *, host: pgcluster.Host = "socket", user: str | None = None) -> str:
        """Keywords for psycopg and libpq."""
        return self.cluster.conninfo(self.name, user=user or self.user, host=host)

    def url(self, *, host: pgcluster.Host = "socket", user: str | None = None) -> str:
        """An address for asyncpg."""
        return self.cluster.url(self.name, user=user or self.user, host=host)

    def psql(self, sql: str, *, user: str | None = None) -> str:
        return self.cluster.psql(sql, self.name, user=user or self.user)


class Pair(NamedTuple):
    """Two empty databases on two servers, also when the majors are the same."""

    source: Database
    target: Database


class GetCluster(Protocol):
    def __call__(self, major: int, nth: int = 0) -> Cluster:
        """The running server of this major; `nth` tells several of one major apart."""


class MakeDatabase(Protocol):
    def __call__(
        self,
        major: int = DEFAULT_MAJOR,
        *,
        template: str | None = None,
        owner: str | None = None,
        nth: int = 0,
        migrated: bool = False,
    ) -> Database:
        """A database that is dropped after the test; see the fixture `make_database`."""


def pairs() -> list[Majors]:
    """What PEERSYNC_PAIRS asks for, in its order."""
    asked = os.environ.get("PEERSYNC_PAIRS", DEFAULT_PAIRS)
    if asked == "all":
        return [Majors(*both) for both in itertools.product(MAJORS, repeat=2)]
    return [Majors(*map(int, pair.strip().split("-"))) for pair in asked.split(",")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "majors" in metafunc.fixturenames:
        both = pairs()
        metafunc.parametrize("majors", both, ids=[f"{m.source}-{m.target}" for m in both])


@pytest.fixture(scope="session")
def clusters() -> Iterator[GetCluster]:
    """Servers by major, started when first asked for; a missing major is a skip."""
    running: dict[tuple[int, int], Cluster] = {}

    def get(major: int, nth: int = 0) -> Cluster:
        if major not in pgcluster.find_installations():
            pytest.skip(f"no PostgreSQL {major} server programs here")
        if (major, nth) not in running:
            running[major, nth] = Cluster(major)
        running[major, nth].start()  # again, when a test has ended it
        return running[major, nth]

    yield get
    for cluster in running.values():
        cluster.close()


@pytest.fixture
def make_database(clusters: GetCluster) -> Iterator[MakeDatabase]:
    """A factory of databases, dropped after the test with all their sessions.

    `template` is a database of the same server. `owner` is a role without superuser, made
    when it is not there; it is then the database's user. `migrated`: schema peersync is in it,
    for tests that would only make it first: that costs three times what a copy of it does.
    """
    made: list[Database] = []

    def make(
        major: int = DEFAULT_MAJOR,
        *,
        template: str | None = None,
        owner: str | None = None,
        nth: int = 0,
        migrated: bool = False,
    ) -> Database:
        cluster = clusters(major, nth)
        if migrated and not least.ASKED:  # there, the role of the node has to own the schema
            template = _migrated(cluster)
        if owner:
            cluster.createrole(owner)
        database = Database(cluster, f"test_{next(_numbers)}", owner or pgcluster.SUPERUSER)
        cluster.createdb(database.name, template=template, owner=owner)
        made.append(database)
        return database

    yield make
    for database in made:
        database.cluster.start()
        database.cluster.dropdb(database.name)


_numbers = itertools.count(1)


def _migrated(cluster: Cluster) -> str:
    """The database of this server that has schema peersync and nothing else."""
    with _making:
        if cluster.root not in _made:
            cluster.createdb(_TEMPLATE)
            url = cluster.conninfo(_TEMPLATE)
            # a fixture may ask for it with a loop running in its thread
            maker = threading.Thread(target=lambda: asyncio.run(_migrate(url)), name="migrate")
            maker.start()
            maker.join()
            _made.add(cluster.root)
    return _TEMPLATE


async def _migrate(conninfo: str) -> None:
    database = pool.Database(_TEMPLATE, resolve(conninfo))
    async with database.connect("init", what="preparing the template of tests") as conn:
        await migrate(conn)


_TEMPLATE = "migrated"
_made: set[Path] = set()
_making = threading.Lock()


@pytest.fixture
def database(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Database:
    """A database; `parametrize("database", [15, 18], indirect=True)` chooses majors.

    It is empty, but for schema peersync where the test has a session of ours to it.
    """
    major = getattr(request, "param", DEFAULT_MAJOR)
    ours = {"agent", "open_log"} & set(request.fixturenames)
    return make_database(major, migrated=bool(ours))


@pytest.fixture
def source_target(
    request: pytest.FixtureRequest, majors: Majors, make_database: MakeDatabase
) -> Pair:
    """Two databases on two servers, once for each pair of `PEERSYNC_PAIRS`.

    They are empty, but for schema peersync where the test has nodes on them.
    """
    migrated = "two_nodes" in request.fixturenames
    nth = 1 if majors.source == majors.target else 0
    source = make_database(majors.source, migrated=migrated)
    return Pair(source, make_database(majors.target, nth=nth, migrated=migrated))
