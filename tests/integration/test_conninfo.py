"""libpq's whole convention reaches asyncpg, psycopg and the client programs alike."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psycopg
import pytest

from peersync.config.secret import Secret
from peersync.core.errors import ConfigError
from peersync.postgres.binaries import find_tools
from peersync.postgres.conninfo import (
    Resolved,
    passfile_warning,
    read_password_file,
    resolve,
)
from tests.plugins.clusters import Database, MakeDatabase

PASSWORDS = ["plain", "p%40%c", "sp ace'quote", "back\\slash:colon", "пароль☃", "a@b/c?d=e"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))


@pytest.fixture
def person(make_database: MakeDatabase) -> Iterator[Database]:
    """A database with a role `person`, whose password the test sets."""
    database = make_database()
    database.cluster.createrole("person")
    yield database
    database.cluster.createrole("person")  # the cluster's own password again


def set_password(database: Database, password: str) -> None:
    with psycopg.connect(database.conninfo(), autocommit=True) as conn:
        conn.execute(
            psycopg.sql.SQL("ALTER ROLE person PASSWORD {}").format(psycopg.sql.Literal(password))
        )


async def who_by_each(resolved: Resolved) -> set[tuple[str, str]]:
    """(user, database) that asyncpg, psycopg and psql each end up as."""
    query = "SELECT current_user::text, current_database()::text"
    conn = await asyncpg.connect(**resolved.asyncpg_kwargs())
    try:
        found = {tuple(await conn.fetchrow(query))}
    finally:
        await conn.close()
    async with await psycopg.AsyncConnection.connect(resolved.psycopg_conninfo()) as other:
        found.add(await (await other.execute(query)).fetchone() or ("", ""))
    found.add(await asyncio.to_thread(who_by_psql, resolved, query))
    return found


def who_by_psql(resolved: Resolved, query: str) -> tuple[str, str]:
    with resolved.child_env() as env:
        done = subprocess.run(
            [find_tools("psql")[-1].path, "-XqAtF,", "-w", "-c", query],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
    user, _, dbname = done.stdout.strip().partition(",")
    return user, dbname


@pytest.mark.may_block("the password is set by a synchronous connection")
@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("way", ["keywords", "uri", "pgpass", "service", "environment", "file"])
async def test_a_password_arrives_whole_by_every_way(
    person: Database, password: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_password(person, password)
    port = person.cluster.port
    base = f"host=127.0.0.1 port={port} user=person dbname={person.name}"
    given = None
    if way == "keywords":
        base = psycopg.conninfo.make_conninfo(base, password=password)
    elif way == "uri":
        base = f"postgresql://person:{quote(password, safe='')}@127.0.0.1:{port}/{person.name}"
    elif way == "pgpass":
        passfile = tmp_path / "pgpass"
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        passfile.write_text(f"other:*:*:*:wrong\n127.0.0.1:{port}:*:person:{escaped}\n")
        passfile.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(passfile))
    elif way == "service":
        (tmp_path / "services").write_text(
            "[shop]\n" + base.replace(" ", "\n") + f"\npassword={password}\n"
        )
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        monkeypatch.setenv("PGSERVICE", "shop")
        base = ""
    elif way == "environment":
        monkeypatch.setenv("PGPASSWORD", password)
    elif way == "file":
        file = tmp_path / "password"
        file.write_text(password + "\n")
        file.chmod(0o600)
        given = read_password_file(str(file), {})
    resolved = resolve(base, password=given)
    for name in ("PGSERVICE", "PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE"):
        monkeypatch.delenv(name, raising=False)  # resolved once: nothing is looked up again

    assert await who_by_each(resolved) == {("person", person.name)}
    assert password not in f"{resolved!r} {resolved.display()}"


@pytest.mark.may_block("psycopg resolves names in a thread of its own")
async def test_variables_and_a_bare_string_are_enough(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", str(database.cluster.socket_dir))
    monkeypatch.setenv("PGPORT", str(database.cluster.port))
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", database.name)
    assert await who_by_each(resolve("")) == {("postgres", database.name)}


async def test_options_and_the_next_host_are_honoured(database: Database) -> None:
    port = database.cluster.port
    resolved = resolve(
        f"host=/nonexistent,{database.cluster.socket_dir} port=1,{port} user=postgres "
        f"dbname={database.name} options='-c work_mem=7MB' connect_timeout=5"
    )
    assert resolved.ports == (1, port)
    conn = await asyncpg.connect(**resolved.asyncpg_kwargs())
    try:
        assert await conn.fetchval("SHOW work_mem") == "7MB"
    finally:
        await conn.close()


async def test_the_session_shows_who_it_is(database: Database) -> None:
    resolved = resolve(database.conninfo())
    conninfo = resolved.psycopg_conninfo(application_name="peersync/full-sync/7")
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        row = await (await conn.execute("SHOW application_name")).fetchone()
    assert row == ("peersync/full-sync/7",)


def test_a_password_is_in_a_private_file_and_nowhere_else(tmp_path: Path) -> None:
    resolved = resolve("host=h user=u dbname=d password=canary sslmode=require")
    with resolved.child_env(base={"PATH": "/bin", "PGOPTIONS": "old", "PGSERVICE": "s"}) as env:
        passfile = Path(env["PGPASSFILE"])
        assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
        assert passfile.read_text() == "*:*:*:*:canary\n"
        assert "canary" not in str(env)
        assert (env["PGSSLMODE"], env["PGHOST"], env["PATH"]) == ("require", "h", "/bin")
        assert "PGOPTIONS" not in env
        assert "PGSERVICE" not in env
    assert not passfile.exists()


@pytest.mark.parametrize(
    "conninfo",
    [
        "canary",
        "password=can ary",
        "postgresql://u:canary@h:port:x/d",
        "postgresql://u:canary",
        "host=h nonsense='canary'",
        "postgresql://u:canary@h/d?bogus=canary",
        "host=h password=canary sslmode=nonsense require_auth=none",
        "host=h port=x password=canary",
        "service=none password=canary",
    ],
)
def test_a_wrong_conninfo_is_refused_without_its_password(conninfo: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(conninfo)
    error = caught.value
    assert "canary" not in f"{error.message} {error.detail} {error.hint} {error.data}"
    assert "ary" not in (error.detail or "").replace("library", "")
    assert error.__cause__ is None


def test_a_missing_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("service=nowhere")
    assert 'service "nowhere" not found' in str(caught.value.detail)


@pytest.mark.parametrize("setting", ["channel_binding=require", "require_auth=scram-sha-256"])
def test_a_demand_that_could_not_be_kept_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="not supported"):
        resolve(f"host=h user=u dbname=d {setting}")


def test_tls_settings_reach_asyncpg(database: Database) -> None:
    resolved = resolve("host=h user=u dbname=d sslmode=verify-full sslrootcert=/ca.pem")
    assert resolved.asyncpg_kwargs()["dsn"] == (
        "postgresql:///?sslmode=verify-full&sslrootcert=%2Fca.pem&sslnegotiation=postgres"
    )


async def test_tls_that_is_demanded_is_not_given_up(database: Database) -> None:
    """The test server has no TLS: a client that falls back to plain text would get in."""
    resolved = resolve(database.conninfo(host="127.0.0.1") + " sslmode=require")
    with pytest.raises(ConnectionError):
        await asyncpg.connect(**resolved.asyncpg_kwargs())


def test_a_password_file_must_be_private(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("canary\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        read_password_file(str(file), {})
    assert caught.value.hint == f"chmod 600 {file}"
    assert "canary" not in str(caught.value)


def test_a_bare_name_is_a_credential_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("canary")
    (tmp_path / "shop").chmod(0o440)  # systemd's mode
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_password_file("shop", environ) == Secret("canary")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_password_file("shop", {})


def test_an_empty_password_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    with pytest.raises(ConfigError, match="empty"):
        read_password_file(str(file), {})


def test_a_passfile_that_libpq_ignores_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pgpass"
    file.write_text("*:*:*:*:canary\n")
    file.chmod(0o644)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert resolve("host=h user=u dbname=d").password is None
    assert f"chmod 600 {file}" in str(passfile_warning(file))
    file.chmod(0o600)
    assert passfile_warning(file) is None
    assert resolve("host=h user=u dbname=d").password == Secret("canary")
