"""The agent's log: text for people, JSON for collectors, priorities for the journal.

One pipeline, the standard library's. Line breaks in a message are escaped, so that no
name from a database or a peer can forge a line.
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
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        if self._journal:
            level = _PRIORITIES.get(record.levelno, "<6>")
            return f"{level}{record.name}: {message}" + trace.replace("\n", f"\n{level}")
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"{moment} {record.levelname.lower():7} {record.name}: {message}{trace}"


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


def set_up(level: str, form: str, environ: Mapping[str, str], stream: TextIO = sys.stderr) -> None:
    """`form` is auto, text or json; auto writes for the journal when it is systemd's."""
    handler = logging.StreamHandler(stream)
    journal = form == "auto" and "JOURNAL_STREAM" in environ
    handler.setFormatter(_Json() if form == "json" else _Text(journal=journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiohttp.access", "asyncio", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
