"""One request over a Unix socket, in plain asyncio: for commands, which have to start quickly.

To load an HTTP library takes longer than most questions that a command has for its agent. The only
server that is ever asked is the agent of this node, so nothing is here that it does not do: a
connection for each request, bodies of a told length or in chunks, no redirects, no compression.
An answer that ends before its end is an error, never a short one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

_PIECE: Final = 256 * 1024
_HEAD: Final = 64 * 1024  # bytes of an answer's first lines, at most


class NotConnected(Exception):
    """Nobody took the call; the cause is the OSError or TimeoutError."""


class BrokenAnswer(Exception):
    """The connection ended too soon, or what came is no HTTP."""


class Answer:
    """`status` and `content_type` are known; the body is read once, by `pieces` or `read`."""

    def __init__(
        self, reader: asyncio.StreamReader, status: int, headers: Mapping[str, str], read_s: float
    ) -> None:
        self.status = status
        self.content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        self._reader = reader
        self._read_s = read_s
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(headers["content-length"])

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises BrokenAnswer, and TimeoutError where nothing comes."""
        while not self._chunked and self._left:
            yield await self._some()
        while self._chunked and (size := await self._chunk_size()):
            self._left = size
            while self._left:
                yield await self._some()
            await self._line()

    async def read(self, most: int | None = None) -> bytes:
        """All of the body, or no less than its first `most` bytes."""
        body = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                body += piece
                if most is not None and len(body) >= most:
                    break
        return bytes(body)

    async def _some(self) -> bytes:
        async with asyncio.timeout(self._read_s):
            data = await self._reader.read(min(self._left, _PIECE))
        if not data:
            raise BrokenAnswer("it ended in the middle of an answer")
        self._left -= len(data)
        return data

    async def _chunk_size(self) -> int:
        line = await self._line()
        try:
            return int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise BrokenAnswer("what came is no HTTP") from error

    async def _line(self) -> bytes:
        async with asyncio.timeout(self._read_s):
            return await _until(self._reader, b"\r\n")


@asynccontextmanager
async def request(
    path: Path,
    method: str,
    target: str,
    *,
    body: bytes | None,
    headers: Mapping[str, str],
    connect_s: float,
    read_s: float,
) -> AsyncIterator[Answer]:
    """`target` is a path with its query, quoted. read_s: the longest silence.

    Raises NotConnected, BrokenAnswer, OSError, and TimeoutError for a silence.
    """
    try:
        async with asyncio.timeout(connect_s):
            reader, writer = await asyncio.open_unix_connection(path, limit=_HEAD)
    except OSError as error:  # TimeoutError is one
        raise NotConnected(str(error)) from error
    try:
        writer.write(_question(method, target, body, headers))
        async with asyncio.timeout(read_s):  # it may answer before it has read all
            head = await _until(reader, b"\r\n\r\n")
        yield _answer(reader, head, read_s)
    except BaseException:
        writer.transport.abort()
        raise
    writer.transport.abort()  # `close` would wait until all of the question is read
    with suppress(OSError):
        await writer.wait_closed()


def _question(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    lines = {"Host": "localhost", "Accept": "*/*", "Connection": "close", **headers}
    if body is not None:
        lines |= {"Content-Type": "application/json"}
    if body is not None or method not in ("GET", "HEAD"):
        lines |= {"Content-Length": str(len(body or b""))}
    if any(c in value for value in lines.values() for c in "\r\n\0"):
        raise ValueError("a header has a line break in it")
    head = f"{method} {target} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode() + b"\r\n" + (body or b"")


def _answer(reader: asyncio.StreamReader, head: bytes, read_s: float) -> Answer:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    version, _, status = first.partition(" ")
    try:
        if version != "HTTP/1.1":
            raise ValueError(version)
        return Answer(reader, int(status[:3]), headers, read_s)
    except (ValueError, KeyError) as error:
        raise BrokenAnswer("what came is no HTTP, or has no end") from error


async def _until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    try:
        return await reader.readuntil(end)
    except asyncio.IncompleteReadError as error:
        raise BrokenAnswer("it ended before it had answered") from error
    except asyncio.LimitOverrunError as error:
        raise BrokenAnswer("what came is no HTTP") from error
