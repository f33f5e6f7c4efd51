"""The agent's log in the journal's own protocol: fields to ask for, a traceback in one entry.

Only where systemd has connected stderr to the journal; what cannot be sent goes to stderr, which
leads there as well, without the fields. https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TextIO

SOCKET: Final = Path("/run/systemd/journal/socket")
MAX_MESSAGE: Final = 48 * 1024  # characters; all has to fit into one datagram


class JournalHandler(logging.Handler):
    """Sends records to `path`; `fallback` writes those that it does not take."""

    def __init__(self, fallback: logging.Handler, path: Path = SOCKET) -> None:
        super().__init__()
        self._fallback = fallback
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)[:MAX_MESSAGE]
            data = b"".join(_encoded(*field) for field in _fields(record, message))
            self._socket.sendto(data, self._path)
        except OSError:
            self._fallback.handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def leads_to_journal(environ: Mapping[str, str], stream: TextIO, path: Path = SOCKET) -> bool:
    """Whether the stream is the one that systemd has connected, and not a file or a pipe since."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}" and path.is_socket()


def _fields(record: logging.LogRecord, message: str) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", message
    yield "PRIORITY", str(priority(record.levelno))
    yield "SYSLOG_IDENTIFIER", "peersync"
    yield "SYSLOG_PID", str(record.process)
    yield "PEERSYNC_LOGGER", record.name
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName or ""
    if task := _task_name():
        yield "PEERSYNC_TASK", task
    if record.exc_info and record.exc_info[0] is not None:
        yield "PEERSYNC_EXCEPTION", record.exc_info[0].__name__


def priority(level: int) -> int:
    """syslog's number for a level of logging, as sd-daemon(3) has them."""
    for least, number in ((50, 2), (40, 3), (30, 4), (20, 6)):
        if level >= least:
            return number
    return 7


def _task_name() -> str | None:
    """Which piece of work it is about: "pull-shop-server-b", "janitor"."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread
        return None
    return task.get_name() if task is not None else None


def _encoded(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
