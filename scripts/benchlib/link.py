"""A link between two programs, as slow and as far as it is told, that can be cut.

A TCP proxy in a thread of its own, with its own event loop. Each direction is one lane that
all connections share: what goes in is serialized at `bytes_s`, and comes out `one_way_s`
later. A new connection waits one round trip before its first byte, as a handshake does.
Between the two ends lies little memory (BUFFER_BYTES a socket, QUEUE_S of a lane), so a
sender feels the link's speed. It refuses to be more: no loss, no slow start, and the rate is
that of payload, without the headers of TCP and IP.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PIECE_BYTES = 16 * 1024
BUFFER_BYTES = 128 * 1024
QUEUE_S = 0.05  # what a lane takes in before its time to send comes
_PIECES = 256
_START_S = 10.0


@dataclass(frozen=True)
class Shape:
    """`bytes_s` each way, None is as fast as it goes; `one_way_s` is half of the round trip."""

    bytes_s: float | None = None
    one_way_s: float = 0.0


WAN = Shape(bytes_s=20_000_000 / 8, one_way_s=0.030)


class Link:
    """`with Link(PORT, shape) as link`: 127.0.0.1:`link.port` leads to 127.0.0.1:PORT.

    "Down" is from the upstream program to the one that connected. Counts what came out.
    """

    def __init__(self, upstream_port: int, shape: Shape | None = None) -> None:
        self.upstream_port = upstream_port
        self.shape = shape or Shape()
        self.down, self.up = _Lane(self), _Lane(self)
        self.cut_now = False
        self._listening = _small(socket.socket())
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(64)
        self.port: int = self._listening.getsockname()[1]
        self._connections: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready, self._stop, self._idle = threading.Event(), asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def bytes_passed(self) -> int:
        """Both ways."""
        return self.down.bytes_passed + self.up.bytes_passed

    def cut(self) -> None:
        """Reset every connection, and new ones too, until `heal`."""
        self.cut_now = True
        self._call(self._reset_all)

    def heal(self) -> None:
        self.cut_now = False

    def close(self) -> None:
        if self._thread.is_alive():
            self._call(self._stop.set)
            self._thread.join()
        self._listening.close()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START_S):
            raise TimeoutError("the link did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- in the link's thread ---
    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, sock=self._listening)
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._reset_all()
        if self._connections:
            await self._idle.wait()

    def _call(self, what: Callable[[], object]) -> None:
        assert self._loop is not None, "the link is not open"
        self._loop.call_soon_threadsafe(what)

    def _reset_all(self) -> None:
        for connection in self._connections:
            connection.broken.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        self._idle.clear()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._idle.set()


class _Lane:
    """One direction: when what goes in comes out, and how much did."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free_at = 0.0
        self.bytes_passed = 0

    async def admit(self, size_bytes: int) -> float:
        """Wait for a place; the loop's time at which so many bytes come out."""
        loop = asyncio.get_running_loop()
        early = self._free_at - QUEUE_S - loop.time()
        while early > 0:
            await asyncio.sleep(early)  # another connection may have been first
            early = self._free_at - QUEUE_S - loop.time()
        rate = self._link.shape.bytes_s
        self._free_at = max(loop.time(), self._free_at)
        self._free_at += size_bytes / rate if rate else 0.0
        return self._free_at + self._link.shape.one_way_s


class _Broken(Exception):
    """The connection shall be reset."""


class _Connection:
    def __init__(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._link, self._reader = link, reader
        self._writers = [writer]
        self.broken = asyncio.Event()

    async def run(self) -> None:
        try:
            await self._pass_on()
        except* (_Broken, OSError):
            self._reset()
        finally:
            for writer in self._writers:
                writer.close()

    async def _pass_on(self) -> None:
        if self._link.cut_now:
            raise _Broken
        upstream = _small(socket.socket())
        upstream.setblocking(False)
        try:
            there = "127.0.0.1", self._link.upstream_port
            await asyncio.get_running_loop().sock_connect(upstream, there)
        except OSError:
            upstream.close()
            raise
        reader, writer = await asyncio.open_connection(sock=upstream)
        self._writers.append(writer)
        await asyncio.sleep(2 * self._link.shape.one_way_s)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch())
            async with asyncio.TaskGroup() as ways:
                self._way(ways, self._reader, self._link.up, writer)
                self._way(ways, reader, self._link.down, self._writers[0])
            watch.cancel()

    def _way(
        self,
        group: asyncio.TaskGroup,
        reader: asyncio.StreamReader,
        lane: _Lane,
        writer: asyncio.StreamWriter,
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)
        group.create_task(_take_in(reader, lane, under_way))
        group.create_task(_give_out(under_way, lane, writer))

    async def _watch(self) -> None:
        await self.broken.wait()
        raise _Broken

    def _reset(self) -> None:
        """RST, not FIN: the other end sees an error."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


async def _take_in(
    reader: asyncio.StreamReader, lane: _Lane, under_way: asyncio.Queue[tuple[float, bytes]]
) -> None:
    while data := await reader.read(PIECE_BYTES):
        await under_way.put((await lane.admit(len(data)), data))
    await under_way.put((await lane.admit(0), b""))


async def _give_out(
    under_way: asyncio.Queue[tuple[float, bytes]], lane: _Lane, writer: asyncio.StreamWriter
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        at, data = await under_way.get()
        if (early := at - loop.time()) > 0:
            await asyncio.sleep(early)
        if not data:
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()
        lane.bytes_passed += len(data)


def _small(sock: socket.socket) -> socket.socket:
    """Little memory in the kernel: what it holds has been sent, but has not arrived."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return sock
