"""Keeps what a filter hides from showing in an error that a peer reads.

PostgreSQL's words about a filter may hold its text, and values of the rows that it hides.
They go into this node's log; the peer hears that there is a filter, and that it failed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from peersync.config.filters import Filter
from peersync.core.errors import Cancelled, ConfigError, PeersyncError, SchemaMismatch
from peersync.core.names import TableName
from peersync.postgres.catalog import DatabaseCatalog, Fetches
from peersync.postgres.copyout import CopyOut, TableCopy
from peersync.postgres.filters import Shape, read_shapes

log = logging.getLogger("peersync.source")

_HINT = "The log of the source's agent has the reason, and so has peersync check there."


async def shapes_for_peer(
    connection: Fetches, filters: Sequence[Filter], catalog: DatabaseCatalog
) -> dict[TableName, Shape]:
    """`read_shapes`, with a refusal that a peer may read. Raises SchemaMismatch."""
    try:
        return await read_shapes(connection, filters, catalog)
    except ConfigError as exc:
        log.error("%s (%s)", exc.message, exc.hint)  # noqa: TRY400 - no bug: no traceback
        raise SchemaMismatch("the source has a filter that is not valid", hint=_HINT) from exc


class FilteredRun:
    """A run that reads filtered tables; what goes wrong is told in words that hide them."""

    def __init__(self, out: CopyOut, tables: Sequence[TableCopy]) -> None:
        self._out = out
        self._names = ", ".join(str(table.name) for table in tables)

    def run(self, take: Callable[[bytes], None]) -> None:
        try:
            self._out.run(take)
        except Cancelled:
            raise
        except PeersyncError as exc:
            log.error("%s: %s (%s)", exc.message, exc.detail, exc.hint)  # noqa: TRY400
            message = f"{self._names} could not be read with what the source filters"
            raise type(exc)(message, hint=_HINT) from exc

    def stop(self) -> None:
        self._out.stop()
