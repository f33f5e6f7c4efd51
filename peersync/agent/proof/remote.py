"""A peer's side of one table: its blocks, its rows, asked for over the network.

Every answer is checked to be whole. What the peer's database refused comes out as the error that
it was, so that one table that can't be read does not end a verification.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from peersync.core.errors import PeerFailed, PeerUnreachable, ProtocolError, error_class
from peersync.postgres.digest import Block, Key, Range, RowHash, Shape
from peersync.postgres.digestform import Bounds
from peersync.postgres.keylook import Fields, Looked, add_looked
from peersync.postgres.rangetotals import Cuts, Total
from peersync.transport.client import PeerClient
from peersync.wire import digests
from peersync.wire.digests import (
    MAX_KEYS,
    MAX_LINE_BYTES,
    PATH,
    Blocks,
    Broken,
    DigestRequest,
    End,
    Keys,
    Line,
    Probe,
    Rows,
    Totals,
    Values,
    cut,
    decode_line,
    from_hexadecimal,
    key_size,
)
from peersync.wire.messages import TableRef

READ_S: Final = 60.0  # an empty line comes every 10 s


async def read_probe(client: PeerClient, database: str) -> str:
    """How the peer's server hashes."""
    remote = Remote(client, DigestRequest(database=database, what="probe"))
    async with aclosing(remote.lines()) as lines:
        async for line in lines:
            if isinstance(line, Probe):
                return line.text
    raise ProtocolError(f"{client.peer.name} did not say how it hashes")


def of_shape(
    client: PeerClient, database: str, shape: Shape, types: tuple[str, ...], *, only: bool
) -> Remote:
    """The same table at the peer; `shape` is this side's, `types` and `only` are the peer's."""
    table = TableRef(schema=shape.table.schema, name=shape.table.name)
    return Remote(
        client,
        DigestRequest(
            database=database,
            what="blocks",
            table=table,
            columns=shape.columns,
            types=types,
            key=shape.key,
            as_text=tuple(sorted(shape.as_text)),
            numbers=tuple(sorted(shape.numbers)),
            only=only,
            wide=shape.wide,
            portable=shape.portable,
        ),
    )


