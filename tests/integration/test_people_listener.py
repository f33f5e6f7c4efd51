"""What the listener of the page refuses unread, what each answer carries, and where it listens."""

from __future__ import annotations

import gzip
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.transport.identity import create_identity
from tests.integration.people_rig import Answer, Page, add_user, log_in, make_token, one_node
from tests.plugins.clusters import GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, free_port

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
CANARY = "canary-5f2c"
NAMING = ("/metrics", "/readyz?max_lag=1s&peer=nobody")  # they say which names there are


@pytest.fixture(scope="module")
def node(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    settings = f'[[channel]]\nname = "a"\nkind = "slack"\nurl = "https://h.example/{CANARY}"\n'
    home = tmp_path_factory.mktemp("alone")
    with one_node(clusters, home, "people_listener", settings) as running:
        add_user(running)
        yield running


@pytest.fixture
def page(node: Node) -> Page:
    return log_in(node)


# --- other sites ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://OWN"},
        {"Origin": "http://evil.example"},
        {"Origin": "https://OWN"},
        {"Origin": "null"},
        {},
    ],
)
def test_a_form_of_another_site_changes_nothing(page: Page, headers: dict[str, str]) -> None:
    given = {name: value.replace("OWN", page.node.admin) for name, value in headers.items()}
    cookie = {"Cookie": str(page.cookie), "Content-Type": "application/json"}
    for path in ("/api/logout", "/api/admin/peers/invite", "/api/login"):
        answer = raw(page, "POST", path, b"{}", {**cookie, **given})
        assert answer.status == 403, (path, given)
    assert page.get("/api/me").status == 200


