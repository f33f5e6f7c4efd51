"""The CLI's way to the agent of its own node: HTTP over the Unix socket.

Owns the connection and the translation of its failures. No credentials: who may open the
socket may do everything. Errors of the agent come out as the classes that it raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlencode

from peersync.core.errors import AgentNotRunning, BadRequest, Denied, NotFound, PeersyncError
from peersync.transport.problems import MAX_PROBLEM_BYTES, from_problem
from peersync.transport.unixhttp import Answer, BrokenAnswer, NotConnected, request
from peersync.wire.codec import decode, encode

if TYPE_CHECKING:  # each command loads this module, and hardly any reads events
    from peersync.transport.sse import Event

T = TypeVar("T")

CONNECT_S = 5.0
READ_S = 300.0  # a plan asks two databases and a peer before it answers
NO_ROUTE = "there is no such route"
EVENT_READ_S = 60.0  # pings come every 15 s


class AgentClient:
    """`async with AgentClient(socket) as agent`. `kind` is the type of the answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is left open: each question has a connection of its own."""

    async def get(self, path: str, kind: type[T], *, params: Mapping[str, str] | None = None) -> T:
        return await self._call("GET", path, None, kind, params)

    async def post(
        self,
        path: str,
        body: Any,
        kind: type[T],
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        return await self._call("POST", path, body, kind, params, headers)

    async def put(self, path: str, body: Any, kind: type[T]) -> T:
        return await self._call("PUT", path, body, kind, None)

    async def patch(self, path: str, body: Any, kind: type[T]) -> T:
        return await self._call("PATCH", path, body, kind, None)

    async def delete(
        self, path: str, kind: type[T], *, params: Mapping[str, str] | None = None
    ) -> T:
        return await self._call("DELETE", path, None, kind, params)

    async def events(self, path: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """The events of a stream until the agent ends it. `after` is the last id seen.

        AgentNotRunning when the agent goes away: ask again with the last event's id.
        """
        from peersync.transport.sse import EventParser

        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = after
        parser = EventParser()
        async with (
            self._open("GET", path, None, None, EVENT_READ_S, headers) as response,
            aclosing(response.pieces()) as pieces,
        ):
            async for piece in pieces:
                for event in parser.feed(piece):
                    yield event

    async def _call(
        self,
        method: str,
        path: str,
        body: Any,
        kind: type[T],
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        async with self._open(method, path, body, params, READ_S, headers or {}) as response:
            return decode(await response.read(), kind)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        body: Any,
        params: Mapping[str, str] | None,
        read_s: float,
        headers: Mapping[str, str],
    ) -> AsyncIterator[Answer]:
        try:
            path, data = _checked(path), None if body is None else encode(body)
            target = f"{path}?{urlencode(params)}" if params else path
            typed = "".join(headers.values()).encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                "what was typed has bytes that are no text in UTF-8", hint="type the name again"
            ) from error
        if any(c in typed for c in b"\r\n\0"):
            raise BadRequest("what was typed has a line break in it", hint="type the key again")
        try:
            async with request(
                self._path,
                method,
                target,
                body=data,
                headers=headers,
                connect_s=CONNECT_S,
                read_s=read_s,
            ) as response:
                if response.status >= 400 and response.content_type != "application/json":
                    problem = (await response.read(MAX_PROBLEM_BYTES))[:MAX_PROBLEM_BYTES]
                    raise _explained(from_problem(response.status, problem))
                yield response
        except (NotConnected, BrokenAnswer, OSError) as error:  # TimeoutError is one
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> PeersyncError:
        cause = error.__cause__ if isinstance(error, NotConnected) else error
        if isinstance(cause, PermissionError):
            return Denied(
                f"this user may not open the agent's socket {self._path}",
                hint="use sudo, or add the user to the group of the socket (peersync)",
            )
        if isinstance(cause, TimeoutError):
            return AgentNotRunning(
                "the agent does not answer", hint="systemctl status peersync-agent"
            )
        if isinstance(error, NotConnected):
            return AgentNotRunning(
                f"no agent is running (nobody listens on {self._path})",
                hint="start it: systemctl start peersync-agent, or: peersync agent",
            )
        return AgentNotRunning(
            "the agent closed the connection; it may have stopped",
            detail=str(error) or None,
            hint="systemctl status peersync-agent",
        )


def _checked(path: str) -> str:
    """The path as it goes over the wire; BadRequest where a name in it is none.

    The callers put names of peers and ids of jobs between slashes, as they were typed. A
    missing one would make another path of it.
    """
    if any(name in ("", ".", "..") for name in path.split("/")[1:]):
        raise BadRequest(
            "a name is empty, or only dots",
            hint="peersync peer list and peersync jobs list show what there is",
        )
    return quote(path, safe="/%")


def _explained(error: PeersyncError) -> PeersyncError:
    """A path that the agent does not have, in words for somebody who typed a command."""
    if not isinstance(error, NotFound) or error.message != NO_ROUTE:
        return error
    return NotFound(
        "the agent does not know what was asked for",
        hint="check the name; after an upgrade: systemctl restart peersync-agent",
    )
