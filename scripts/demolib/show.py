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
PRICE = "UPDATE products SET price = {} WHERE id = 1"
SEEN_S = 20.0


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
        description="Two PostgreSQL servers, two agents, one shop kept in step: shown and checked.",
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
    _say("What would a join do? This changes nothing.")
    stage.type(warehouse, "join", "server-a", "--dry-run")
    _say("Do it: a full sync, all or nothing, verified, and from then on every change both ways.")
    stage.type(warehouse, "join", "server-a")
    _say("Compared by this script, with SQL on both servers:")
    equal = print_comparison(shop, warehouse, compare(shop, warehouse))
    _change(stage, shop, warehouse)
    _say("Compared again:")
    equal = print_comparison(shop, warehouse, compare(shop, warehouse)) and equal
    _race(stage, shop, warehouse)
    equal = print_comparison(shop, warehouse, compare(shop, warehouse)) and equal
    stage.type(warehouse, "status")
    stage.type(warehouse, "lag")
    stage.type(warehouse, "history")
    print(f"\ntook {time.monotonic() - started:.0f} s", flush=True)
    if not once:
        _stay(stage)
    return 0 if equal else 1


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


def _change(stage: Stage, shop: Server, warehouse: Server) -> None:
    _say(
        "Now the shop changes some rows (scripts/demolib/changes.sql),\n"
        "and the warehouse adds a product of its own:"
    )
    shop.psql((HERE / "changes.sql").read_text(encoding="utf-8"))
    _sql(warehouse, OWN_PRODUCT)
    stage.type(warehouse, "sync", "now", "--wait")
    _say("How long does a change take?")
    for here, there in ((shop, warehouse), (warehouse, shop)):
        took = _until_seen(here, there)
        print(f"{here.name} to {there.name}: {took * 1000:.0f} ms, psql included", flush=True)


def _until_seen(here: Server, there: Server) -> float:
    """Seconds from a commit here until a query there shows it."""
    name = f"seen from {here.name}"
    here.psql(f"UPDATE products SET name = '{name}' WHERE id = 900001")
    began = time.monotonic()
    while there.psql("SELECT name FROM products WHERE id = 900001").strip() != name:
        if time.monotonic() - began > SEEN_S:
            raise DemoError(f"the change did not come to {there.name}")
    return time.monotonic() - began


def _race(stage: Stage, shop: Server, warehouse: Server) -> None:
    _say("And if both change the same row while they can't see each other?")
    stage.type(warehouse, "sync", "pause")
    stage.type(shop, "sync", "pause")
    _sql(shop, PRICE.format(19))
    _sql(warehouse, PRICE.format(21))
    stage.type(warehouse, "sync", "resume")
    stage.type(shop, "sync", "resume")
    stage.type(warehouse, "sync", "now", "--wait")
    _say("Both have the later one, and the other is kept:")
    stage.type(warehouse, "conflicts", "list")


def _sql(server: Server, statement: str) -> None:
    print(f"{server.name}=> {statement};", flush=True)
    server.psql(statement)


def _stay(stage: Stage) -> None:
    _say("The pages. A browser has one login a host: write localhost in one, to see both at once.")
    for server in stage.servers:
        stage.ask(server, "admin", "link")
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
        'psql-b -c "SELECT note FROM orders WHERE id = 1"\n'
        "b status\nb lag\nb tables list\nb conflicts list\nb sequences plan\nb check\nb --help",
        flush=True,
    )
    while True:
        for server in stage.servers:
            if server.agent is not None and server.agent.poll() is not None:
                raise DemoError(f"the agent of {server.name} has ended: {server.home}/agent.log")
        time.sleep(0.5)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
