"""`peersync` processes that need not import everything again.

Two thirds of what the suite took was Python starting agents and commands. A mother process
imports peersync once, and each process of a test is forked from it: real, with its own
arguments, environment, standard streams and end, and a child of pytest. What only a program
started anew can show is started anew: other variables that an interpreter or a loader reads
at its start, or where a test looks at the process itself (`Node.fresh`). All of them end with
pytest, however that ends.
tests/unit/test_imports.py proves that the modules load in any order.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_AT_START = ("LD_", "PYTHON", "LC_", "LANG", "TZ", "SSL_", "OPENSSL_", "MALLOC_", "GLIBC_")
_REQUEST_BYTES = 1 << 20
_UNFLUSHED = 120  # what Python ends with when its output can not be written
_PR_SET_PDEATHSIG = 1
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


# --- in pytest ------------------------------------------------------------------------------
class Mother:
    """The process to fork from, started when first asked for and ended with the session."""

    def __init__(self) -> None:
        self.env = dict(os.environ)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def bear(self, request: Mapping[str, Any], streams: Sequence[int]) -> int:
        """The pid of a new child of this process; `streams` become its 0, 1 and 2."""
        with self._lock:
            if self._line is None:
                self._line = self._start()
            socket.send_fds(self._line, [json.dumps(request).encode()], streams)
            told = self._line.recv(64)
            assert told, "the process to fork from has ended"
            return int(told)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for kind in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            ours.setsockopt(socket.SOL_SOCKET, kind, _REQUEST_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.plugins.forks", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=_ROOT,
                env=self.env,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is not meant for it
            )
        return ours

    def close(self) -> None:
        if self._process is not None and self._line is not None:
            self._line.close()
            self._process.wait()

    def pids(self) -> set[int]:
        return {self._process.pid} if self._process else set()


_mother = Mother()


def own_pids() -> set[int]:
    """What this plugin keeps beside the tests: no leak."""
    return _mother.pids()


def pytest_unconfigure() -> None:
    _mother.close()


def can_fork(env: Mapping[str, str]) -> bool:
    """Not when an interpreter or a loader would hear other things than the mother did."""
    names = {name for name in {*env, *_mother.env} if name.startswith(_AT_START)}
    return all(env.get(name) == _mother.env.get(name) for name in names)


class Forked(subprocess.Popen[bytes]):
    """Like `Popen([python, "-m", "peersync.cli.main", *arguments], env=env, …)`.

    Overrides how Popen starts a program; the rest of it does not see the difference.
    """

    def _execute_child(self, *given: Any) -> None:
        start = subprocess.Popen._execute_child  # type: ignore[attr-defined]
        told = inspect.signature(start).bind(self, *given).arguments
        pipes = [told[name] for name in _PIPES]
        ends = (told["p2cread"], told["c2pwrite"], told["errwrite"])
        request = {
            "arguments": list(told["args"]),
            "env": dict(told["env"]),
            "cwd": str(told["cwd"] or Path.cwd()),
            "session": told["start_new_session"],
        }
        try:
            streams = [own if end == -1 else end for own, end in enumerate(ends)]
            self.pid = _mother.bear(request, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


# --- in the mother and her children ---------------------------------------------------------
def _main() -> None:
    pytest = os.getppid()
    with socket.socket(fileno=int(sys.argv[1])) as line:
        _load()
        request, streams = _serve(line, pytest)
    _become(request, streams)
    os._exit(_ran())


def _ran() -> int:
    """The exit code of the command, after what an interpreter does at its end, but for one thing.

    It does not take every module apart: that would copy each page that is shared with the
    mother only to forget it, and cost four times as much as a short command does.
    """
    code = _said()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that are left
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:  # closed
            pass
        except OSError:
            code = _UNFLUSHED
    return code


def _said() -> int:
    try:
        importlib.import_module("peersync.cli.main").main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _load() -> None:
    import peersync

    for module in pkgutil.walk_packages(peersync.__path__, "peersync."):
        with contextlib.suppress(Exception):  # who needs it says why it does not load
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # not looked at again: what mother and children share stays shared


def _serve(line: socket.socket, pytest: int) -> tuple[dict[str, Any], list[int]]:
    """Returns in a child only, with what it shall be; ends with the other end of the line."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up once: children share it
    while True:
        asked, streams, _, _ = socket.recv_fds(line, _REQUEST_BYTES, 3)
        if not asked:
            sys.exit()
        told, tell = os.pipe()
        if not (between := os.fork()):
            own = os.getpid()
            if not (child := os.fork()):
                os.close(told)
                os.close(tell)
                _end_with(pytest, own, prctl)
                return json.loads(asked), streams
            os.write(tell, str(child).encode())
            os._exit(0)  # its child is pytest's from now on, the next "subreaper" above
        os.waitpid(between, 0)
        line.send(os.read(told, 64))
        for one in (told, tell, *streams):
            os.close(one)


def _end_with(pytest: int, between: int, prctl: Callable[..., int]) -> None:
    """From here on this process is killed when pytest is, which then can end nobody itself.

    The kernel forgets who was asked for when a parent is replaced: it is asked for afterwards.
    """
    while os.getppid() == between:
        time.sleep(0.0005)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pytest:
        os._exit(1)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    for own, stream in enumerate(streams):
        os.dup2(stream, own)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if request["session"]:
        os.setsid()
    sys.argv = ["peersync", *request["arguments"]]
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdin = open(0, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", -1, encoding, errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    _main()
