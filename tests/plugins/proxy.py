"""A TCP proxy that does to a connection what networks do: cut, reset, swallow, delay, flip.

Stands between two agents, or an agent and PostgreSQL; runs in a thread of the test, with
its own event loop. What it shall do is set from the test at any moment, and holds for the
bytes that come after. "Down" is server to client: what a target receives from its source.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_PIECE = 16 * 1024
_TICK_S = 0.005


class Proxy:
    """`with Proxy(HOST, PORT) as proxy`, or `open()`; `address` is where it listens.

    Counts `down_bytes` and `up_bytes`; all limits are on bytes that go down:
    `reset_every`: each connection is reset after so many; `hole_after`: nothing of any
    connection passes, either way, once so many have passed in all; `bytes_s`: the rate of
    all together; `flip_at`: the byte with this number is changed, once.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(64)
        self.port: int = self._listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[_Connection] = set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self.heal()
        self.down_bytes = self.up_bytes = self.accepted = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def heal(self) -> None:
        """From now on everything passes."""
        self.reset_every: int | None = None
        self.hole_after: int | None = None
        self.bytes_s: float | None = None
        self.delay_s = 0.0
        self.flip_at: int | None = None
        self._refusing = False

    def cut(self) -> None:
        """Resets every open connection."""
        self._call(self._cut)

    def refuse(self) -> None:
        """The peer is gone: connections are reset, new ones too, until `heal`."""
        self._refusing = True
        self.cut()

    # --- the inside ---------------------------------------------------------------------
    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    def _call(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(5)

    def __enter__(self) -> Self:
        self._thread.start()
        future = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, sock=self._listening), self._loop
        )
        self._server = future.result(5)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:
            task.cancel()
        self._cut()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            if self._refusing:
                connection.reset()
            else:
                await connection.run(*self._upstream)
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def pass_down(self, data: bytes) -> bytes:
        """What of `data` may go on, when it may; counts it."""
        while self._swallowing():
            await asyncio.sleep(_TICK_S)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.flip_at is not None and self.flip_at < self.down_bytes + len(data):
            at = max(self.flip_at - self.down_bytes, 0)
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            self.flip_at = None
        self.down_bytes += len(data)
        if self.bytes_s:
            await asyncio.sleep(len(data) / self.bytes_s)
        return data

    async def pass_up(self, data: bytes) -> bytes:
        while self._swallowing():
            await asyncio.sleep(_TICK_S)
        self.up_bytes += len(data)
        return data

    def _swallowing(self) -> bool:
        return self.hole_after is not None and self.down_bytes >= self.hole_after


class _Connection:
    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._down = 0

    async def run(self, host: str, port: int) -> None:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            return
        self._writers.append(writer)
        ways = [self._up(self._reader, writer), self._pump_down(reader, self._writers[0])]
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            writer.write(await self._proxy.pass_up(data))
            await writer.drain()

    async def _pump_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            writer.write(await self._proxy.pass_down(data))
            await writer.drain()
            self._down += len(data)
            limit = self._proxy.reset_every
            if limit is not None and self._down >= limit:
                return

    def reset(self) -> None:
        """RST, not FIN: the other end sees an error."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
