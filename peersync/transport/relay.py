"""A connection whose user can change while it is open.

asyncio tells one protocol of a connection what happens on it. A relay is that protocol, and
passes everything to the connection's user of the moment: a server that waits for requests,
then a client that sends some. Former users hear only of the end, because they have things
to put away. It reads and writes nothing itself.
"""

from __future__ import annotations

import asyncio
import socket

KEEP_IDLE_S, KEEP_PAUSE_S, KEEP_TRIES = 30, 10, 3
UNANSWERED_MS = 120_000


class Relay(asyncio.Protocol):
    """`transport` is the connection, None before it is made and after it is lost."""

    def __init__(self, user: asyncio.Protocol) -> None:
        self._user = user
        self._former: list[asyncio.Protocol] = []
        self._writing_paused = False
        self.transport: asyncio.Transport | None = None

    def hand_over(self, user: asyncio.Protocol, data: bytes = b"") -> None:
        """From now on the connection is `user`'s, who first gets `data`, which had come already.

        ConnectionResetError when there is no connection any more.
        """
        if self.transport is None:
            raise ConnectionResetError("the connection is gone")
        self._former.append(self._user)
        self._user = user
        user.connection_made(self.transport)
        if self._writing_paused:
            user.pause_writing()
        if data:
            user.data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._user.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        for user in (self._user, *reversed(self._former)):
            user.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._user.data_received(data)

    def eof_received(self) -> bool | None:
        return self._user.eof_received()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._user.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._user.resume_writing()


def watch_closely(transport: asyncio.BaseTransport) -> None:
    """Has the system notice, within two minutes, that nobody is at the other end any more."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_IDLE_S),
        ("TCP_KEEPINTVL", KEEP_PAUSE_S),
        ("TCP_KEEPCNT", KEEP_TRIES),
        ("TCP_USER_TIMEOUT", UNANSWERED_MS),
    ):
        if (option := getattr(socket, name, None)) is not None:  # not every system has all
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
