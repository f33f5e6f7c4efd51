"""init, peer invite, peer join: the first commands, as a person types them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from peersync.cli import main
from peersync.cli.context import Context
from peersync.transport.app import control_app
from peersync.transport.listener import listen_unix
from peersync.transport.peer_routes import peer_book_routes
from tests.integration.two_nodes import Node, listening, set_up
from tests.plugins.clusters import Database


def run(home: Path, *args: str) -> int:
    return main.run(args, Context(environ={"HOME": str(home)}, uid=1000))


def init(home: Path, *args: str) -> int:
    return run(home, "init", "--name", "server-a", *args)


def test_init_makes_a_node_and_prints_what_comes_next(
    tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, "--database", f"shop={database.conninfo()}") == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["peersync agent", "peersync peer invite"]
    assert "database shop: " in said.err and "migrations applied" in said.err
    assert database.psql("SELECT count(*) > 0 FROM peersync.migration").strip() == "t"
    key = tmp_path / ".local/state/peersync/identity/node.key"
    config = tmp_path / ".config/peersync/peersync.toml"
    assert stat.S_IMODE(key.stat().st_mode) == stat.S_IMODE(config.stat().st_mode) == 0o600
    assert run(tmp_path, "config", "check") == 0
    link = said.err.splitlines()[-1]
    assert link.startswith("http://127.0.0.1:8790/#/first/")
    users = tmp_path / ".local/state/peersync/people.json"
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    assert link.rpartition("/")[2] not in users.read_text()


def test_init_again_changes_nothing_and_says_what_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert init(tmp_path, "--listen", "0.0.0.0:9999") == 7
    said = capsys.readouterr().err
    assert "set up already; nothing was changed" in said
    assert "peersync.toml" in said and "identity: server-a" in said
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_init_keeps_an_identity_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    Path(first["config"]).unlink()
    assert init(tmp_path, "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert second["node_id"] == first["node_id"]
    assert (first["identity_is_new"], second["identity_is_new"]) == (True, False)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--database", "shop=postgresql://u:canary@127.0.0.1:1/shop"), 5),
        (("--database", "shop"), 2),
        (("--database", "Shop!=postgresql:///x"), 2),
        (("--name", "Server A"), 2),
        (("--listen", "nowhere"), 7),
    ],
)
def test_an_init_that_fails_leaves_nothing_behind(
    args: tuple[str, ...], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, *args) == code
    said = capsys.readouterr()
    assert "canary" not in said.out + said.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def command(home: Path, *args: str, stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "peersync.cli.main", *args,
        stdin=-1, stdout=-1, stderr=-1,
        env={"PATH": os.environ["PATH"], "PEERSYNC_CONFIG": str(home / "peersync.toml")},
    )  # fmt: skip
    out, err = await process.communicate(stdin.encode())
    return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def with_socket(root: Path, name: str) -> AsyncIterator[Node]:
    async with AsyncExitStack() as stack:
        node = await asyncio.to_thread(set_up, root, name)
        await stack.enter_async_context(listening(node))
        path = node.state_dir / "agent.sock"
        await stack.enter_async_context(listen_unix(control_app(peer_book_routes(node.desk)), path))
        (node.state_dir / "peersync.toml").write_text(
            f'[node]\nname = "{name}"\nstate_dir = "{node.state_dir}"\n'
        )
        yield node


async def test_two_servers_are_paired_by_pasting_one_line(tmp_path: Path) -> None:
    async with with_socket(tmp_path, "server-a") as a, with_socket(tmp_path, "server-b") as b:
        code, out, err = await command(a.state_dir, "peer", "invite")
        assert (code, out.count("\n")) == (0, 1) and "15 minutes" in err
        line = out.strip()
        code, _, err = await command(b.state_dir, "peer", "join", "-", stdin=line)
        assert code == 0 and "Paired with server-a" in err
        code, _, err = await command(b.state_dir, "peer", "join", line[:-9])
        assert code == 2 and "not an invite line" in err
        code, out, _ = await command(a.state_dir, "peer", "list", "--probe", "--json")
        listed = json.loads(out)
        assert code == 0 and listed["schema_version"] == 1
        assert [(p["name"], p["reachable"]) for p in listed["peers"]] == [("server-b", True)]
        code, _, err = await command(a.state_dir, "peer", "allow", "server-b", "--schema")
        assert code == 0 and "server-b: pull, push, schema" in err
        code, _, err = await command(a.state_dir, "peer", "deny", "server-b", "--pull", "--push")
        assert code == 0 and "server-b: schema" in err
        code, out, _ = await command(a.state_dir, "peer", "list")
        assert out.splitlines()[0].split() == ["PEER", "ADDRESS", "RIGHTS", "FINGERPRINT"]
        code, _, err = await command(a.state_dir, "peer", "deny", "server-c", "--pull")
        assert code == 2 and "no peer 'server-c'" in err
        assert (await command(a.state_dir, "peer", "remove", "server-b"))[0] == 0
        code, out, _ = await command(b.state_dir, "peer", "list", "--probe")
        assert code == 5 and "not reachable" in out


async def test_without_an_agent_the_command_says_how_to_start_it(tmp_path: Path) -> None:
    (tmp_path / "peersync.toml").write_text(f'[node]\nstate_dir = "{tmp_path}"\n')
    code, _, err = await command(tmp_path, "peer", "list")
    assert code == 5 and "no agent is running" in err and "peersync agent" in err
