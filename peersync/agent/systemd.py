"""Tells systemd how the agent is, over its notification socket; does nothing without one.

The watchdog's ping is a promise that work goes on. So it comes from the event loop that
everything runs on, and only while each loop that has a `Pulse` turns: an agent that hangs
keeps silent, and systemd starts it anew. It never ends anything itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from peersync.core.progress import Progress
from peersync.core.words import counted

log = logging.getLogger("peersync.agent")

SEND_S = 5.0  # between two status lines, at most
HUNG_S = 60.0  # for so long a loop may stand still, where systemd sets no limit
LEAST_S = 3.0  # no loop is called hung sooner, however short systemd's limit is
_WATCHDOG_SHARE = 3  # pings in one watchdog period
_SHOWN = 3  # running syncs in one status line


class Pulse:
    """One loop that must not stand still.

    It calls `turn` each time round, and `waits` before it waits for what is not in its hands: a
    database, a lock, a pause after a failure. From a `turn` to the next call of either it has the
    watchdog's time. A database that does not answer is no hang: no restart would help.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._since: float | None = None

    def turn(self) -> None:
        self._since = time.monotonic()

    def waits(self) -> None:
        self._since = None

    def still_s(self) -> float:
        """For how many seconds it has stood still; 0 while it waits."""
        return 0.0 if self._since is None else time.monotonic() - self._since


class Notifier:
    """`READY=1`, `STATUS=…`, `WATCHDOG=1`, `STOPPING=1` (sd_notify(3))."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        usec = environ.get("WATCHDOG_USEC", "") if watched else ""
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() else None
        self._hung: str | None = None

    def send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.connect(self._address)
                sock.send("\n".join(line.replace("\n", " ") for line in lines).encode())
            except OSError:
                return  # systemd is not there any more: nobody to tell

    def ready(self) -> None:
        self.send("READY=1")

    def reloading(self) -> None:
        """systemd compares the moment with its own, to tell this reload from an earlier one."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self.send("STOPPING=1", "STATUS=stopping; what is not finished goes on at the next start")

    async def keep(
        self, status: Callable[[], str], pulses: Callable[[], Iterable[Pulse]] = tuple
    ) -> None:
        """Runs for ever: the status line, and the watchdog's ping while all that must turn turns.

        `pulses` is asked each time: loops come and go.
        """
        period = self.watchdog_s / _WATCHDOG_SHARE if self.watchdog_s else SEND_S
        while True:
            hung = self._find_hung(pulses())
            if hung is None:
                self.send("WATCHDOG=1", f"STATUS={status()}")
            else:
                self.send(f"STATUS={hung}")
            await asyncio.sleep(min(period, SEND_S))

    def _find_hung(self, pulses: Iterable[Pulse]) -> str | None:
        limit_s = max(self.watchdog_s or HUNG_S, LEAST_S)
        still = [pulse for pulse in pulses if pulse.still_s() > limit_s]
        if not still:
            if self._hung is not None:
                log.warning("%s no longer: it goes on", self._hung)
            self._hung = None
            return None
        hung = f"{still[0].what} hangs"
        if hung != self._hung:
            then = "systemd will start it anew" if self.watchdog_s else "restart the agent"
            log.critical("%s: it has not turned for %.0f s; %s", hung, still[0].still_s(), then)
        self._hung = hung
        return hung


def status_line(running: Sequence[Progress], links: str = "") -> str:
    """What `systemctl status` shows: "full sync shop from server-a: restore 61 %, 2 min left".

    `links` is how periodic sync is, "" where there is none.
    """
    shown = [progress_line(progress) for progress in running[:_SHOWN]]
    if more := len(running) - len(shown):
        shown.append(f"and {counted(more, 'full sync')} more")
    return "; ".join([*shown, *filter(None, [links])]) or "waiting for work"


def progress_line(progress: Progress) -> str:
    """One short line: "full sync shop from server-a: restore 61 %, 2 min left"."""
    percent = f" {progress.percent:.0f} %" if progress.percent is not None else ""
    left = ""
    if progress.eta_s is not None:
        minutes = round(progress.eta_s / 60)
        left = f", {minutes} min left" if minutes else ", less than a minute left"
    what = f"full sync {progress.database} from {progress.source}"
    return f"{what}: {progress.step}{percent}{left}"


def links_line(failing: Sequence[bool]) -> str:
    """How periodic sync is; for each link, whether it fails."""
    if not failing:
        return ""
    words = f"periodic sync: {counted(len(failing), 'link')}"
    return f"{words}, {sum(failing)} failing" if any(failing) else words
