"""The sockets of an agent: who has them, and what they say of its health."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from peersync.core.errors import (
    AgentNotRunning,
    ConfigError,
    Locked,
    NotFound,
)
from peersync.transport.app import control_app, json_response, people_app
from peersync.transport.body import read_body
from peersync.transport.health import Asked, Check, health_routes
from peersync.transport.listener import listen_tcp, listen_unix
from peersync.transport.local import AgentClient
from peersync.wire.messages import Ok


# --- the agent's socket -------------------------------------------------------------------
async def test_the_socket_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    async with listen_unix(control_app([]), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    async with listen_unix(control_app([]), path, mode=0o660):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_the_socket_of_a_dead_agent_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with AgentClient(path) as agent:
        with pytest.raises(AgentNotRunning, match="no agent is running"):
            await agent.get("/x", Ok)
        async with listen_unix(control_app([]), path):
            with pytest.raises(NotFound):
                await agent.get("/x", Ok)


async def test_a_second_agent_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listen_unix(control_app([]), path):
        with pytest.raises(Locked, match=f"pid {os.getpid()}") as caught:
            async with listen_unix(control_app([]), path):
                pytest.fail("two agents on one socket")
        assert caught.value.data["holder"] == {"pid": os.getpid()}
        assert path.exists()


async def test_a_file_in_the_place_of_the_socket_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="not a socket"):
        async with listen_unix(control_app([]), path):
            pytest.fail("listening on a file")
    assert path.read_text() == "data"


async def test_no_agent_is_said_with_the_command_that_starts_it(tmp_path: Path) -> None:
    async with AgentClient(tmp_path / "none") as agent:
        with pytest.raises(AgentNotRunning) as caught:
            await agent.get("/x", Ok)
    assert "peersync agent" in str(caught.value.hint)


async def test_a_port_in_use_is_said_before_anything_runs() -> None:
    async with listen_tcp(control_app([]), "127.0.0.1", 0) as address:
        with pytest.raises(ConfigError, match=f"cannot listen on {address}"):
            async with listen_tcp(control_app([]), *address):
                pytest.fail("two listeners on one port")


# --- health -------------------------------------------------------------------------------
@asynccontextmanager
async def people(*, ready: bool, show: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    async def checks(asked: Asked) -> list[Check]:
        return [Check("database shop", ready, f"lag {asked.max_lag_s}")]

    registry = CollectorRegistry()
    Counter("peersync_things", "Things.", registry=registry).inc(3)
    app = people_app(health_routes(checks, registry, show_checks=show))
    async with (
        listen_tcp(app, "127.0.0.1", 0) as address,
        aiohttp.ClientSession(f"http://{address}") as session,
    ):
        yield session


async def test_health_says_yes_or_no_and_nothing_else_to_the_network() -> None:
    async with people(ready=True) as good, people(ready=False) as bad:
        async with good.get("/healthz") as response:
            assert (response.status, await response.text()) == (200, '{"ok":true}')
        async with good.get("/readyz") as response:
            assert (response.status, await response.text()) == (200, '{"ready":true}')
        async with bad.get("/readyz") as response:
            assert (response.status, await response.text()) == (503, '{"ready":false}')
        async with good.get("/metrics") as response:
            assert "peersync_things_total 3.0" in await response.text()


async def test_the_checks_are_named_where_the_asker_is_local() -> None:
    async with people(ready=False, show=True) as session:
        async with session.get("/readyz?max_lag=2min") as response:
            told = await response.json()
        assert told["checks"] == [{"name": "database shop", "ok": False, "text": "lag 120.0"}]
        async with session.get("/readyz?max_lag=soon") as response:
            assert response.status == 400


async def test_another_host_name_is_refused_and_answers_carry_the_headers() -> None:
    async with people(ready=True) as session:
        async with session.get("/healthz", headers={"Host": "evil.example:8790"}) as response:
            assert response.status == 403
        async with session.get("/healthz", headers={"Host": "localhost:8790"}) as response:
            assert response.status == 200
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["Server"] == "peersync"
            assert response.headers["X-Request-ID"]
        crafted = {"X-Request-ID": "x y\\n" * 30}
        async with session.get("/healthz", headers=crafted) as response:
            assert response.headers["X-Request-ID"] not in crafted.values()


async def test_read_body_takes_exactly_its_limit(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return json_response({"ok": len(await read_body(request, limit=1000)) == 1000})

    app = control_app([web.post("/x", handler)])
    async with listen_unix(app, tmp_path / "s") as path, AgentClient(path) as agent:
        assert (await agent.post("/x", "x" * 998, Ok)).ok  # two quotes come on top
