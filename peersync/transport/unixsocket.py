"""The Unix socket's file: made with the right mode, taken over only from the dead.

Owns the file and nothing of what is said over it. A socket file outlives a killed agent;
whether somebody still listens is found out by connecting, which on a Unix socket answers
at once.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

from peersync.core.errors import ConfigError, Locked


class BoundSocket:
    """A bound, non-blocking stream socket at `path`.

    Locked names the pid of an agent that has it; ConfigError when the file cannot be made.
    """

    def __init__(self, path: Path, mode: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear_stale(path)
        self.socket = _bind(path)
        path.chmod(mode)
        self._path = path
        self._inode = path.stat().st_ino

    def release(self) -> None:
        """Closes the socket and removes the file, unless another agent has replaced it."""
        self.socket.close()
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()


def _bind(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    # On Linux the file gets the mode that the socket has when it is bound, so nobody can
    # connect before its mode is set. A umask would hold for all threads.
    os.fchmod(listening.fileno(), 0o600)
    try:
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot make the socket {path}: {error.strerror or error}", hint="see node.socket"
        ) from error
    return listening


def _clear_stale(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} exists and is not a socket", hint="see node.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pid = None  # it lives, and its queue is full
        else:
            pid = _listener_pid(probe)
    raise Locked(
        f"an agent is running already (pid {pid or 'unknown'}) and has {path}",
        hint="systemctl status peersync-agent",
        holder={"pid": pid},
    )


def _listener_pid(connected: socket.socket) -> int:
    size = struct.calcsize("3i")
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = struct.unpack("3i", raw)[0]
    return pid
