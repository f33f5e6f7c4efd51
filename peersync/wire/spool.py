"""The spool of one full sync: a directory of chunk files, on either side.

A file appears under its digest only when it is whole and on disk, so whatever is found
there after a crash can be used. The directory's name is the session's id, which is made
here or checked against its pattern: no path from the wire reaches the file system.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from peersync.core.errors import BadRequest, ConfigError, DiskFull
from peersync.wire.messages import DIGEST_PATTERN, SESSION_PATTERN, Chunk

_JOURNAL = "journal"
_RESTING = "resting"  # beside the chunks of a session that failed and may be taken up again
_PART = ".part"
_numbers = itertools.count(1)

log = logging.getLogger("peersync.spool")


class Budget:
    """The most that all spools under one directory may take together; 0 bytes is no limit.

    It counts what is written and looks at the disk again before it refuses, so nobody has
    to tell it what was removed. What only rests makes room for what runs, the oldest first: a
    session that is taken up without its chunks fetches them again. Used from several threads.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._used_bytes: int | None = None
        self._guard = threading.Lock()

    def take(self, size: int) -> None:
        """Counts `size` bytes that are about to be written. Raises DiskFull beyond the limit."""
        if not self._limit_bytes:
            return
        with self._guard:
            if self._used_bytes is None or self._used_bytes + size > self._limit_bytes:
                self._used_bytes = _bytes_under(self._root)
                self._make_room(size)
            if self._used_bytes + size > self._limit_bytes:
                raise DiskFull(
                    f"the spool {self._root} has {mib(self._used_bytes)} of the "
                    f"{mib(self._limit_bytes)} that full_sync.spool_max_gib allows, "
                    f"and {mib(size)} more are needed",
                    hint="Raise full_sync.spool_max_gib, or wait until other syncs have ended; "
                    "what has arrived is kept and is not sent again.",
                )
            self._used_bytes += size

    def _make_room(self, size: int) -> None:
        for spool in sorted(_resting(self._root), key=Spool.used_at):
            if _bytes_under(self._root) + size <= self._limit_bytes:
                break
            log.warning(
                "the chunks of session %s, which failed and may be resumed, are removed: a sync "
                "needs the space, and full_sync.spool_max_gib allows no more",
                spool.session,
            )
            spool.remove()
        self._used_bytes = _bytes_under(self._root)


