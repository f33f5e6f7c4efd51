"""The agent's log: text for people, JSON for collectors, priorities for the journal.

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
from typing import TextIO

_PRIORITIES = {  # of syslog, as sd-daemon(3) reads them at the start of a line
    logging.DEBUG: "<7>",
    logging.INFO: "<6>",
    logging.WARNING: "<4>",
    logging.ERROR: "<3>",
    logging.CRITICAL: "<2>",
}


class _Text(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        message = _escaped(record.getMessage())
        told = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        trace = "".join(f"\n    {_escaped(line)}" for line in told)
        if self._journal:
            level = _PRIORITIES.get(record.levelno, "<6>")
            return f"{level}{record.name}: {message}" + trace.replace("\n", f"\n{level}")
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"{moment} {record.levelname.lower():7} {record.name}: {message}{trace}"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


def set_up(level: str, form: str, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """`form` is auto, text or json; auto writes for the journal when it is systemd's."""
    handler = logging.StreamHandler(stream or sys.stderr)
    journal = form == "auto" and "JOURNAL_STREAM" in environ
    handler.setFormatter(_Json() if form == "json" else _Text(journal=journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    for noisy in ("aiohttp.access", "asyncio", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """From now on; `level` is debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())
