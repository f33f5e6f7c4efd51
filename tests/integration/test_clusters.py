"""The servers that all other integration tests stand on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pgcluster
import psycopg
import pytest
from pgcluster import Cluster, ClusterError

from tests.plugins.clusters import MAJORS, Database, GetCluster, MakeDatabase, Pair
from tests.plugins.corpus import Corpus

SCRIPTS = Path(pgcluster.__file__).parent
every_major = pytest.mark.parametrize("major", MAJORS)


@every_major
def test_a_server_of_each_major_answers_on_both_ways_in(clusters: GetCluster, major: int) -> None:
    cluster = clusters(major)
    for host in ("socket", "127.0.0.1"):
        with psycopg.connect(cluster.conninfo(host=host)) as connection:
            assert connection.info.server_version // 10000 == major
            assert connection.info.parameter_status("server_encoding") == "UTF8"


@every_major
async def test_asyncpg_takes_the_url_on_both_ways_in(clusters: GetCluster, major: int) -> None:
    cluster = clusters(major)
    for url in (cluster.url(), cluster.url(host="127.0.0.1")):
        connection = await asyncpg.connect(url)
        assert connection.get_server_version().major == major
        await connection.close()


@every_major
def test_a_wrong_password_is_refused(clusters: GetCluster, major: int) -> None:
    conninfo = clusters(major).conninfo(host="127.0.0.1")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(conninfo, password="guess")


@every_major
def test_committed_rows_are_there_after_a_restart_and_after_kill_9(major: int) -> None:
    if major not in pgcluster.find_installations():
        pytest.skip(f"no PostgreSQL {major} server programs here")
    with Cluster(major, durable=True) as cluster:
        assert cluster.psql("SHOW fsync") == "on"
        cluster.psql("CREATE TABLE t AS SELECT 1 AS n")
        cluster.restart()
        cluster.kill()
        assert cluster.pid is None
        cluster.start()
        assert cluster.psql("SELECT n FROM t") == "1"
    assert not cluster.root.exists()


def test_a_directory_of_the_callers_is_kept_with_its_settings(database: Database) -> None:
    root = database.cluster.root.parent / f"peersync-test-{os.getpid()}"
    try:
        with Cluster(database.major, root=root, settings={"cluster_name": "it's"}) as cluster:
            cluster.createdb("kept")
        with Cluster(database.major, root=root) as cluster:
            assert cluster.psql("SHOW cluster_name", "kept") == "it's"
    finally:
        shutil.rmtree(root)


def test_a_failed_start_shows_the_servers_own_words(database: Database) -> None:
    cluster = Cluster(database.major, settings={"shared_buffers": "no"})
    try:
        with pytest.raises(ClusterError, match="invalid value for parameter"):
            cluster.start()
    finally:
        cluster.close()


def test_sigkill_of_the_process_that_started_it_leaves_no_server_and_no_files(
    database: Database,
) -> None:
    program = (
        f"import sys, time; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        f"from pgcluster import Cluster\n"
        f"c = Cluster({database.major}); c.start()\n"
        "print(c.pid, c.root, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, root = parent.stdout.readline().decode().split()
        assert Path(f"/proc/{pid}/cwd").exists()
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cwd").exists() or Path(root).exists():
        assert time.monotonic() < deadline, f"server {pid} or {root} is still there"
        time.sleep(0.02)


def test_a_database_is_a_copy_of_its_template_and_gone_after_the_test(
    make_database: MakeDatabase, clusters: GetCluster
) -> None:
    model = make_database(18)
    model.psql("CREATE TABLE t AS SELECT generate_series(1, 3) AS n")
    copy = make_database(18, template=model.name, owner="plain role")
    assert copy.psql("SELECT count(*) FROM t", user="postgres") == "3"
    assert copy.psql(
        "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
    ) == ("plain role|f")


def test_source_and_target_are_two_servers(source_target: Pair) -> None:
    source, target = source_target
    assert source.cluster.port != target.cluster.port
    source.psql("CREATE TABLE only_here ()")
    assert target.psql("SELECT to_regclass('only_here') IS NULL") == "t"


@pytest.mark.parametrize(
    ("name", "major"), [("kitchensink", 15), ("pagila", 15), ("pagila", 17), ("pagila", 18)]
)
def test_a_real_dump_loads_and_is_copied(
    corpus: Corpus, clusters: GetCluster, make_database: MakeDatabase, name: str, major: int
) -> None:
    tables = {"kitchensink": 144, "pagila": 21}[name]
    copy = make_database(major, template=corpus.template(name, clusters(major)))
    counted = copy.psql(
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384"
    )
    assert int(counted) >= tables
