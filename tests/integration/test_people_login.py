"""Who gets in at a node's page: logins, their ends, links, tokens and roles."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from peersync.agent.people.rights import RIGHTS, may
from tests.integration.people_rig import (
    PASSWORD,
    Page,
    add_user,
    log_in,
    make_token,
    one_node,
    read_event,
)
from tests.plugins.clusters import GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node


@pytest.fixture(scope="module")
def node(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with one_node(clusters, tmp_path_factory.mktemp("alone"), "people_login") as running:
        add_user(running)
        add_user(running, "vera", "viewer")
        yield running


@pytest.fixture
def page(node: Node) -> Page:
    return log_in(node)


def test_a_login_opens_what_the_command_line_has(node: Node, page: Page) -> None:
    me = page.get("/api/me").json
    assert (me["user"], me["role"], me["node"], me["needs_password"]) == (
        "admin", "admin", "alone", False,
    )  # fmt: skip
    assert page.get("/api/admin/status").json["node"] == "alone"
    assert page.get("/api/admin/overview").json["sentence"] == "No peer is known yet."
    assert page.get("/api/admin/peers").json["name"] == "alone"
    assert page.post("/api/logout").json == {"user": "admin"}
    assert page.get("/api/me").code == "login-needed"


def path_of(pattern: str) -> str:
    for name in ("job", "id", "name"):
        pattern = pattern.replace(f"{{{name}}}", "0")
    return pattern.replace("{file}", "app.js")


def test_each_role_does_what_it_may_and_nobody_nothing(node: Node) -> None:
    nobody = Page(node)
    roles = [(role, Page(node, token=make_token(node, role))) for role in ("viewer", "operator")]
    for (method, pattern), wanted in RIGHTS.items():
        if wanted == "anyone":
            continue
        path = path_of(pattern)
        refused = nobody.ask(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
        assert (refused.status, refused.code) == (401, "login-needed"), (method, path)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        for role, page in roles:
            if not may(role, wanted):  # type: ignore[arg-type]
                answer = page.ask(method, path, {} if method != "DELETE" else None)
                assert (answer.status, answer.code) == (403, "denied"), (role, method, path)
                assert answer.json["data"] == {"role": role, "needed": wanted}
    assert nobody.get("/api/admin/nothing").status == 401
    assert roles[0][1].get("/api/admin/nothing").status == 404
    vera = log_in(node, "vera")
    assert vera.get("/api/admin/jobs").status == 200
    assert vera.post("/api/admin/peers/invite").status == 403


def test_every_route_has_a_right_and_every_right_a_route(page: Page) -> None:
    paths = page.get("/api/openapi.json").json["paths"]
    routes = {(method.upper(), path) for path, item in paths.items() for method in item}
    files = {key for key in RIGHTS if key[1] == "/" or "{file}" in key[1]}
    assert set(RIGHTS) - files == routes


# --- guessing -------------------------------------------------------------------------------
def test_a_wrong_name_looks_and_lasts_like_a_wrong_password(node: Node) -> None:
    page, taken = Page(node, address="127.0.0.2"), {"admin": [0.0], "nobody": [0.0]}
    for number in range(8):
        user = ("admin", "nobody")[number % 2]
        before = time.monotonic()
        answer = page.log_in(user, "wrong")
        taken[user].append(time.monotonic() - before)
        told = (answer.status, answer.code, answer.json["detail"], answer.headers["Set-Cookie"])
        assert told == (401, "login-failed", "the name or the password is wrong", None)
    known, unknown = (statistics.median(times[1:]) for times in taken.values())
    assert 0.4 < known / unknown < 2.5


def test_who_guesses_has_to_wait_and_others_have_not(node: Node) -> None:
    page = Page(node, address="127.0.0.3")
    told = [page.log_in("admin", f"guess {number}").status for number in range(12)]
    assert told == [401] * 10 + [429] * 2
    refused = page.log_in()
    assert (refused.status, refused.code) == (429, "too-many-tries")
    assert 200 < int(refused.headers["Retry-After"]) <= 301
    assert Page(node, address="127.0.0.4").log_in().status == 200


def test_who_guesses_locks_out_nobody_else_at_his_address(node: Node) -> None:
    add_user(node, "vera", "viewer")
    page = Page(node, address="127.0.0.16")
    assert page.log_in().status == 200
    told = [Page(node, address="127.0.0.16").log_in("admin", "guess").status for _ in range(11)]
    assert told == [401] * 10 + [429]
    assert page.get("/api/me").json["user"] == "admin"  # who is in stays in
    assert Page(node, address="127.0.0.16").log_in("vera").status == 200


def test_two_logins_at_once_are_two_sessions(node: Node) -> None:
    pages = [Page(node, address=f"127.0.0.{number}") for number in (5, 6)]
    threads = [threading.Thread(target=page.log_in) for page in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pages[0].cookie != pages[1].cookie
    assert [page.get("/api/me").status for page in pages] == [200, 200]


# --- the session ----------------------------------------------------------------------------
def test_the_cookie_is_for_this_site_and_no_script(node: Node) -> None:
    told = Page(node).log_in().headers["Set-Cookie"]
    name, *flags = [part.strip() for part in told.split(";")]
    assert name.startswith(f"peersync-{node.admin.rpartition(':')[2]}=")
    assert {"HttpOnly", "Path=/", "SameSite=Strict", "Max-Age=604800"} <= set(flags)


def test_a_login_never_goes_on_under_an_id_that_was_there_before(node: Node) -> None:
    chosen = f"peersync-{node.admin.rpartition(':')[2]}=chosen-by-somebody-else"
    planted = Page(node, cookie=chosen)
    planted.log_in()
    assert planted.cookie != chosen
    first = planted.cookie
    planted.log_in()
    assert planted.cookie != first
    assert Page(node, cookie=first).get("/api/me").status == 401


def test_an_ended_session_is_refused_and_its_stream_is_cut(node: Node, page: Page) -> None:
    other = log_in(node)
    with other.open_stream("/api/admin/events") as stream:
        assert read_event(stream, "overview")["node"] == "alone"
        mine = [s for s in page.get("/api/admin/sessions").json if s["own"]]
        assert len(mine) == 1
        before = time.monotonic()
        gone = page.ask("DELETE", "/api/admin/sessions").json
        assert mine[0]["id"] not in {session["id"] for session in gone}
        with pytest.raises((EOFError, OSError)):
            read_event(stream, "never")
        assert time.monotonic() - before < 10
    assert other.get("/api/me").status == 401
    assert page.get("/api/me").status == 200


def test_a_new_password_ends_every_session_but_the_one_that_set_it(node: Node) -> None:
    add_user(node, "paul", "operator")
    one, two = log_in(node, "paul"), log_in(node, "paul")
    wrong = one.post("/api/me/password", {"old": "wrong", "new": "another long one"})
    assert (wrong.status, wrong.code) == (401, "login-failed")
    easy = one.post("/api/me/password", {"old": PASSWORD, "new": "short"})
    assert (easy.status, easy.code) == (400, "bad-request")
    changed = one.post("/api/me/password", {"old": PASSWORD, "new": "another long one"})
    assert changed.status == 200
    assert [one.get("/api/me").status, two.get("/api/me").status] == [401, 401]
    one.take_cookie(changed)
    assert one.get("/api/me").json["user"] == "paul"
    assert Page(node, address="127.0.0.7").log_in("paul").status == 401
    assert Page(node, address="127.0.0.7").log_in("paul", "another long one").status == 200


def test_roles_change_at_once_and_the_last_admin_stays(node: Node, page: Page) -> None:
    made = page.post("/api/admin/users", {"name": "olga", "role": "viewer"})
    assert made.status == 201
    add_user(node, "olga")
    olga = log_in(node, "olga")
    assert olga.get("/api/admin/users").status == 403
    assert page.ask("PATCH", "/api/admin/users/olga", {"role": "admin"}).status == 200
    assert olga.get("/api/admin/users").status == 200
    assert page.delete("/api/admin/users/olga").json["name"] == "olga"
    assert olga.get("/api/me").status == 401
    last = page.delete("/api/admin/users/admin")
    assert (last.status, last.code) == (409, "locked")
    assert page.ask("PATCH", "/api/admin/users/admin", {"role": "viewer"}).status == 409


# --- links and tokens -----------------------------------------------------------------------
def test_a_link_sets_the_first_password_once(node: Node) -> None:
    link = node.run("admin", "users", "add", "lena", "--role", "viewer", "-q").out.strip()
    assert link.startswith(f"http://{node.admin}/#/first/")
    secret = link.rpartition("/")[2]
    page = Page(node, address="127.0.0.8")
    assert page.post("/api/login/link", {"secret": "wrong"}).status == 401
    used = page.post("/api/login/link", {"secret": secret})
    assert used.json == {"user": "lena", "role": "viewer", "needs_password": True}
    page.take_cookie(used)
    assert page.get("/api/me").json["needs_password"]
    assert page.post("/api/login/link", {"secret": secret}).code == "login-failed"
    page.take_cookie(page.post("/api/me/password", {"new": PASSWORD}))
    assert not page.get("/api/me").json["needs_password"]
    assert page.log_in("lena").status == 200
    again = node.run("admin", "link", "--user", "lena", "-q").out.strip().rpartition("/")[2]
    at_once = page.post("/api/login/link", {"secret": again, "password": "yet another one"})
    assert at_once.json["needs_password"] is False
    assert page.log_in("lena", "yet another one").status == 200


def test_a_token_looks_as_its_role_says_until_it_is_revoked(node: Node) -> None:
    script = Page(node, token=make_token(node, "viewer"))
    assert script.get("/api/me").json["kind"] == "token"
    assert script.get("/api/admin/jobs").json == []
    assert script.post("/api/admin/sync/now").status == 403
    assert script.post("/api/logout").status == 400
    listed = node.run("token", "list", "--json").json["tokens"]
    mine = listed[-1]
    assert (mine["name"], mine["token"]) == ("test-viewer", None)
    assert mine["last_used"] is not None
    with script.open_stream("/api/admin/events") as stream:
        read_event(stream, "overview")
        node.run("token", "revoke", mine["id"])
        with pytest.raises((EOFError, OSError)):
            read_event(stream, "never")
    assert script.get("/api/admin/jobs").status == 401
    short = Page(node, token=make_token(node, "admin", days=1e-5))  # not a second
    time.sleep(1)
    assert short.get("/api/admin/jobs").code == "login-needed"
    assert Page(node, headers={"Authorization": "Basic YTpi"}).get("/api/me").status == 401
    assert Page(node, token="psy_" + "x" * 43).get("/api/me").status == 401


def test_accounts_are_kept_before_the_first_start_and_by_the_agent_alike(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    node = make_node("alone", make_database(), start=False)
    assert node.run("admin", "users", "--json").json["users"] == []
    assert node.run("admin", "passwd", "--user", "", check=False).code == 2
    assert node.run("admin", "passwd", text="short\n", check=False).code == 2
    assert node.run("admin", "passwd", "--json", text=PASSWORD + "\n").json["role"] == "admin"
    assert node.run("admin", "passwd", "--user", "vera", text="x", check=False).code == 2
    node.run("admin", "users", "add", "vera", "--role", "operator")
    token = make_token(node, "operator")
    node.start()
    page = log_in(node)
    assert Page(node, token=token).get("/api/me").json["role"] == "operator"
    assert node.run("admin", "users", "set-role", "vera", "viewer").code == 0
    listed = node.run("admin", "sessions", "--json").json["sessions"]
    assert [session["user"] for session in listed] == ["admin"]
    node.run("admin", "sessions", "--end", listed[0]["id"])
    assert page.get("/api/me").status == 401
    assert "admin" in node.run("admin", "users").out
    assert node.run("admin", "users", "remove", "vera", "--json").json["name"] == "vera"
    assert node.run("admin", "users", "remove", "admin", check=False).code == 6
    assert node.run("token", "revoke", "nothing", check=False).code == 2
    assert "test-operator" in node.run("token", "list").out


# --- what is kept ---------------------------------------------------------------------------
@pytest.fixture
def own(make_node: MakeNode, make_database: MakeDatabase) -> Node:
    """A node that a test may stop."""
    node = make_node("alone", make_database())
    add_user(node)
    return node


def test_files_have_no_secret_and_logins_outlive_the_agent(own: Node) -> None:
    node, page = own, log_in(own)
    token = make_token(node, "viewer")
    secret = str(page.cookie).partition("=")[2]
    for name in ("people.json", "sessions.json"):
        file = node.state_dir / name
        assert file.stat().st_mode & 0o777 == 0o600
        text = file.read_text()
        for hidden in (PASSWORD, token, secret):
            assert hidden not in text
    users = json.loads((node.state_dir / "people.json").read_text())["users"]
    assert users[0]["password"].startswith("$argon2id$")
    node.stop()
    node.start()
    assert page.get("/api/me").status == 200
    assert Page(node, token=token).get("/api/me").status == 200
    told = node.log + json.dumps(page.get("/api/admin/settings").json)
    for hidden in (PASSWORD, token, secret):
        assert hidden not in told


def test_damaged_files_are_refused_aloud_and_stay_as_they_are(own: Node) -> None:
    page, file = log_in(own), own.state_dir / "people.json"
    own.stop()
    good = file.read_bytes()
    file.write_bytes(good[:-20])
    refused = own.run("agent", check=False)
    assert refused.code == 7
    assert f"the users of this node, {file}, cannot be read" in refused.err
    assert "peersync admin link" in refused.err
    assert own.run("admin", "users", check=False).code == 7
    assert file.read_bytes() == good[:-20]
    file.write_bytes(good)
    (own.state_dir / "sessions.json").write_bytes(b"{")
    own.start()
    assert "log in again" in own.log
    assert (own.state_dir / "sessions.damaged").read_bytes() == b"{"
    assert page.get("/api/me").status == 401
    assert page.log_in().status == 200
