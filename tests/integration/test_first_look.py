"""A large table is compared in several views, with lists that have a bound: nothing is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import asyncpg
import msgspec
import pytest

from peersync.agent.proof import first, serve
from peersync.agent.proof.first import look_at_table
from peersync.agent.proof.remote import Remote
from peersync.postgres import digest, rangetotals
from peersync.postgres.digest import Shape
from peersync.postgres.keyorder import read_order
from peersync.wire.digests import DigestRequest, End, Line, decode_line, encode_line
from tests.integration.digest_rig import pinned, shape_of
from tests.plugins.clusters import MakeDatabase


class Near(Remote):
    """The peer's own answers, line by line, without a network between."""

    def __init__(self, conn: asyncpg.Connection, shape: Shape) -> None:
        self._conn = conn
        self._shape = shape
        self._question = DigestRequest(database="shop", what="blocks")
        self.next = None
        self.views = 0
        self.asked: list[dict[str, Any]] = []
        self._answer: asyncio.Task[list[Line]] | None = None

    async def lines(self, **given: Any) -> AsyncGenerator[Line, None]:
        asked = msgspec.structs.replace(self._question, **given)
        self.asked.append(given)
        self.views += given["what"] == "blocks"
        if self._answer is not None:  # nobody may have waited for its end
            await self._answer
        self._answer = asyncio.create_task(self._told(asked), name="answer")
        for line in await asyncio.shield(self._answer):
            yield line

    async def _told(self, asked: DigestRequest) -> list[Line]:
        lines = serve._lines(self._conn, asked, self._shape)
        told = [decode_line(encode_line(line)) async for line in lines]
        assert isinstance(told[-1], End), "an answer has its end"
        return told


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound is so small that a small table meets it."""
    monkeypatch.setattr(serve, "VIEW_S", 0.0)
    monkeypatch.setattr(digest, "BATCH", 8)
    monkeypatch.setattr(digest, "JOINED_ROWS", 200)
    monkeypatch.setattr(first, "_RANGES", 3)
    monkeypatch.setattr(first, "_WIDE_RANGE", 150)
    monkeypatch.setattr(first, "_CUT_BLOCKS", 2)
    monkeypatch.setattr(rangetotals, "SMALL_BYTES", 0)
    monkeypatch.setattr(rangetotals, "BRIEF_BYTES", 100_000)
    monkeypatch.setattr(rangetotals, "_RANGE_ROWS", 500)
    monkeypatch.setattr(first, "KEPT_KEYS", 40)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("key", "column"), [("int", "g"), ("uuid", "md5(g::text)::uuid"), ("text", "'B-' || g")]
)
async def test_all_rows_are_met_once_whatever_is_cut(
    make_database: MakeDatabase, key: str, column: str
) -> None:
    there_db, here_db = make_database(18), make_database(15)
    for database in (there_db, here_db):
        database.psql(
            f"CREATE TABLE t (k {key} PRIMARY KEY, n int);"
            f"INSERT INTO t SELECT {column}, g FROM generate_series(1, 5000) g"
        )
    here_db.psql("UPDATE t SET n = -n WHERE n % 97 = 0; DELETE FROM t WHERE n % 501 = 0")
    here_db.psql(f"INSERT INTO t SELECT {column}, g FROM generate_series(9001, 10000) g")
    there_db.psql("DELETE FROM t WHERE n BETWEEN 2000 AND 2999")
    async with pinned(there_db) as there, pinned(here_db) as here:
        shape = await shape_of(there, "t")
        remote = Near(there, shape)
        seen: list[int] = []
        look = await look_at_table(here, remote, shape, seen.append)
        sums = (look.rows_there, look.rows_here, look.missing, look.extra, look.different)
        changed = {n for n in range(1, 5001) if n % 97 == 0}
        gone = {n for n in range(1, 5001) if n % 501 == 0}
        cleared = set(range(2000, 3000))
        assert sums == (
            4000, 5991, len(gone - cleared), 1000 + 1000 - len(gone & cleared),
            len(changed - cleared - gone),
        )  # fmt: skip
        assert (len(look.kept), look.more) == (40, True)
        in_views = (await read_order(there, shape)).indexed  # else each view is a sort
        assert (remote.views > 1) == in_views
        assert seen == sorted(seen)
        assert seen[-1] == 4000
        # the other way round: the peer has what is only here
        other = await look_at_table(there, Near(here, shape), shape, seen.append)
        assert (other.missing, other.extra, other.different) == (look.extra, look.missing, sums[4])


@pytest.mark.usefixtures("small")
async def test_only_ranges_that_differ_are_cut_into_blocks(make_database: MakeDatabase) -> None:
    there_db, here_db = make_database(18), make_database(15)
    for database in (there_db, here_db):
        database.psql(
            "CREATE TABLE t (k bigint, part int, n int, PRIMARY KEY (k, part));"
            "INSERT INTO t SELECT g / 3, g % 3, g FROM generate_series(1, 9000) g;"
            "CREATE TABLE bag (a int, b text);"
            "INSERT INTO bag SELECT g % 100, g % 7 FROM generate_series(1, 9000) g"
        )
    async with pinned(there_db) as there, pinned(here_db) as here:
        shape = await shape_of(there, "t")
        for wide in (False, True):
            remote = Near(there, replace(shape, wide=wide))
            look = await look_at_table(here, remote, replace(shape, wide=wide), lambda _: None)
            assert (look.rows_there, look.rows_here, look.differing) == (9000, 9000, 0)
            assert remote.views == 0, "nothing was cut into blocks"
            assert (
                sum(len(asked["ranges"]) > 10 for asked in remote.asked if "ranges" in asked) == 1
            )
        even = replace(shape, where="n % 2 = 0 -- even")
        remote = Near(there, even)
        look = await look_at_table(here, remote, even, lambda _: None)
        assert (look.rows_there, look.differing, remote.views) == (4500, 0, 0)
        here_db.psql("DELETE FROM t WHERE n > 8990; INSERT INTO t VALUES (3000, -7, 0)")
        there_db.psql("UPDATE t SET n = 0 WHERE n = 4500")
        remote = Near(there, shape)
        look = await look_at_table(here, remote, shape, lambda _: None)
        assert (look.missing, look.extra, look.different) == (10, 1, 1)
        assert (look.rows_there, look.rows_here) == (9000, 8991)
        lows = [asked["lower"] for asked in remote.asked if asked["what"] == "blocks"]
        assert None not in lows, "the first ranges are the same"
        bag = await shape_of(there, "bag")
        remote = Near(there, bag)
        look = await look_at_table(here, remote, bag, lambda _: None)
        assert (look.rows_there, look.differing, remote.views) == (9000, 0, 0)
        # a row in place of the copy of another: as many rows, and their xor is the same
        there_db.psql("INSERT INTO bag VALUES (200, 'x'), (200, 'x')")
        here_db.psql("INSERT INTO bag VALUES (201, 'x'), (201, 'x')")
        look = await look_at_table(here, Near(there, bag), bag, lambda _: None)
        assert (look.missing, look.extra) == (2, 2)
