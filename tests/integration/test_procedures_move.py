"""docs/procedures.md: a node goes to another machine, or is removed, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgcluster import Cluster
from pgprograms import as_server_user, environment

from tests.integration.periodic_rig import wait_until
from tests.integration.procedures_rig import dump, walk
from tests.integration.test_join import shows
from tests.integration.test_procedures import in_sync, members
from tests.plugins.clusters import Database, Pair
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, Node, TwoNodes, introduce

TITLE = "Move to a new server"


@pytest.fixture
def new_server() -> Iterator[Cluster]:
    """A server that no test has used: its transaction numbers begin where a new one's do."""
    with Cluster(18) as cluster:
        yield cluster


def moved(node: Node, database: Database, make_node: MakeNode) -> Node:
    """The node on another machine, to which its configuration and state directory were copied."""
    made = make_node(f"{node.name}-moved", database, start=False)
    made.name, made.listen = node.name, node.listen
    text = made.config.read_text()
    for key, value in (("name", node.name), ("listen", node.listen)):
        text = re.sub(rf"^{key} = .*$", f'{key} = "{value}"', text, count=1, flags=re.M)
    made.config.write_text(text)
    shutil.rmtree(made.state_dir)
    shutil.copytree(node.state_dir, made.state_dir)
    return made


def test_a_server_whose_files_are_copied_goes_on_at_once(
    pair_18: TwoNodes, new_server: Cluster, make_node: MakeNode
) -> None:
    source, old = members(pair_18)
    old.database.psql("UPDATE item SET name = 'just before' WHERE id = 1")
    with walk(TITLE) as steps:
        steps.skip_to("systemctl stop")
        steps.type(old)
        steps.type(old)
        old.database.psql("UPDATE item SET name = 'not sent yet' WHERE id = 3")
        new_server.stop()
        shutil.rmtree(new_server.data)
        subprocess.run(
            [new_server.bindir / "pg_basebackup", "-D", new_server.data, "-c", "fast",
             "-d", old.database.cluster.conninfo()],
            check=True, env=environment(), cwd="/", **as_server_user(),
        )  # fmt: skip
        new_server.start()
        new = moved(old, Database(new_server, old.database.name), make_node)
        steps.type(new)
        steps.type(new, check=False)
        assert steps.type(new).code == 0
        steps.stop_before("peersync sync now")
    assert new.database.psql("SELECT state FROM peersync.replica") == "active"
    new.database.psql("UPDATE item SET name = 'from the new machine' WHERE id = 2")
    source.database.psql("DELETE FROM note WHERE item = 4")
    shows(source.database, "SELECT name FROM item WHERE id = 2", "from the new machine")
    shows(source.database, "SELECT name FROM item WHERE id = 3", "not sent yet")
    new.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, new.database)
    new.close()


