"""Ends the servers that a dead Python process has left, and says which processes are whose.

Whoever starts servers may be killed at any moment, and nobody else looks after them. It
ends nothing that it was not told of, and not even that once it runs somewhere else.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from pathlib import Path


def children_of(pid: int) -> dict[int, str]:
    """The direct children of a process: {pid: one-letter state as in /proc, "Z" is ended}."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid:
                    found[int(entry.name)] = state
    return found


class Guard:
    """A small process that outlives this one, and then ends the servers that are left.

    It waits for the end of its standard input, which comes whatever ends this process,
    SIGKILL too. PR_SET_PDEATHSIG would not do: it fires when the *thread* ends that started
    the server. A registered pid is ended only while it runs in that data directory.
    """

    SCRIPT = """
        while read -r pid fate root; do set -- "$@" "$pid" "$fate" "$root"; done
        while [ $# -gt 0 ]; do
            if [ "/proc/$1/cwd" -ef "$3/data" ]; then
                kill -QUIT "$1"
                tries=100
                while [ $tries -gt 0 ] && [ "/proc/$1/cwd" -ef "$3/data" ]; do
                    sleep 0.1
                    tries=$((tries - 1))
                done
                [ $tries -gt 0 ] || kill -KILL "$1"
            fi
            [ "$2" = keep ] || rm -rf -- "$3"
            shift 3
        done
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def watch(self, pid: int, root: Path, *, keep: bool) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", self.SCRIPT],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is not meant for it
                )
            assert self._process.stdin is not None
            self._process.stdin.write(f"{pid} {'keep' if keep else 'remove'} {root}\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Let it look once more, and end."""
        if self._process is not None:
            self._process.communicate()