class Spool:
    """`root/<session>/<digest>` and a journal of JSON lines beside them."""

    def __init__(self, root: Path, session: str, budget: Budget | None = None) -> None:
        if not re.fullmatch(SESSION_PATTERN, session):
            raise BadRequest(f"{session[:64]!r} is not the id of a session")
        self.session = session
        self.directory = root / session
        self._budget = budget

    def create(self) -> None:
        """Makes the directory; what a killed process left half written is swept away."""
        with disk_trouble_named(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in self.directory.glob(f"*{_PART}"):
                left.unlink(missing_ok=True)
            self.wake()

    def exists(self) -> bool:
        return self.directory.is_dir()

    def path(self, digest: str) -> Path:
        if not re.fullmatch(DIGEST_PATTERN, digest):
            raise BadRequest(f"{digest[:80]!r} is not a SHA-256 digest")
        return self.directory / digest

    def has(self, chunk: Chunk) -> bool:
        """Whether a file of the right name and size is here; reading proves the rest."""
        try:
            return self.path(chunk.digest).stat().st_size == chunk.size
        except FileNotFoundError:
            return False

    def proves(self, chunk: Chunk) -> bool:
        """Whether the file is what its name says. Reads all of it."""
        try:
            content = self.path(chunk.digest).read_bytes()
        except FileNotFoundError:
            return False
        return hashlib.sha256(content).hexdigest() == chunk.digest

    def write(self, digest: str, data: bytes) -> None:
        """Keeps a chunk. Harmless when it is here already. Raises DiskFull."""
        self.take_room(len(data))
        with self.writing(digest) as file:
            file.write(data)

    def take_room(self, size: int) -> None:
        """Says that so many bytes more will be here. Raises DiskFull."""
        if self._budget is not None:
            self._budget.take(size)

    @contextmanager
    def writing(self, digest: str) -> Iterator[_ChunkFile]:
        """A file that gets its name only if the block ends without an error."""
        final = self.path(digest)
        # two tables can hold the same rows: two threads then write one digest at one time
        temporary = final.with_name(f"{digest}.{os.getpid()}-{next(_numbers)}{_PART}")
        with disk_trouble_named(self.directory):
            file = _ChunkFile(temporary)
            try:
                yield file
                file.close()
                temporary.replace(final)
            except BaseException:
                file.close()
                temporary.unlink(missing_ok=True)
                raise

    def discard(self, chunk: Chunk) -> None:
        self.path(chunk.digest).unlink(missing_ok=True)

    def append(self, entry: msgspec.Struct) -> None:
        """Adds a line to the journal and sees it on disk."""
        with disk_trouble_named(self.directory), (self.directory / _JOURNAL).open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fdatasync(file.fileno())

    def journal(self) -> Iterator[bytes]:
        """The whole lines of the journal; a last line that a crash cut short is left out."""
        try:
            content = (self.directory / _JOURNAL).read_bytes()
        except FileNotFoundError:
            return
        yield from (line for line in content.split(b"\n")[:-1] if line)

    def restart_journal(self) -> None:
        (self.directory / _JOURNAL).unlink(missing_ok=True)

    def remove_chunks(self) -> None:
        """Frees the space, and keeps the journal: which generation this was is still known."""
        for path in self.directory.glob("*"):
            if path.name != _JOURNAL:
                path.unlink(missing_ok=True)

    def rest(self) -> None:
        """Its session has failed and may be taken up again: kept, as long as there is room."""
        with suppress(FileNotFoundError):
            (self.directory / _RESTING).touch(mode=0o600)
            self.touch()

    def wake(self) -> None:
        """Its session goes on."""
        (self.directory / _RESTING).unlink(missing_ok=True)

    def touch(self) -> None:
        """Says that it is in use, or was until now, though nothing was written."""
        with suppress(FileNotFoundError):
            os.utime(self.directory)

    def used_at(self) -> float:
        """When it was written or touched last, in seconds of the system's clock; 0: never."""
        try:
            return self.directory.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class _ChunkFile:
    """An unbuffered file: the callers write in large pieces."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def sessions(root: Path) -> list[str]:
    """The sessions that have a spool under `root`."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if re.fullmatch(SESSION_PATTERN, p.name))


def _resting(root: Path) -> list[Spool]:
    """The spools below, given and taken, whose sessions nobody works on."""
    marks = root.glob(f"*/*/{_RESTING}")
    places = (mark.parent for mark in marks if re.fullmatch(SESSION_PATTERN, mark.parent.name))
    return [Spool(place.parent, place.name) for place in places]


def mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _bytes_under(root: Path) -> int:
    """The sizes of all files below; one that goes away meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118
            except FileNotFoundError:
                continue
    return total


def free_bytes(root: Path) -> int:
    """What an unprivileged process may still write where `root` is, or will be."""
    place = root
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def disk_trouble_named(directory: Path) -> Iterator[None]:
    """Turns what the disk refuses into an error that says where, and what to do."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigError(
                f"the spool can't be used: {exc.strerror or exc}: {exc.filename or directory}",
                hint="node.spool_dir must be a directory that the agent's user may write in. "
                "See: peersync check",
            ) from exc
        raise DiskFull(
            f"the disk of the spool directory is full ({directory}): "
            f"{mib(free_bytes(directory))} are free, the next piece needs more",
            detail=str(exc),
            hint="Free some space there, or set node.spool_dir to a larger disk; "
            "what has arrived is kept and is not sent again.",
        ) from exc