def test_a_server_that_was_dumped_is_held_and_takes_everything_anew(
    pair_18: TwoNodes, new_server: Cluster, make_node: MakeNode
) -> None:
    source, old = pair_18
    for _ in range(3):  # more transactions than a new server has had
        old.database.psql(
            "DO $$ BEGIN FOR i IN 1..3000 LOOP"
            " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )
    members(pair_18)
    mark = old.state_dir / "positions" / "shop.json"
    wait_until("its agent has noted it", lambda: mark.exists() and '"home":"' in mark.read_text())
    new_server.createdb("shop")
    with walk(TITLE) as steps:
        steps.skip_to("systemctl stop")
        steps.skip_to("peersync sync now")
        steps.left.pop(0)
        steps.skip_to("peersync sync now")
        assert steps.type(old).code == 0
        steps.type(old)
        steps.type(old)
        new = moved(old, Database(new_server, "shop"), make_node)
        new.database.psql("DROP SCHEMA peersync CASCADE")
        new.database.psql(dump(old))
        steps.type(new)
        shows(new.database, "SELECT state FROM peersync.replica", "held")
        told = steps.type(new, check=False).out
        assert "was restored from a dump" in told
        assert "peersync rebaseline server-a" in told
        steps.type(new, PEER="server-a")
        assert steps.type(new).code == 0
    new.database.psql("UPDATE item SET name = 'from the new machine' WHERE id = 3")
    shows(source.database, "SELECT name FROM item WHERE id = 3", "from the new machine")
    source.database.psql("UPDATE item SET name = 'to the new machine' WHERE id = 4")
    shows(new.database, "SELECT name FROM item WHERE id = 4", "to the new machine")
    in_sync(new)
    assert_same_rows(source.database, new.database)
    new.close()


SINK = """
CREATE TYPE mood AS ENUM ('calm', 'night');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SCHEMA "Other Schema";
CREATE TABLE parts (id bigint GENERATED ALWAYS AS IDENTITY, at date NOT NULL, m mood,
                    PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2026-01-01');
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
CREATE TABLE "Other Schema"."Größe" (a text, b positive, c int GENERATED ALWAYS AS (b * 2) STORED);
CREATE TABLE bag (a int, b text);
CREATE TABLE kin (id serial PRIMARY KEY, up int REFERENCES kin DEFERRABLE, j jsonb, t text[]);
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
CREATE INDEX ON kin USING gin (j);
CREATE VIEW calm AS SELECT * FROM parts WHERE m = 'calm';
CREATE MATERIALIZED VIEW heap AS SELECT count(*) FROM bag;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON kin FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER always BEFORE UPDATE ON bag FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE bag ENABLE ALWAYS TRIGGER always;
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch_ddl ON ddl_command_end EXECUTE FUNCTION watch();
CREATE RULE quiet AS ON DELETE TO bag WHERE OLD.a < 0 DO INSTEAD NOTHING;
ALTER TABLE kin ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON kin USING (true);
ALTER TABLE kin REPLICA IDENTITY FULL;
GRANT SELECT ON kin TO PUBLIC;
COMMENT ON TABLE kin IS 'a kitchen sink';
CREATE PUBLICATION all_of_it FOR TABLE kin;
INSERT INTO parts (at, m) SELECT '2025-12-25'::date + n, 'calm' FROM generate_series(1, 20) n;
INSERT INTO "Other Schema"."Größe" VALUES ('x', 1), ('x', 1);
INSERT INTO bag VALUES (1, 'a'), (1, 'a');
INSERT INTO kin (up, j, t) VALUES (NULL, '{"a": 1}', '{x}'), (1, NULL, NULL);
SELECT lo_from_bytea(4711, 'large');
"""
ROLE = "peersync"


def test_peersync_is_removed_without_a_trace(
    source_target: Pair, make_node: MakeNode, tmp_path: Path
) -> None:
    """What pg_dump says of a kitchen sink is the same before and after; nor is a role left."""
    source, target = source_target.source, source_target.target
    for database in source_target:
        database.psql(SINK)
    before = Node("x", target, tmp_path)
    kept, grants = dump(before), parameter_grants(target)
    role_before = target.psql("SELECT count(*) FROM pg_roles")
    target.cluster.createrole(ROLE)
    target.psql(f'GRANT CREATE ON DATABASE "{target.name}" TO {ROLE}')

    a = make_node("server-a", source, start=False)
    b = make_node("server-b", target, start=False, conninfo=target.conninfo(user=ROLE))
    b.database.psql(b.run("grants", "--mode", "join", "--missing", "--sql").out)
    introduce(b, a)
    for node in (a, b):
        node.start()
    joined = b.run("join", "server-a", "--yes", check=False)
    assert joined.code in (0, 3), joined.err
    source.psql("UPDATE bag SET b = 'z'")
    shows(target, "SELECT DISTINCT b FROM bag", "z")
    target.psql("UPDATE bag SET b = 'a'")
    shows(source, "SELECT DISTINCT b FROM bag", "a")
    assert dump(b) != kept

    with walk("Remove peersync without a trace") as steps:
        steps.type(b)
        steps.type(b)
        steps.type(b)
        assert "schema peersync" in steps.type(b).out
        assert "peersync is gone from shop" in steps.type(b).err
        for _ in range(3):
            steps.type(b)
        removed = steps.next().split()
        assert removed[:2] == ["rm", "-rf"]
        assert "/var/lib/peersync" in removed  # a test's are elsewhere
        steps.type(a, PEER="server-b")
        assert "server-b" not in steps.type(a, check=False).out
    assert dump(b) == kept
    assert parameter_grants(target) == grants
    assert target.psql("SELECT count(*) FROM pg_roles") == role_before
    everything = "SELECT count(*) FROM {} WHERE {} LIKE '%peersync%'"
    for catalog, name in (
        ("pg_namespace", "nspname"), ("pg_trigger", "tgname"), ("pg_event_trigger", "evtname"),
        ("pg_proc", "proname"), ("pg_roles", "rolname"), ("pg_class", "relname"),
        ("pg_type", "typname"), ("pg_locks", "locktype"), ("pg_replication_slots", "slot_name"),
        ("pg_stat_activity", "application_name"),
    ):  # fmt: skip
        found = target.psql(everything.format(catalog, name))
        assert found == "0", f"{catalog}: {found}"


def parameter_grants(database: Database) -> str:
    """What the role may set; the database's own dump does not have it."""
    return database.psql(
        "SELECT parname FROM pg_parameter_acl WHERE paracl::text ~ '[{,]peersync='"
    )
