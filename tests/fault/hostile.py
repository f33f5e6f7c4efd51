"""A source that lies: peersync's own listener and identity, and answers of the test's choice."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from aiohttp import web

from peersync.transport.app import json_response
from peersync.wire.chunks import manifest_digest
from peersync.wire.messages import (
    Baseline,
    Catalogue,
    Chunk,
    ColumnInfo,
    ManifestPage,
    Ok,
    Part,
    TableInfo,
)
from tests.integration.two_nodes import Node, listening, set_up
from tests.plugins.clusters import Database


@dataclass
class Lie:
    """What this source sends. A new one has nothing false in it: `page` and `files` do well."""

    node_id: str
    chunks: list[Chunk] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    digest: str | None = None
    baseline_of: str | None = None
    endless: Callable[[int], Iterable[Chunk]] | None = None
    raw_answer: bytes | None = None

    def add_part(self, text: bytes, *, kind: Any = "data", pieces: int = 1) -> None:
        """A part of `pieces` chunks, as an honest source would send it."""
        number = len(self.parts)
        size = -(-len(text) // pieces)
        for index in range(pieces):
            self.add_chunk(number, index, text[index * size : (index + 1) * size])
        self.parts.append(Part(id=number, kind=kind, done=True, chunks=pieces, raw_bytes=len(text)))

    def add_chunk(self, part: int, index: int, raw: bytes, *, raw_size: int | None = None) -> None:
        data = zstandard.ZstdCompressor(write_checksum=True).compress(raw)
        digest = hashlib.sha256(data).hexdigest()
        self.files[digest] = data
        self.chunks.append(
            Chunk(
                number=len(self.chunks),
                part=part,
                index=index,
                digest=digest,
                size=len(data),
                raw_size=len(raw) if raw_size is None else raw_size,
                codec="zstd",
            )
        )

    def page(self, after: int) -> ManifestPage:
        endless = self.endless
        return ManifestPage(
            generation=1,
            parts=tuple(self.parts),
            chunks=tuple(endless(after) if endless else self.chunks[after:]),
            complete=endless is None,
            digest=self.digest or manifest_digest(self.chunks),
            baseline=Baseline(
                node_id=self.baseline_of or self.node_id,
                snapshot="1:1:",
                taken_at="2026-01-01 00:00:00+00",
            ),
            dumped_bytes=sum(chunk.raw_size for chunk in self.chunks),
        )


NOTES = TableInfo(
    schema="public",
    name="notes",
    columns=(
        ColumnInfo(name="id", type="integer", not_null=True),
        ColumnInfo(name="v", type="integer", not_null=True),
    ),
    key=("id",),
    rows=100,
    size_bytes=8192,
)
CATALOGUE = Catalogue(
    server_version_num=180000,
    server_version="18.0",
    dump_tool="pg_dump 18.0",
    dump_tool_ok=True,
    encoding="UTF8",
    tables=(NOTES,),
    skipped=(),
    sequences=0,
    large_objects=0,
    size_bytes=8192,
)


def dump_of(database: Database, table: str) -> bytes:
    """What the real pg_dump prints of a table's rows."""
    program = database.cluster.bindir / "pg_dump"
    command = [str(program), "--data-only", f"--table={table}", "-d", database.conninfo()]
    return subprocess.run(command, capture_output=True, check=True).stdout


class Liar:
    """The listener; `lie` may be exchanged between sessions."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.lie = Lie(node.identity.node_id)
        self.sent_bytes = 0

    def routes(self) -> list[web.RouteDef]:
        base = "/api/sync/backups/{session}"
        return [
            web.post("/api/sync/describe", self._describe),
            web.post("/api/sync/initiate-backup", self._ok),
            web.post(f"{base}/manifest", self._manifest),
            web.get(f"{base}/chunks/{{digest}}", self._chunk),
            web.post(f"{base}/progress", self._ok),
            web.post(f"{base}/finish", self._ok),
        ]

    async def _describe(self, _request: web.Request) -> web.Response:
        return json_response(CATALOGUE)

    async def _ok(self, request: web.Request) -> web.Response:
        await request.read()
        return json_response(Ok())

    async def _manifest(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if self.lie.raw_answer is not None:
            return web.Response(body=self.lie.raw_answer, content_type="application/json")
        return json_response(self.lie.page(asked["after"] if asked["generation"] else 0))

    async def _chunk(self, request: web.Request) -> web.Response:
        data = self.lie.files[request.match_info["digest"]]
        self.sent_bytes += len(data)
        return web.Response(body=data)


@asynccontextmanager
async def lying(home: Path) -> AsyncIterator[Liar]:
    """A liar that listens and can be paired with."""
    liar = Liar(await asyncio.to_thread(set_up, home, "server-x"))
    async with listening(liar.node, liar.routes()):
        yield liar
