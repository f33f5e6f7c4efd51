"""An error as a person reads it, and as a script does.

Five parts: what, where, the database's own words, what peersync did about it, what to do
next. A part without content is left out.
"""

from __future__ import annotations

from typing import Any

import click

from peersync.cli.output import SCHEMA_VERSION, clean, json_text
from peersync.core.errors import DatabaseError, DiskFull, Locked, PeersyncError

_PLACES = (
    "peer", "database", "schema", "table", "column", "constraint", "type", "key", "file", "path",
    "session", "step", "position",
)  # fmt: skip


def as_json(error: PeersyncError) -> str:
    """The object that `--json` prints on stdout."""
    return json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "error": {
                "code": error.code,
                "message": error.message,
                "detail": error.detail,
                "hint": error.hint,
                "exit_code": error.exit_code,
                "retryable": error.retryable,
                "data": error.data,
            },
        }
    )


def as_text(error: PeersyncError) -> str:
    """Some lines for stderr, with colour that click strips where it does not belong."""
    words = "database" if isinstance(error, DatabaseError | Locked | DiskFull) else "detail"
    if "sqlstate" in error.data:
        words = "database"
    parts = [
        ("where", _where(error.data)),
        (words, error.detail),
        ("peersync", _what_we_did(error)),
        ("next", error.hint),
    ]
    head = click.style("peersync:", fg="red", bold=True)
    lines = [f"{head} {clean(error.message, keep=chr(10))}"]
    for name, text in parts:
        if text:
            label = click.style(f"  {name + ':':<10}", bold=name == "next")
            lines.append(label + clean(text, keep="\n").replace("\n", "\n" + " " * 12))
    return "\n".join(lines)


def _where(data: dict[str, Any]) -> str:
    return ", ".join(f"{name} {data[name]}" for name in _PLACES if data.get(name))


def _what_we_did(error: PeersyncError) -> str | None:
    if did := error.data.get("did"):
        return str(did)
    if isinstance(error, Locked):
        return "did nothing: it does not wait for another job"
    if error.retryable:
        return "gave up for now; trying again can help"
    return None
