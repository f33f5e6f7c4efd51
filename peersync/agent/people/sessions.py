"""Who is logged in: sessions on the server, in `state_dir/sessions.json`.

Owns their ids, their ends, and the open streams of each, which are cut when it ends. A browser
has a secret of 256 random bits, the file its SHA-256. Losing the file logs everybody out, and
nothing else; so a damaged one is put aside, with a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from peersync.agent.people.accounts import digest_of
from peersync.transport.files import read_private, write_private

log = logging.getLogger("peersync.people")

FILE: Final = "sessions.json"
MAX_BYTES: Final = 8 * 1024 * 1024
MOST: Final = 1000
MOST_OF_USER: Final = 50
NOTED_S: Final = 600.0  # so old may be what the file says of when one was last used
LONGEST_WAIT_S: Final = 3600.0


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One login. Times in seconds since 1970. `first`: by a link, and no password set since."""

    id: str
    digest: str
    user: str
    created_at: float
    seen_at: float
    address: str
    browser: str
    first: bool = False
    stamp: str = ""


class _File(msgspec.Struct):
    sessions: list[Session]


Cut = Callable[[], object]


class Sessions:
    """All sessions. `idle_s`, `max_s`: how long one lives unused, and in all."""

    def __init__(
        self,
        state_dir: Path,
        *,
        idle_s: float,
        max_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads the file. Blocks."""
        self._path = state_dir / FILE
        self.idle_s = idle_s
        self.max_s = max_s
        self._clock = clock
        self._by_digest = {s.digest: s for s in _read(self._path)}
        self._noted = {s.id: s.seen_at for s in self._by_digest.values()}
        self._lock = asyncio.Lock()
        self._open: dict[str, set[Cut]] = {}

    # --- looking ------------------------------------------------------------------------------
    def all(self) -> list[Session]:
        """Those that have not ended, the latest used first."""
        live = [s for s in self._by_digest.values() if self.left_s(s) > 0]
        return sorted(live, key=lambda s: s.seen_at, reverse=True)

    def left_s(self, session: Session) -> float:
        """Seconds until it ends, if nobody uses it meanwhile; a clock set back ends nothing."""
        now = self._clock()
        return min(session.seen_at + self.idle_s, session.created_at + self.max_s) - now

    async def use(self, secret: str) -> Session | None:
        """The session of this secret, which is used now; None where there is none any more."""
        session = self._by_digest.get(digest_of(secret))
        if session is None or self.left_s(session) <= 0:
            return None
        session = msgspec.structs.replace(session, seen_at=self._clock())
        self._by_digest[session.digest] = session
        if session.seen_at - self._noted.get(session.id, 0.0) > NOTED_S:
            self._noted[session.id] = session.seen_at
            async with self._lock:
                await self._try_write()
        return session

    # --- changing -----------------------------------------------------------------------------
    async def begin(
        self, user: str, *, address: str, browser: str, first: bool = False, stamp: str = ""
    ) -> tuple[Session, str]:
        """A new session, and its secret for the cookie. The oldest goes where there are many."""
        secret, now = secrets.token_urlsafe(32), self._clock()
        session = Session(
            id=secrets.token_hex(8),
            digest=digest_of(secret),
            user=user,
            created_at=now,
            seen_at=now,
            address=address,
            browser=browser[:200],
            first=first,
            stamp=stamp,
        )
        async with self._lock:
            live = self.all()
            own = [s for s in live if s.user == user][MOST_OF_USER - 1 :]
            gone = {s.id for s in (*own, *live[MOST - 1 :])}
            kept = [s for s in live if s.id not in gone]
            self._by_digest = {s.digest: s for s in [*kept, session]}
            self._noted = {s.id: self._noted.get(s.id, now) for s in self._by_digest.values()}
            await self._try_write()
        for one in gone:
            self.cut(one)
        return session, secret

    async def end(self, which: Callable[[Session], bool]) -> list[Session]:
        """Ends sessions: refused at their next request, and their open streams are cut now."""
        async with self._lock:
            gone = [s for s in self._by_digest.values() if which(s)]
            if not gone:
                return []
            for session in gone:
                del self._by_digest[session.digest]
                self._noted.pop(session.id, None)
            try:
                await self._write()
            finally:
                for session in gone:
                    self.cut(session.id)
        return gone

    # --- open streams -------------------------------------------------------------------------
    @contextmanager
    def stream(self, key: str, cut: Cut, is_over: Callable[[], float]) -> Iterator[None]:
        """While the block runs, `cut` is called when `key` (a session's or token's id) ends.

        `is_over` gives the seconds that are left; at 0 it is cut by itself.
        """
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            left_s = is_over()
            if left_s <= 0:
                cut()
            else:
                timer = loop.call_later(min(left_s, LONGEST_WAIT_S), look)

        look()
        self._open.setdefault(key, set()).add(cut)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self._open[key].discard(cut)
            if not self._open[key]:
                del self._open[key]

    def cut(self, key: str) -> None:
        for cut in [*self._open.get(key, ())]:
            cut()

    def cut_all(self) -> None:
        for key in [*self._open]:
            self.cut(key)

    def alive(self, session: Session) -> float:
        """Seconds left of a session as it is known now; 0 when it has ended."""
        known = self._by_digest.get(session.digest)
        return max(self.left_s(known), 0.0) if known else 0.0

    async def _try_write(self) -> None:
        """A full disk must not keep people out; they only have to log in after a restart."""
        try:
            await self._write()
        except OSError as error:
            log.warning("who is logged in can't be written to %s: %s", self._path, error)

    async def _write(self) -> None:
        data = msgspec.json.encode(_File(self.all()))
        await asyncio.to_thread(write_private, self._path, data)


def _read(path: Path) -> list[Session]:
    data = read_private(path, limit=MAX_BYTES)
    if data is None:
        return []
    try:
        return msgspec.json.decode(data, type=_File).sessions
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log.warning("%s cannot be read (%s), is kept as %s; log in again", path, error, aside)
        return []