def test_the_own_page_is_known_by_either_header(page: Page) -> None:
    for own in (
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": page.base},
    ):
        cookie = {"Cookie": str(page.cookie), "Content-Type": "application/json"}
        answer = raw(page, "POST", "/api/admin/sync/now", b"{}", {**cookie, **own})
        assert answer.status == 200
    own = {"Cookie": str(page.cookie), "Sec-Fetch-Site": "same-origin"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = raw(page, "POST", "/api/admin/sync/now", b"{}", {**own, "Content-Type": kind})
        assert answer.status == 400


def test_a_script_with_a_token_needs_none_of_that(node: Node) -> None:
    token = {"Authorization": f"Bearer {make_token(node, 'operator')}"}
    answer = raw(Page(node), "POST", "/api/admin/sync/now", b"{}", token)
    assert answer.status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", ""])
def test_a_foreign_host_name_leads_nowhere(page: Page, host: str) -> None:
    for path in ("/", "/js/app.js", "/api/me", "/api/admin/status", "/healthz"):
        assert page.get(path, Host=host).status == 403, path


# --- each answer ----------------------------------------------------------------------------
def test_every_answer_carries_the_policy(page: Page) -> None:
    etag = page.get("/").headers["ETag"]
    asked = [
        page.get("/"),
        page.get("/", If_None_Match=etag),
        page.get("/style.css"),
        page.get("/nothing.js"),
        page.get("/no/such/place"),
        page.get("/api/me"),
        page.get("/api/admin/jobs/none"),
        page.get("/api/admin/nothing"),
        page.get("/healthz"),
        page.get("/", Host="evil.example"),
        page.ask("PUT", "/api/me"),
        page.ask("PATCH", "/"),
        Page(page.node).get("/api/me"),
        Page(page.node).post("/api/login", {"user": 1}),
    ]
    assert [answer.status for answer in asked] == [
        200, 304, 200, 404, 404, 200, 404, 404, 200, 403, 405, 405, 401, 400,
    ]  # fmt: skip
    for answer in asked:
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache")
        assert answer.headers["Server"] == "peersync"


def test_what_is_not_http_gets_a_400_and_no_traceback(node: Node) -> None:
    host, _, port = node.admin.rpartition(":")
    for sent in (
        b"\x16\x03\x01",
        b"GET /quoted-7d1 HTTP/9.x",
        b"GET / HTTP/1.1\r\nHost: a\r\nb d: e",
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent + b"\r\n\r\n")
            with connection.makefile("rb") as answer:
                assert answer.readline().startswith(b"HTTP/1.0 400 "), sent
    assert "Traceback" not in node.log
    assert "quoted-7d1" not in node.log


def test_files_come_packed_and_are_not_sent_twice(page: Page) -> None:
    nobody = Page(page.node)
    plain, packed = nobody.get("/js/app.js"), nobody.get("/js/app.js", Accept_Encoding="gzip, br")
    assert plain.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert plain.headers["Cache-Control"] == "no-cache"
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["Content-Encoding"] == "gzip"
    for answer in (plain, packed):
        assert answer.headers["Vary"] == "Accept-Encoding"
        accepted = answer.headers["Content-Encoding"] or "identity"
        again = nobody.get(
            "/js/app.js", If_None_Match=answer.headers["ETag"], Accept_Encoding=accepted
        )
        assert (again.status, again.body) == (304, b"")
    assert nobody.get("/").headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        "/../setup.cfg", "/js/../../__init__.py", "/%2e%2e/__init__.py", "/js/..%2f__init__.py",
        "/js/%2e%2e%2findex.html", "/__init__.py", "/js/app.js/../../__init__.py", "//etc/passwd",
        "/js/app.js%00.css", "/js/pages/..%5c..%5c__init__.py", "/js/" + "a" * 5000 + ".js",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_page(node: Node, path: str) -> None:
    answer = raw(Page(node), "GET", path)
    assert answer.status in (400, 404)
    assert b"import" not in answer.body


def test_settings_say_where_a_value_came_from_and_no_secret(page: Page) -> None:
    settings = page.get("/api/admin/settings")
    assert CANARY not in settings.body.decode()
    assert settings.json["config"]["channel"][0]["url"] == "***"
    assert settings.json["origins"]["node.name"].endswith("peersync.toml: node.name")
    assert settings.json["origins"]["people.session_idle_h"] == "default"


# --- where it listens -----------------------------------------------------------------------
def test_beyond_loopback_it_speaks_tls_only(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    node = make_node("alone", make_database(), start=False)
    port = free_port()
    node.env["PEERSYNC_NODE_ADMIN"] = f"0.0.0.0:{port}"
    node.admin = f"127.0.0.1:{port}"
    node.start()
    link = node.run("admin", "link", "-q").out.strip()
    assert link.startswith(f"https://{socket.gethostname()}:{port}/#/first/")
    add_user(node)
    clear = Page(node)
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        clear.get("/healthz")
    page = Page(node, tls=True)
    page.log_in()
    assert str(page.cookie).startswith("__Host-peersync-")
    assert page.get("/api/me").json["role"] == "admin"
    assert [page.get(path).status for path in NAMING] == [200, 503]
    script = Page(node, tls=True, token=make_token(node))
    assert [script.get(path).status for path in NAMING] == [200, 503]
    for stranger in (Page(node, tls=True), Page(node, tls=True, token="psync_none")):
        assert [stranger.get(path).status for path in NAMING] == [401, 401]
        assert stranger.ask("HEAD", "/metrics").status == 401
        assert [stranger.get(path).status for path in ("/healthz", "/readyz")] == [200, 200]
    assert "; Secure" in page.log_in().headers["Set-Cookie"]
    plain_name = str(page.cookie).replace("__Host-", "")
    assert Page(node, tls=True, cookie=plain_name).get("/api/me").status == 401
    assert page.get("/api/me", Host=f"{socket.gethostname()}:{port}").status == 200
    assert page.get("/api/me", Host="evil.example").status == 403
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(connection)


def test_a_given_certificate_is_shown_and_a_wrong_one_is_refused(
    make_node: MakeNode, make_database: MakeDatabase, tmp_path: Path
) -> None:
    given = create_identity(tmp_path / "given", "page.shop.example")
    node = make_node("alone", make_database(), start=False)
    node.env["PEERSYNC_PEOPLE_CERTIFICATE"] = str(given.cert_path)
    alone = node.run("config", "check", check=False)
    assert alone.code == 7
    assert "certificate and key belong together" in alone.err
    node.env["PEERSYNC_PEOPLE_KEY"] = str(node.state_dir / "identity" / "node.key")
    refused = node.run("agent", check=False)
    assert refused.code == 7
    assert f"the certificate {given.cert_path} of the page cannot be used" in refused.err
    node.env["PEERSYNC_PEOPLE_KEY"] = str(given.key_path)
    node.start()
    host, _, port = node.admin.rpartition(":")
    assert ssl.get_server_certificate((host, int(port))) == given.cert_pem
    assert Page(node, tls=True).get("/healthz").status == 200


def test_switched_off_it_answers_monitoring_and_nothing_else(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    node = make_node("alone", make_database(), env={"PEERSYNC_PEOPLE_ENABLED": "false"})
    page = Page(node)
    assert page.get("/healthz").status == 200
    assert [page.get(path).status for path in ("/", "/js/app.js", "/api/me")] == [404] * 3
    assert page.log_in().status == 404


def raw(
    page: Page,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request as it is given, with no header that a browser would add."""
    connection = page.connect()
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
