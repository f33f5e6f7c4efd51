"""`scripts/bench periodic`: which engines meet on which server, in which parts.

It owns the choice of engines, their lives, and how what was measured is shown. peersync meets
all rivals on the one major that they are packaged for, and native replication alone on the
newest.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgcluster import find_installations, installation

from benchlib import periodic_load, periodic_parts, periodic_report, rivals
from benchlib.periodic_bucardo import Bucardo
from benchlib.periodic_engines import Carrier, Engine, Native, Pglogical
from benchlib.periodic_parts import TROUBLE, Round
from benchlib.periodic_peersync import Mesh, Peersync
from benchlib.periodic_probe import quantile
from benchlib.periodic_records import (
    BUCARDO,
    ENGINES,
    NATIVE,
    NONE,
    PARTS,
    PEERSYNC,
    PGLOGICAL,
    RIVALS_MAJOR,
    SIZES,
    Failure,
    Ledger,
    Page,
    Size,
)
from benchlib.programs import RunFailed

KINDS: dict[str, type[Engine]] = {
    NONE: Engine,
    NATIVE: Native,
    PGLOGICAL: Pglogical,
    BUCARDO: Bucardo,
    PEERSYNC: Peersync,
}
FLOWING: dict[str, Callable[[Round], None]] = {
    "lag": periodic_parts.lag,
    "drain": periodic_parts.drain,
    "memory": periodic_parts.memory,
}
ONES = 50


def add_arguments(verbs: Any, machine: Callable[[], dict[str, Any]]) -> None:
    """Another verb of the script; `machine` tells what a reader of figures has to know."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "periodic", help="periodic sync against native replication, Bucardo and pglogical"
    )
    parser.set_defaults(run=lambda options: main(options, machine))
    parser.add_argument("--quick", action="store_true", help="seconds: whether it works at all")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=[*PARTS, *ENGINES],
        help=f"parts ({', '.join(PARTS)}) or engines ({', '.join(ENGINES)})",
    )
    parser.add_argument("--major", type=int, nargs="+", metavar="N", help="on these servers only")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions of each slice")
    parser.add_argument(
        "--patience",
        type=float,
        default=20.0,
        metavar="S",
        help="seconds that a slice waits at most for a calm machine (default 20)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--rivals", action="store_true", help="install missing rivals with apt-get")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the servers' files go")


