"""Small private files: written whole or not at all, and readable by nobody else.

Owns the mode, the order of fsync and rename, and the refusal of files that others could
have read or written. What is in them is the caller's affair.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path

from peersync.core.errors import Denied

MODE = 0o600
DIRECTORY_MODE = 0o700
LEFT_S = 60.0  # nobody writes a small file for so long


def make_private_directory(path: Path) -> None:
    """Creates `path` with mode 0700; an existing one keeps its mode."""
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Replaces `path` atomically and durably (file and directory are synced). Blocks."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), MODE)
            hand_over(Path(temporary), path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sweep_private(path: Path) -> None:
    """Removes what a killed process left beside `path` when it was about to replace it. Blocks.

    A temporary file of the last minute stays: another process may be at work. What can't be
    removed does no harm.
    """
    for left in path.parent.glob(f".{path.name}.*"):
        try:
            if time.time() - left.lstat().st_mtime > LEFT_S:
                left.unlink()
        except OSError:
            continue


def hand_over(path: Path, like: Path) -> None:
    """Gives `path` to the owner of `like`: root prepares what the service's user will read."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path, *, limit: int) -> bytes | None:
    """The content, or None when there is no such file.

    Raises Denied when the file is a link, belongs to another user, or when others may read
    or write it: a key that was readable is a key that has to be replaced.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Denied(
            f"{path} cannot be read: {error.strerror}",
            hint="run peersync as the user that owns the state directory, or as root",
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        _check_owner_and_mode(path, os.fstat(file.fileno()))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Denied(f"{path} is larger than {limit} bytes, which peersync never writes")
    return data


def _check_owner_and_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Denied(f"{path} is not a regular file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise Denied(
            f"{path} has mode {mode:04o}; others must not be able to read or write it",
            hint=f"chmod 600 {path}",
        )
    if os.geteuid() not in (0, status.st_uid):
        raise Denied(f"{path} belongs to user {status.st_uid}, not to this one")
