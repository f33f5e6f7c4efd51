"""Running the programs that are measured.

Every program gets a process group of its own (pgcopydb ends its whole group when it fails),
an environment without libpq's variables, and the client programs of one PostgreSQL major
first on PATH. What they say goes to a file: shown when they fail, never parsed, except for
the last line of peersync's JSON.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

TIMEOUT_S = 3600.0
Command = Sequence[str | Path]


class RunFailed(RuntimeError):
    """A measured program did not end well; `public` says so without the program's own words."""

    def __init__(self, public: str, words: str) -> None:
        super().__init__(f"{public}\n{words}" if words else public)
        self.public = public


def environment(bindir: Path) -> dict[str, str]:
    """Ours without PG*, with `bindir` first on PATH."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PEERSYNC_"))}
    return own | {"PATH": f"{bindir}{os.pathsep}{own.get('PATH', os.defpath)}", "LC_ALL": "C.UTF-8"}


def run(command: Command, *, env: dict[str, str], log: Path, codes: Collection[int] = (0,)) -> str:
    """Run one program to its end; its standard output. RunFailed on other exit codes."""
    with log.open("wb") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            env=env,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            end(process)
    if process.returncode not in codes:
        name = Path(command[0]).name
        raise RunFailed(
            f"{name} ended with {process.returncode}", tail(log) or out.decode()[-2000:]
        )
    return out.decode()


def start(
    command: Command, *, env: dict[str, str], out: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start one program that writes into files; whoever starts it ends it."""
    with out.open("wb") as told, log.open("wb") as err:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=err,
            env=env,
            start_new_session=True,
        )


def pipe(producer: Command, consumer: Command, *, env: dict[str, str], log: Path) -> None:
    """`producer | consumer` with pipefail; RunFailed when either of them fails."""
    with log.open("wb") as err:
        first = subprocess.Popen(
            producer, stdout=subprocess.PIPE, stderr=err, env=env, start_new_session=True
        )
        second = subprocess.Popen(
            consumer,
            stdin=first.stdout,
            stdout=subprocess.DEVNULL,
            stderr=err,
            env=env,
            start_new_session=True,
        )
        assert first.stdout is not None
        first.stdout.close()  # so that the producer hears when the consumer is gone
        try:
            codes = second.wait(TIMEOUT_S), first.wait(TIMEOUT_S)
        finally:
            end(second)
            end(first)
    if any(codes):
        names = f"{Path(producer[0]).name} | {Path(consumer[0]).name}"
        raise RunFailed(f"{names} ended with {codes[1]} | {codes[0]}", tail(log))


def end(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """Ask a process that still runs to stop, then kill its group, then reap it."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """The last words of a program."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
