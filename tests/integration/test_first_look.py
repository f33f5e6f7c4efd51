"""A large table is compared in several views, with lists that have a bound: nothing is left out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import msgspec
import pytest

from peersync.agent.proof import first, serve
from peersync.agent.proof.first import look_at_table
from peersync.agent.proof.remote import Remote
from peersync.postgres import digest
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

    async def lines(self, **given: Any) -> AsyncGenerator[Line, None]:
        asked = msgspec.structs.replace(self._question, **given)
        self.views += given["what"] == "blocks"
        ended = False
        async for line in serve._lines(self._conn, asked, self._shape):
            told = decode_line(encode_line(line))
            ended = isinstance(told, End)
            yield told
        assert ended, "an answer has its end"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound is so small that a small table meets it."""
    monkeypatch.setattr(serve, "VIEW_S", 0.0)
    monkeypatch.setattr(digest, "BATCH", 8)
    monkeypatch.setattr(digest, "JOINED_ROWS", 200)
    monkeypatch.setattr(first, "_RANGES", 3)
    monkeypatch.setattr(first, "_WIDE_RANGE", 150)
    monkeypatch.setattr(first, "_CUT_BLOCKS", 2)
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