class Remote:
    """One table at the peer. `next`: where the blocks go on, once a list of them has ended."""

    def __init__(self, client: PeerClient, asked: DigestRequest) -> None:
        self._client = client
        self._asked = asked
        self.next: Key | None = None
        self.kept_at: str | None = None

    @property
    def peer(self) -> str:
        return self._client.peer.name

    async def coarsely(
        self, ranges: Sequence[Bounds] | None = None
    ) -> AsyncGenerator[Cuts | Total, None]:
        """Totals of the ranges; without any, the cuts, and what is told with them."""
        given: dict[str, Any] = {"what": "cuts"}
        if ranges is not None:
            given = {"what": "totals", "ranges": tuple(ranges)}
        async with aclosing(self.lines(**given)) as lines:
            async for line in lines:
                if isinstance(line, Totals):
                    yield Total(line.rows, line.digest)
                elif isinstance(line, digests.Cuts):
                    yield Cuts(line.bounds, line.ordered, line.large, line.brief)

    async def kept_total(self) -> tuple[int, int] | None:
        """Rows and digest of the whole table as the peer knows them; None: it does not."""
        self.kept_at, found = None, None
        async with aclosing(self.lines(what="kept total")) as lines:
            async for line in lines:
                if isinstance(line, Totals):
                    found = line.rows, from_hexadecimal(line.digest)
                elif isinstance(line, End):
                    self.kept_at = line.kept
        return found

    async def kept(self) -> AsyncGenerator[list[Block], None]:
        """The blocks that the peer knows without reading its rows; none where it keeps none."""
        self.kept_at = None
        async with aclosing(self.lines(what="kept")) as lines:
            async for line in lines:
                if isinstance(line, Blocks):
                    told = zip(line.lows, line.rows, line.digests, strict=True)
                    yield [Block(low, rows, from_hexadecimal(d)) for low, rows, d in told]
                elif isinstance(line, End):
                    self.kept_at = line.kept

    async def blocks(
        self, lower: Key | None, upper: Key | None = None
    ) -> AsyncGenerator[list[Block], None]:
        self.next = None
        async with aclosing(self.lines(what="blocks", lower=lower, upper=upper)) as lines:
            async for line in lines:
                if isinstance(line, Blocks):
                    told = zip(line.lows, line.rows, line.digests, strict=True)
                    yield [Block(low, rows, from_hexadecimal(d)) for low, rows, d in told]
                elif isinstance(line, End):
                    self.next = line.next

    async def rows(self, ranges: Sequence[Range]) -> AsyncGenerator[list[RowHash], None]:
        wanted = tuple((one.low, one.high) for one in ranges)
        for part in cut(key_size(low) + key_size(high) for low, high in wanted):
            at = part.start
            async with aclosing(self.lines(what="rows", ranges=wanted[part])) as lines:
                async for line in lines:
                    if isinstance(line, Rows) and len(line.places) == len(line.keys):
                        told = zip(line.keys, line.digests, line.copies, line.places, strict=True)
                        yield [RowHash(k, from_hexadecimal(d), n, at + p) for k, d, n, p in told]

    async def look(self, keys: Sequence[Key]) -> dict[Key, Looked]:
        found: dict[Key, Looked] = {}
        for part in cut(map(key_size, keys)):
            async with aclosing(self.lines(what="keys", keys=tuple(keys[part]))) as lines:
                async for line in lines:
                    if isinstance(line, Rows) and len(line.versions) == len(line.keys):
                        told = zip(line.keys, line.digests, line.copies, line.versions, strict=True)
                        for k, d, n, v in told:
                            add_looked(found, k, Looked(from_hexadecimal(d), n, v))
        return found

    async def kept_back(self, keys: Sequence[Key]) -> set[Key]:
        """Those whose rows the peer has changed and gives to nobody."""
        found: set[Key] = set()
        if not self._asked.key:
            return found
        for part in cut(map(key_size, keys)):
            for start in range(part.start, part.stop, MAX_KEYS):
                some = tuple(keys[start : min(start + MAX_KEYS, part.stop)])
                async with aclosing(self.lines(what="kept back", keys=some)) as lines:
                    async for line in lines:
                        if isinstance(line, Keys):
                            found.update(line.keys)
        return found

    async def fields(self, keys: Sequence[Key]) -> dict[Key, Fields]:
        found: dict[Key, Fields] = {}
        for part in cut(map(key_size, keys)):
            async with aclosing(self.lines(what="values", keys=tuple(keys[part]))) as lines:
                async for line in lines:
                    if isinstance(line, Values):
                        told = zip(line.keys, line.digests, line.texts, strict=True)
                        found |= {key: Fields(digests, texts) for key, digests, texts in told}
        return found

    async def lines(self, **given: Any) -> AsyncGenerator[Line, None]:
        """The lines of an answer with its End. Raises what the peer's database refused."""
        asked = msgspec.structs.replace(self._asked, **given)
        name, ended = self._client.peer.name, False
        async with self._client.open_stream(
            PATH, method="POST", body=asked, read_timeout_s=READ_S
        ) as stream:
            waiting = bytearray()
            async for piece in stream:
                waiting += piece
                whole: list[bytearray] = []
                if b"\n" in piece:
                    *whole, waiting = waiting.split(b"\n")
                if len(waiting) > MAX_LINE_BYTES:
                    raise PeerFailed(f"{name} sent a line that is too long")  # of this table
                for data in filter(None, whole):
                    line = decode_line(bytes(data))
                    if isinstance(line, Broken):
                        raise _refused(line, name)
                    ended = isinstance(line, End)
                    yield line
        if not ended:
            raise PeerUnreachable(f"{name} ended its answer too soon")


def _refused(line: Broken, name: str) -> Exception:
    kind = error_class(line.code)
    kind = kind if kind.code == line.code else PeerFailed
    return kind(f"{name}: {line.message}", hint=line.hint, peer_retryable=line.retryable)
