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

from peersync.core.errors import ConfigError
from peersync.transport.files import make_private_directory, read_private, write_private

log = logging.getLogger("peersync.schedule")

MAX_BYTES: Final = 16 * 1024 * 1024
Result = Literal["success", "partial", "error", "skipped", "interrupted"]


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one schedule. Times are seconds since 1970.

    since: when it was first seen, which counts as its first turn. due: the last turn that was
    taken. errors: in a row; recovered_after: how many there were before the last success.
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

    @property
    def open(self) -> bool:
        """Whether a run has begun and has not said how it ended."""
        return self.started is not None and (self.ended is None or self.ended < self.started)


class _File(msgspec.Struct, frozen=True):
    schedules: dict[str, State] = {}
    version: int = 1


class ScheduleFile:
    """`state_dir/schedules.json`, and the locks beside it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "schedules.json"
        self._locks = state_dir / "schedules"

    def read(self) -> dict[str, State]:
        """By name. Raises ConfigError for a file that is damaged."""
        data = read_private(self._path, limit=MAX_BYTES)
        if data is None:
            return {}
        try:
            return msgspec.json.decode(data, type=_File).schedules
        except msgspec.MsgspecError as error:
            raise ConfigError(
                f"{self._path} can't be read: {error}",
                hint="Move it away: what is due is then counted from now on.",
            ) from error

    def change(self, name: str, make: Callable[[State | None], State]) -> State:
        """Replaces the state of one schedule; `make` gets the one that is there."""
        make_private_directory(self._locks)
        with _locked(self._locks / ".file"):
            states = self.read()
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
