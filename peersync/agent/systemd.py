"""Tells systemd how the agent is, over its notification socket; does nothing without one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

_WATCHDOG_SHARE = 3  # pings in one watchdog period


class Notifier:
    """`READY=1`, `STATUS=…`, `WATCHDOG=1`, `STOPPING=1` (sd_notify(3))."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        usec = environ.get("WATCHDOG_USEC", "") if watched else ""
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() else None

    def send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.connect(self._address)
                sock.send("\n".join(line.replace("\n", " ") for line in lines).encode())
            except OSError:
                return  # systemd is not there any more: nobody to tell

    async def keep(self, status: Callable[[], str]) -> None:
        """Runs for ever: the status line, and the watchdog's ping from a loop that turns."""
        period = self.watchdog_s / _WATCHDOG_SHARE if self.watchdog_s else 5.0
        while True:
            self.send("WATCHDOG=1", f"STATUS={status()}")
            await asyncio.sleep(min(period, 5.0))
