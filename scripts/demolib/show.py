"""The story that `scripts/demo` tells, in the order in which it tells it."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from pgcluster import ClusterError, find_installations

from demolib.compare import compare, print_comparison
from demolib.stage import DATABASE, DemoError, Server, Stage, peersync_program

HERE = Path(__file__).parent
OWN_PRODUCT = "INSERT INTO products (id, sku, name, price) VALUES (900001, 'OWN-1', 'Pallet', 12)"
OWN_ROWS = {"products": "t.sku = 'OWN-1'"}


def main() -> int:
    options = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    try:
        with Stage() as stage:
            try:
                return _play(stage, options.rows, once=options.once)
            except KeyboardInterrupt:
                print("\nstopping; everything is removed", flush=True)
                return 130
    except (DemoError, ClusterError) as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Two PostgreSQL servers, two agents, one shop: a full sync, shown and checked.",
    )
    parser.add_argument("--once", action="store_true", help="end after the check")
    parser.add_argument(
        "--rows", metavar="N", type=_rows, default=100_000, help="about how many (100000)"
    )
    return parser.parse_args()


def _rows(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 50_000_000:
        raise argparse.ArgumentTypeError("a number from 1 to 50000000")
    return int(text)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _play(stage: Stage, rows: int, *, once: bool) -> int:
    started = time.monotonic()
    shop, warehouse = _set_up(stage, rows)
    _say("Nothing is paired yet. server-a invites, server-b joins; both then know each other.")
    line = stage.ask(shop, "peer", "invite").split()[-1]
    stage.type(warehouse, "peer", "join", line)
    _say("server-b lets server-a bring its table definitions, because it has none.")
    stage.type(warehouse, "peer", "allow", "server-a", "--schema")
    _say("What would a pull do? This changes nothing.")
    stage.type(warehouse, "pull", "server-a", "--dry-run")
    _say("Do it: all or nothing, and verified before it is committed.")
    stage.type(warehouse, "pull", "server-a")
    _say("Compared by this script, with SQL on both servers:")
    equal = print_comparison(shop, warehouse, compare(shop, warehouse, {}))
    _change(shop, warehouse)
    stage.type(warehouse, "pull", "server-a", "--yes")
    _say("Compared again. The row that only server-b has is still there:")
    compared = compare(shop, warehouse, OWN_ROWS)
    equal = print_comparison(shop, warehouse, compared) and equal
    kept = sum(c.only_here for c in compared) == 1
    if not kept:
        print("THE OWN ROW OF server-b IS GONE", flush=True)
    stage.type(warehouse, "status")
    stage.type(warehouse, "history")
    print(f"\ntook {time.monotonic() - started:.0f} s", flush=True)
    if not once:
        _stay(stage)
    return 0 if equal and kept else 1


def _set_up(stage: Stage, rows: int) -> tuple[Server, Server]:
    majors = sorted(find_installations())
    if not majors:
        raise DemoError("no PostgreSQL server programs were found, not even those of .venv")
    older, newer = (17, 18) if {17, 18} <= set(majors) else (majors[0], majors[-1])
    print(f"Everything lives in {stage.work} and is removed at the end.", flush=True)
    shop = stage.add_server("server-a", older)
    warehouse = stage.add_server("server-b", newer)
    for server, what in ((shop, "the shop"), (warehouse, "the warehouse, still empty")):
        version = server.cluster.programs.version
        print(f"{server.name}: PostgreSQL {version}, database {DATABASE}: {what}", flush=True)
    shop.psql(f"\\set rows {rows}\n" + (HERE / "shop.sql").read_text(encoding="utf-8"))
    for server in (shop, warehouse):
        _init(stage, server)
        stage.start_agent(server)
    return shop, warehouse


def _init(stage: Stage, server: Server) -> None:
    stage.type(
        server,
        *("init", "--name", server.name, "--database", f"{DATABASE}={server.conninfo}"),
        *("--state-dir", str(server.home / "state"), "--socket", str(server.socket)),
        *("--listen", server.listen, "--admin", server.admin),
    )


def _change(shop: Server, warehouse: Server) -> None:
    _say(
        "Now the shop changes some rows (scripts/demolib/changes.sql),\n"
        "and the warehouse adds a product of its own:"
    )
    shop.psql((HERE / "changes.sql").read_text(encoding="utf-8"))
    print(f"server-b=> {OWN_PRODUCT};", flush=True)
    warehouse.psql(OWN_PRODUCT)
    _say("Pull again. Only rows that differ are written; rows that are only here stay.")


def _stay(stage: Stage) -> None:
    program = shlex.quote(str(peersync_program()))
    print("\nBoth servers stay up until Ctrl-C. In another terminal:\n")
    for server in stage.servers:
        letter = server.name[-1]
        psql = shlex.quote(str(server.cluster.bindir / "psql"))
        print(f"# {server.name}")
        print(f"#   configuration   {server.config}")
        print(f"#   agent's log     {server.home / 'agent.log'}")
        print(f"#   control socket  {server.socket}")
        print(f"#   peers           {server.listen}")
        print(f'alias {letter}="{program} --config {server.config}"')
        print(f"alias psql-{letter}=\"{psql} '{server.conninfo}'\"")
        print(f"curl http://{server.admin}/healthz\n")
    print(
        "psql-a -c \"UPDATE orders SET note = 'hello' WHERE id = 1\"\n"
        "b pull server-a --dry-run\nb pull server-a\nb status\nb history\nb check\nb --help",
        flush=True,
    )
    while True:
        for server in stage.servers:
            if server.agent is not None and server.agent.poll() is not None:
                raise DemoError(f"the agent of {server.name} has ended: {server.home}/agent.log")
        time.sleep(0.5)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
