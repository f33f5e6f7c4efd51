"""Rights that were taken away are gone at once, also for what is under way."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.agent.people.accounts import Accounts
from peersync.agent.people.desk import Browser, Desk
from peersync.agent.people.sessions import MOST_OF_USER, Sessions
from peersync.agent.workers import Workers
from peersync.core.errors import LoginNeeded
from tests.integration.people_rig import Page, add_user, log_in, make_token, one_node
from tests.plugins.clusters import GetCluster
from tests.plugins.nodes import Node, TwoNodes

OLD, NEW = "four words of old", "four words of new"
HERE = Browser("127.0.0.1", "a browser")


@pytest.fixture(scope="module")
def node(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with one_node(clusters, tmp_path_factory.mktemp("revoked"), "revoked_db") as made:
        add_user(made)
        yield made


class HalfSent:
    """A POST of which the last byte is still to come."""

    def __init__(self, node: Node, path: str, body: object, *lines: str) -> None:
        data = json.dumps(body).encode()
        head = [
            f"POST {path} HTTP/1.1", f"Host: {node.admin}", "Content-Type: application/json",
            f"Content-Length: {len(data)}", "Sec-Fetch-Site: same-origin", *lines,
        ]  # fmt: skip
        host, _, port = node.admin.rpartition(":")
        self._last = data[-1:]
        self._socket = socket.create_connection((host, int(port)), 10)
        self._socket.sendall("\r\n".join([*head, "", ""]).encode() + data[:-1])
        time.sleep(0.3)  # it has reached the handler, which waits for the rest

    def finish(self) -> bytes:
        """What is answered; nothing where the connection was cut."""
        try:
            self._socket.sendall(self._last)
            return self._socket.recv(4096)
        except ConnectionError:
            return b""
        finally:
            self._socket.close()


def names(page: Page) -> set[str]:
    return {user["name"] for user in page.get("/api/admin/users").json}


def test_a_request_that_was_begun_before_its_rights_were_taken_does_nothing(node: Node) -> None:
    admin = log_in(node)
    for number, take in enumerate(("remove", "demote", "end", "token")):
        add_user(node, "evil", "admin")
        evil = log_in(node, "evil")
        by = f"Cookie: {evil.cookie}"
        if take == "token":
            by = f"Authorization: Bearer {make_token(node, 'admin')}"
        half = HalfSent(node, "/api/admin/users", {"name": f"door{number}", "role": "admin"}, by)
        if take == "demote":
            admin.ask("PATCH", "/api/admin/users/evil", {"role": "viewer"})
        elif take == "end":
            admin.delete("/api/admin/sessions?user=evil")
        elif take == "token":
            admin.delete("/api/admin/tokens/test-admin")
        if take != "demote":
            admin.delete("/api/admin/users/evil")
        assert b"201" not in half.finish()
        if take == "demote":
            admin.delete("/api/admin/users/evil")
    assert not {name for name in names(admin) if name.startswith("door")}


def test_the_tokens_of_a_user_end_with_his_right_and_the_answer_names_them(node: Node) -> None:
    admin = log_in(node)
    add_user(node, "anna", "admin")
    anna = log_in(node, "anna")
    tokens = {}
    for role in ("viewer", "admin"):
        made = anna.post("/api/admin/tokens", {"name": f"anna-{role}", "role": role}).json
        assert made["owner"] == "anna"
        tokens[role] = Page(node, token=made["token"])
    child = tokens["admin"].post("/api/admin/tokens", {"name": "child", "role": "viewer"}).json
    assert child["owner"] == "anna"

    told = admin.ask("PATCH", "/api/admin/users/anna", {"role": "operator"}).json
    assert told["revoked_tokens"] == ["anna-admin"]
    assert tokens["admin"].get("/api/admin/status").code == "login-needed"
    assert tokens["viewer"].get("/api/me").status == 200
    told = admin.delete("/api/admin/users/anna").json
    assert told["revoked_tokens"] == ["anna-viewer", "child"]
    assert tokens["viewer"].get("/api/me").status == 401


def test_wrong_links_from_elsewhere_lock_nobody_out(node: Node) -> None:
    for last in range(10, 14):
        page = Page(node, address=f"127.0.0.{last}")
        answers = [page.post("/api/login/link", {"secret": "x"}).status for _ in range(11)]
        assert answers == [401] * 10 + [429]
    link = node.run("admin", "link", "--json").json["link"].rpartition("/")[2]
    assert Page(node, address="127.0.0.99").post("/api/login/link", {"secret": link}).status == 200


def test_an_operator_makes_no_member_and_says_no_other_name(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql("CREATE TABLE t (id int PRIMARY KEY)")
    add_user(target)
    add_user(target, "oper", "operator")
    page = log_in(target, "oper")
    wanted = {"action": "pull", "peer": "server-a", "database": "shop", "requestedBy": "admin"}
    for more in ({"join": True}, {"mirror": True, "undo": False}):
        for path in ("/api/admin/sync/full-sync", "/api/sync/safe"):
            assert page.post(path, {**wanted, **more}).status == 403
    started = page.post("/api/admin/sync/full-sync", wanted)
    assert started.status == 202
    assert page.get(f"/api/admin/jobs/{started.json['job']}").json["requested_by"] == "oper"


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    tmp_path.chmod(0o700)
    made = await _desk(tmp_path, Workers(pumps=1))
    await made.accounts.add("admin", "admin")
    await made.set_password("admin", OLD)
    return made


async def _desk(home: Path, workers: Workers) -> Desk:
    accounts = await asyncio.to_thread(Accounts, home)
    sessions = await asyncio.to_thread(lambda: Sessions(home, idle_s=3600, max_s=7200))
    return Desk(accounts, sessions, workers)


async def test_a_session_is_of_one_password_also_after_a_crash(desk: Desk, tmp_path: Path) -> None:
    """As if the agent had died after the password was written, and before the sessions were."""
    _, secret = await desk.login("admin", OLD, HERE)
    assert (await desk.of_cookie(secret)).role == "admin"
    await desk.accounts.set_password("admin", await desk.passwords.make(NEW))
    again = await _desk(tmp_path, Workers(pumps=1))
    with pytest.raises(LoginNeeded):
        await again.of_cookie(secret)


async def test_nobody_logs_others_out_by_logging_in_again_and_again(desk: Desk) -> None:
    _, secret = await desk.login("admin", OLD, HERE)
    for _ in range(2 * MOST_OF_USER):
        await desk.sessions.begin("viewer", address="", browser="")
    assert (await desk.of_cookie(secret)).user == "admin"
    assert len([s for s in desk.sessions.all() if s.user == "viewer"]) == MOST_OF_USER