def main(options: argparse.Namespace, machine: Callable[[], dict[str, Any]]) -> int:
    """Run, print, write; the exit code: 0 all measured, 1 something failed, 130 stopped."""
    if options.rivals:
        rivals.install()
    name = "quick" if options.quick else "full"
    size = replace(SIZES[name], repeat=max(1, options.repeat or SIZES[name].repeat))
    parts = tuple(p for p in PARTS if p in options.only) or PARTS
    wanted = tuple(e for e in ENGINES if e in options.only) or ENGINES
    ledger, stopped = Ledger(), False
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    work = Path(tempfile.mkdtemp(prefix="psp-", dir=options.dir))
    work.chmod(0o755)  # the servers' user has its directories in here
    ran: dict[str, list[str]] = {}
    try:
        for major in options.major or majors():
            engines = [e for e in wanted if e in there(major)]
            ran[str(major)] = engines
            place = work / str(major)
            place.mkdir(mode=0o755)
            try:
                Stage(major, engines, size, ledger, options.patience, place).play(parts)
            except Exception as error:  # a fault of this script: what it has measured stays
                traceback.print_exc()
                ledger.failures.append(Failure("all", major, "script", type(error).__name__))
    except KeyboardInterrupt:
        stopped = True
        print("stopped; what was measured so far:", file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    found = rivals.present()
    told = [f"- {e}: {found[e] or 'not here'}" for e in (BUCARDO, PGLOGICAL)]
    texts = [periodic_report.render(ledger), "## Rivals", "\n".join(told)]
    print("\n\n".join(text for text in texts if text))
    if options.json:
        about = {"started_at": started, "size": name, "machine": machine(), "rivals": told}
        document = periodic_report.document(ledger, about | {"engines": ran})
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if stopped:
        return 130
    return 1 if ledger.failures or not ledger.figures else 0


def majors() -> list[int]:
    """Where the rivals are, and the newest."""
    found = list(find_installations())
    return sorted({m for m in found if m == RIVALS_MAJOR} | set(found[-1:]))


def there(major: int) -> list[str]:
    """The engines that can run on the server programs of this major here."""
    found = [NONE, NATIVE, PEERSYNC]
    if major != RIVALS_MAJOR:
        return found
    told = [str(installation(major).bindir / "pg_config"), "--sharedir"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        share = subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()
        extensions = Path(share) / "extension"
        if (extensions / "pglogical.control").exists():
            found.append(PGLOGICAL)
        if shutil.which("bucardo") and (extensions / "plperlu.control").exists():
            found.append(BUCARDO)
    return found


class Stage:
    """One major: the engines that meet on it, and the parts that they play."""

    def __init__(
        self,
        major: int,
        engines: Sequence[str],
        size: Size,
        ledger: Ledger,
        patience_s: float,
        work: Path,
    ) -> None:
        self.major, self.engines, self.size = major, engines, size
        self.ledger, self.patience_s, self.work = ledger, patience_s, work
        self._numbers = itertools.count(1)

    def play(self, parts: Sequence[str]) -> None:
        carriers = [name for name in self.engines if name != NONE]
        if "capture" in parts:
            self._together("capture", self.engines, lambda _: None, [periodic_parts.capture])
        if flowing := [part for part in parts if part in FLOWING]:
            what = [FLOWING[part] for part in flowing]
            self._together(flowing[0], carriers, _connect, what, flowing)
        if "wire" in parts:
            linked = [periodic_parts.wire]
            self._together("wire", carriers, lambda e: _connect(e, linked=True), linked)
        if PEERSYNC in self.engines and "publish" in parts:
            self._publish()
        if PEERSYNC in self.engines and "nodes" in parts:
            for count in self.size.nodes:
                self._nodes(count)

    def _together(
        self,
        part: str,
        names: Sequence[str],
        prepare: Callable[[Engine], None],
        what: Sequence[Callable[[Round], None]],
        parts: Sequence[str] = (),
    ) -> None:
        """All engines at once, each with servers of its own, through one part or several."""
        with contextlib.ExitStack() as stack:
            turns = Round([], self._page(part), self.size, self.patience_s)
            for name in names:
                engine = KINDS[name](self.major, self._root(name), self.size.scale)
                turns.engines.append(engine)
                with turns.kept(engine):
                    stack.enter_context(engine)
                    prepare(engine)
            for one, play in zip(parts or [part], what, strict=True):
                print(f"{self.major} {one}", file=sys.stderr)
                turns.page = self._page(one)
                play(turns)

    def _publish(self) -> None:
        page = self._page("publish")
        print(f"{self.major} publish", file=sys.stderr)
        with (
            _noted(page, PEERSYNC),
            Peersync(self.major, self._root(PEERSYNC), self.size.scale) as engine,
        ):
            engine.arm()
            for repetition in range(self.size.repeat):
                many, one, nothing = engine.publish_times(self.size.publish, ONES)
                each = 1e6 * many / self.size.publish
                page.note(PEERSYNC, "backlog, µs/transaction", repetition, each)
                page.note(PEERSYNC, "one transaction ms", repetition, 1e3 * one)
                page.note(PEERSYNC, "nothing new ms", repetition, 1e3 * nothing)

    def _nodes(self, count: int) -> None:
        """Lag to the last of them, and how long a backlog takes until all have it."""
        page, name, size = self._page("nodes"), f"{count} nodes", self.size
        print(f"{self.major} {name}", file=sys.stderr)
        with _noted(page, name), Mesh(self.major, self._root("mesh"), size.scale, count) as mesh:
            for repetition in range(size.repeat):
                told = list[float]()

                def work(told: list[float] = told) -> None:
                    rate, seconds = size.rates[0], size.lag_s
                    told.append(periodic_load.at_rate(mesh.server, rate, seconds, mesh.log))

                with mesh.probe() as probe:
                    probe.arrive()
                    lags = probe.lags(work)
                    start = time.perf_counter()
                    periodic_load.backlog(mesh.server, size.backlog, mesh.log)
                    probe.arrive()
                    took = time.perf_counter() - start
                page.note(name, "p50 ms", repetition, 1e3 * quantile(lags, 0.50))
                page.note(name, "p99 ms", repetition, 1e3 * quantile(lags, 0.99))
                page.note(name, "tps", repetition, told[0])
                page.note(name, "backlog written and arrived s", repetition, took)
            if wrong := periodic_load.differing(mesh.databases):
                raise RunFailed(f"nodes differ: {', '.join(wrong)}", "")

    def _page(self, part: str) -> Page:
        return Page(self.ledger, part, self.major)

    def _root(self, name: str) -> Path:
        """A new directory; its name is short, for the sockets in it."""
        return self.work / f"{name[:3]}{next(self._numbers)}"


def _connect(engine: Engine, *, linked: bool = False) -> None:
    assert isinstance(engine, Carrier)
    engine.connect(linked=linked)


@contextlib.contextmanager
def _noted(page: Page, name: str) -> Iterator[None]:
    """What goes wrong is a result too."""
    try:
        yield
    except TROUBLE as error:
        print(f"    {name}: {error}", file=sys.stderr)
        page.fail(name, error.public if isinstance(error, RunFailed) else type(error).__name__)
