"""The records of bulk syncs: a file a run, in `state_dir/bulk`.

A bulk run belongs to no single database, and some of its databases may be down: so its record
is a file, written whole or not at all after each step. Owns the names of these files, their order,
and how many are kept. What each database really did is in its own `peersync.complete_syncs`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from peersync.agent.orchestration.bulk_outcome import BulkView
from peersync.core.errors import BadRequest, Denied, NotFound
from peersync.transport.files import make_private_directory, read_private, write_private

log = logging.getLogger("peersync.bulk")

KEPT = 200
MAX_BYTES = 16 * 1024 * 1024
ID_CHARS = 32
_HEX = frozenset("0123456789abcdef")


class BulkRecords:
    """The newest bulk syncs of this node. All methods block for a moment."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_private_directory(directory)

    def begin(self, view: BulkView) -> None:
        """Keeps a new run, and forgets the oldest beyond KEPT. Raises OSError."""
        self.write(view)
        for path in self._paths()[KEPT:]:
            path.unlink(missing_ok=True)

    def write(self, view: BulkView) -> None:
        """Keeps it, in place of what was kept of the same run. Raises OSError."""
        write_private(self._path(view), msgspec.json.format(msgspec.json.encode(view)))

    def newest(self, limit: int) -> list[BulkView]:
        """Up to `limit` runs, newest first; a file that can't be understood is passed over."""
        found: list[BulkView] = []
        for path in self._paths():
            if len(found) == limit:
                break
            found.extend(_read(path))
        return found

    def get(self, beginning: str) -> BulkView:
        """The run whose id begins so. NotFound, or BadRequest where several do."""
        if not 4 <= len(beginning) <= ID_CHARS or not set(beginning) <= _HEX:
            raise BadRequest(f"{beginning[:50]!r} is no id of a bulk sync, nor 4 digits of one")
        fitting = [p for p in self._paths() if _id_in(p).startswith(beginning)]
        if len(fitting) > 1:
            raise BadRequest(f"several bulk syncs begin with {beginning}", hint="give more digits")
        for view in (view for path in fitting for view in _read(path)):
            return view
        raise NotFound(f"there is no bulk sync {beginning}", hint=f"the last {KEPT} are kept")

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("[0-9]*-*.json"), reverse=True)

    def _path(self, view: BulkView) -> Path:
        stamp = "".join(c for c in view.started_at[:23] if c.isdigit())
        return self._directory / f"{stamp}-{view.id}.json"


def _id_in(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _read(path: Path) -> Iterator[BulkView]:
    try:
        if (data := read_private(path, limit=MAX_BYTES)) is not None:
            yield msgspec.json.decode(data, type=BulkView)
    except (msgspec.MsgspecError, UnicodeDecodeError, Denied) as error:
        log.warning("the record %s of a bulk sync can't be read: %s", path, error)
