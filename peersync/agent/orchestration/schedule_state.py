"""What is remembered of each schedule, in one file that survives the agent, and who runs it now.

Owns the file, and two locks of the operating system's, which go with the process that has them:
one for a change of the file, one for each schedule that is running. So two agents with one state
directory start nothing twice. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from peersync.transport.files import make_private_directory, read_private, write_private

log = logging.getLogger("peersync.schedule")

MAX_BYTES: Final = 16 * 1024 * 1024
Result = Literal["success", "partial", "error", "skipped", "interrupted"]


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one schedule. Times are seconds since 1970.

    since: when it was first seen, which counts as its first turn. due: the last turn that was
    taken. at, held: its time, and whether it was paused, in the configuration. open: a run has
    begun and has not said how it ended. errors: in a row; recovered_after: how many there were
    before the last success.
    """

    since: float
    due: float | None = None
    started: float | None = None
    ended: float | None = None
    result: Result | None = None
    message: str | None = None
    errors: int = 0
    recovered_after: int = 0
    missed: float | None = None
    paused_by: str | None = None
    at: str | None = None
    held: bool = False
    open: bool = False


class _File(msgspec.Struct, frozen=True):
    schedules: dict[str, State] = {}
    version: int = 1


class ScheduleFile:
    """`state_dir/schedules.json`, and the locks beside it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "schedules.json"
        self._damaged = state_dir / "schedules.json.damaged"
        self._locks = state_dir / "schedules"

    def read(self) -> dict[str, State]:
        """By name. A file that is damaged has nothing."""
        try:
            return self._decoded()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return {}

    def troubles(self) -> tuple[str, ...]:
        """For the status: what stands beside the file because it could not be read."""
        try:
            self._decoded()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return (f"{self._path} can't be read: {error}; the agent counts from now on",)
        if not self._damaged.exists():
            return ()
        return (
            f"{self._path} was damaged: schedules are counted from then on, and it is forgotten"
            f" who had paused one. When you have seen it: rm {self._damaged}",
        )

    def _decoded(self) -> dict[str, State]:
        data = read_private(self._path, limit=MAX_BYTES)
        return msgspec.json.decode(data, type=_File).schedules if data is not None else {}

    def _mended(self) -> dict[str, State]:
        """The same; a damaged file is moved aside. The caller has the lock."""
        try:
            return self._decoded()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("%s can't be read (%s); it is moved to %s", self._path, error, self._damaged)  # noqa: TRY400
            self._path.replace(self._damaged)
            return {}

    def change(self, name: str, make: Callable[[State | None], State]) -> State:
        """Replaces the state of one schedule; `make` gets the one that is there."""
        make_private_directory(self._locks)
        with _locked(self._locks / ".file"):
            states = self._mended()
            state = make(states.get(name))
            if states.get(name) != state:
                file = _File({**states, name: state})
                write_private(self._path, msgspec.json.format(msgspec.json.encode(file)))
        return state

    def hold(self, name: str) -> Callable[[], None] | None:
        """Only who holds a schedule runs it. Gives what lets it go; None: somebody has it."""
        make_private_directory(self._locks)
        file = (self._locks / f"{name}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file.close


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
