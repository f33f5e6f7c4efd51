"""How the rows of a full sync travel, and why so.

Pure. `backup` is pg_dump on the source: definitions and rows. `http` is COPY over an ordinary
connection of the source's: rows only, no program needed. `auto` takes the first that can. A
`delta` (see `delta.choice`) sends of some tables only what differs, the others by one of these.
"""

from __future__ import annotations

from typing import Literal

from peersync.core.errors import BadRequest, ToolMissing
from peersync.wire.messages import Catalogue

Method = Literal["backup", "http"]

BY_COPY = "none needed: COPY over a connection"
NO_DEFINITIONS = (
    "this database does not have it, and the method http brings no definitions (that needs "
    "pg_dump on the source): create it here"
)


def choose_method(
    asked: str, source: Catalogue, source_name: str, *, needs_definitions: bool
) -> tuple[Method, str]:
    """The method and the reason for it, in words.

    `needs_definitions`: tables are missing here that the source may bring. Raises ToolMissing
    where only pg_dump would do and the source has none that fits.
    """
    if asked == "http":
        return "http", "as asked"
    if asked not in ("auto", "backup"):
        raise BadRequest(f"there is no method {asked!r}", hint="auto, backup, http or delta")
    if source.dump_tool_ok:
        return "backup", "as asked" if asked == "backup" else f"{source_name} has pg_dump"
    if asked == "backup" or needs_definitions:
        hint = f"Install the package on {source_name}, then start again."
        if asked == "auto":
            hint += "\nOr create the missing tables here yourself; rows need no pg_dump."
        raise ToolMissing(f"{source_name} cannot make the backup: {source.dump_tool}", hint=hint)
    return "http", f"{source_name} has no pg_dump that fits: {source.dump_tool}"
