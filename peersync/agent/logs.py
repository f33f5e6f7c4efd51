"""The agent's log: text for people, JSON for collectors, fields or priorities for the journal.

One pipeline, the standard library's. What is not printable in a message is escaped and the
lines of a traceback are indented, so that no name from a database or a peer can forge a line
or move the cursor of whoever reads it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

from aiohttp.http_exceptions import BadHttpMessage

from peersync.agent.journal import SOCKET, JournalHandler, leads_to_journal, priority


class _Text(logging.Formatter):
    """`journal`: each line begins with its priority, as sd-daemon(3) reads it."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        message, trace = _message(record), _trace(self, record)
        if self._journal:
            level = f"<{priority(record.levelno)}>"
            return f"{level}{message}" + trace.replace("\n", f"\n{level}")
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"{moment} {record.levelname.lower():7} {message}{trace}"


def _message(record: logging.LogRecord) -> str:
    return f"{record.name}: {_escaped(record.getMessage())}"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    told = formatter.formatException(record.exc_info).splitlines() if record.exc_info else []
    return "".join(f"\n    {_escaped(line)}" for line in told)


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Malformed(logging.Filter):
    """Whoever sends what is not HTTP gets a 400 from aiohttp, and not a traceback in the log.

    What he sent is not quoted: it may be a secret, and he must not fill the log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, BadHttpMessage):
            return True
        if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return False
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.msg = f"{record.getMessage()}: not HTTP ({type(error).__name__})"
        record.args, record.exc_info, record.exc_text = (), None, None
        return True


_MALFORMED: Final = _Malformed()  # one: a filter that is added twice is there once


class _Fields(logging.Formatter):
    """The message of an entry of the journal, which has a time and a priority by itself."""

    def format(self, record: logging.LogRecord) -> str:
        return _message(record) + _trace(self, record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(
    level: str,
    form: str,
    environ: Mapping[str, str],
    stream: TextIO | None = None,
    journal_socket: Path = SOCKET,
) -> None:
    """`form` is auto, text or json; auto writes for the journal when it is systemd's."""
    stream = stream or sys.stderr
    handler: logging.Handler = logging.StreamHandler(stream)
    journal = form == "auto" and "JOURNAL_STREAM" in environ
    handler.setFormatter(_Json() if form == "json" else _Text(journal=journal))
    if journal and leads_to_journal(environ, stream, journal_socket):
        handler = JournalHandler(handler, journal_socket)
        handler.setFormatter(_Fields())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    logging.getLogger("aiohttp.server").addFilter(_MALFORMED)
    for noisy in ("aiohttp.access", "asyncio", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """From now on; `level` is debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())
