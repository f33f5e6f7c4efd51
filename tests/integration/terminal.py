"""A terminal for the tests: a program on a pty, what is typed, and the screen that results."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

WIDTH, HEIGHT = 100, 30
CTRL_C = "\x03"
# The new session's terminal must be its controlling one, or Ctrl-C reaches nobody.
_OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
_CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b[\]\(][^\x07]?|\r|\n|\x08|[^\x1b\r\n\x08]+")


class Terminal:
    """One program on a terminal of its own. Leaving the block kills it if it still runs."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, *command],
            env={**environ, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def answer(self, text: str) -> None:
        """Types after a moment, as people do: Python's input() misses a Ctrl-C that comes
        after its prompt is written and before it has begun to read."""
        time.sleep(0.3)
        self.type(text)

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Reads until `text` has come since the last wait."""
        deadline = time.monotonic() + timeout_s
        start = len(self.raw)
        while text not in self.raw[start:]:
            if time.monotonic() > deadline or not self._read(0.2):
                raise AssertionError(f"{text!r} did not come:\n{self.raw[start:]}")

    def end(self, timeout_s: float = 60.0) -> int:
        """Reads to the end; gives the exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(0.2):
            assert time.monotonic() < deadline, f"it did not end:\n{self.raw}"
        return self.process.wait(10)

    def _read(self, timeout_s: float) -> bool:
        """False at the end. A pty says EIO when the last of its programs has ended."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)

    @property
    def screen(self) -> list[str]:
        return render(self.raw)


def render(raw: str) -> list[str]:
    """The lines that a person sees in the end: enough of a terminal for what rich draws."""
    lines, row, column = [""], 0, 0
    for match in _CONTROL.finditer(raw):
        text, (count, final) = match[0], (match[1], match[2])
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text == "\x08":
            column = max(column - 1, 0)
        elif final == "A":
            row = max(row - int(count or 1), 0)
        elif final == "K":
            lines[row] = "" if count == "2" else lines[row][:column]
        elif not text.startswith("\x1b"):
            before = lines[row].ljust(column)
            lines[row] = before[:column] + text + before[column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]
