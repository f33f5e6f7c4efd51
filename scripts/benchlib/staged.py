"""What `scripts/bench delta` and `verify` have in common: options, the run, what is printed."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchlib import cells, cells_report
from benchlib.cells import Cell, Ledger, Plan
from benchlib.cells_report import Goal, Line
from benchlib.differing import Case, State
from benchlib.stage import FAILURES, Terms, public

SCRIPT = "script"  # stands for the engine where a whole table could not be measured


def add_options(parser: argparse.ArgumentParser, names: list[str]) -> None:
    """The options of both verbs; `names` is what `--only` takes."""
    parser.add_argument("--quick", action="store_true", help="small tables: whether it works")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=names,
        help=f"tables, keys, states, engines: {', '.join(names)}",
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="times the rows")
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="repetitions of each turn"
    )
    parser.add_argument("--major", type=int, metavar="N", help="on servers of this major")
    parser.add_argument(
        "--patience",
        type=float,
        default=20.0,
        metavar="S",
        help="seconds that a turn waits at most for a calm machine (default 20)",
    )
    parser.add_argument(
        "--link", action="store_true", help="count all bytes between the agents, by a proxy"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the servers' files go")


def plan(
    options: argparse.Namespace,
    states: tuple[State, ...],
    engines: tuple[str, ...],
    here: Callable[[str], bool],
) -> Plan:
    """What the options ask for; of the engines, those that are `here`."""
    if absent := [name for name in engines if name in options.only and not here(name)]:
        sys.exit(f"cannot take part here: {', '.join(absent)}")
    scale = options.scale / (cells.QUICK if options.quick else 1)
    rows = {shape: max(64, round(count * scale)) for shape, count in cells.ROWS.items()}
    repeat = max(1, options.repeat)
    there = tuple(name for name in engines if here(name))
    return cells.choose(
        *(options.only, states, there, rows, repeat, options.patience), quick=options.quick
    )


def run(
    options: argparse.Namespace,
    plan: Plan,
    major: int,
    ledger: Ledger,
    play: Callable[[Case, Terms], None],
) -> bool:
    """Every table in turn; whether somebody stopped it. Its directory is gone afterwards."""
    if not major:
        sys.exit("nothing to run: no PostgreSQL server programs are here")
    work = Path(tempfile.mkdtemp(prefix="psd-", dir=options.dir))
    work.chmod(0o755)  # the servers' user has its directories in here
    try:
        for case in plan.cases:
            try:
                play(case, Terms(major, plan.repeat, plan.patience_s, work, options.link))
            except Exception as error:  # what was measured stays
                if isinstance(error, FAILURES):
                    print(f"{case.name}: {error}", file=sys.stderr)
                else:
                    traceback.print_exc()
                ledger.cells.append(Cell(case, None, SCRIPT, 0, error=public(error)))
    except KeyboardInterrupt:
        print("stopped; what was measured so far:", file=sys.stderr)
        return True
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return False


def publish(
    options: argparse.Namespace,
    machine: dict[str, Any],
    ledger: Ledger,
    lines: list[Line],
    goals: list[Goal],
    text: str,
    rivals: list[str],
) -> None:
    """Tables to standard output; everything into the file, if one is wanted."""
    print("\n\n".join([text, "## Rivals", "\n".join(rivals)]))
    if options.json:
        size = "quick" if options.quick else "full"
        about = {"written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        about_all = about | {"size": size, "scale": options.scale, "machine": machine}
        document = cells_report.document(ledger, lines, goals, about_all | {"rivals": rivals})
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def exit_code(ledger: Ledger, *, stopped: bool) -> int:
    """0: all was measured. 1: something failed. 130: stopped."""
    if stopped:
        return 130
    return 1 if ledger.failed or not ledger.cells else 0
