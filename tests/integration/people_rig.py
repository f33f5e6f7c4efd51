"""A browser without a browser: logs in at a node's page, keeps its cookie, asks and sends.

node = make_node("server-a", make_database())
add_user(node)                       # admin, with PASSWORD
page = log_in(node)                  # page.base, page.cookie
page.get("/api/me").json["role"]
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.plugins.clusters import Database, GetCluster
from tests.plugins.nodes import Node

PASSWORD = "four words for tests"
COOKIE = "peersync"


@dataclass
class Answer:
    """What came back. `headers` are found whatever their case."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of a problem."""
        return str(self.json["code"])


@dataclass
class Page:
    """One browser. `cookie` is what it sends as Cookie; a login sets it.

    `address`: where it connects from; all of 127.0.0.0/8 is this machine.
    """

    node: Node
    cookie: str | None = None
    token: str | None = None
    tls: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"

    @property
    def base(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.node.admin}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = self.connect()
        sent = self._headers(method)
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        try:
            connection.request(method, path, data, {**sent, **self.headers, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def connect(self, timeout_s: float = 20.0) -> http.client.HTTPConnection:
        host, _, port = self.node.admin.rpartition(":")
        source = (self.address, 0)
        if not self.tls:
            return http.client.HTTPConnection(
                host, int(port), timeout=timeout_s, source_address=source
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(
            host, int(port), timeout=timeout_s, context=context, source_address=source
        )

    @contextmanager
    def open_stream(
        self, path: str, timeout_s: float = 20.0, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a GET whose body is read as it comes."""
        connection = self.connect(timeout_s)
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            connection.request(
                "GET", path, headers={**self._headers("GET"), **self.headers, **given}
            )
            with connection.getresponse() as answer:
                yield answer
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        return self.ask("POST", path, {} if body is None else body, given)

    def delete(self, path: str) -> Answer:
        return self.ask("DELETE", path)

    def log_in(self, user: str = "admin", password: str = PASSWORD) -> Answer:
        """Takes the cookie, where there is one."""
        answer = self.post("/api/login", {"user": user, "password": password})
        self.take_cookie(answer)
        return answer

    def take_cookie(self, answer: Answer) -> None:
        if given := answer.headers["Set-Cookie"]:
            self.cookie = given.partition(";")[0]

    def _headers(self, method: str) -> dict[str, str]:
        sent: dict[str, str] = {}
        if self.cookie:
            sent["Cookie"] = self.cookie
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        elif method not in ("GET", "HEAD"):
            sent["Sec-Fetch-Site"] = "same-origin"
        return sent


def read_event(stream: http.client.HTTPResponse, wanted: str) -> Any:
    """The data of the next event of this name; EOFError where the stream ends before."""
    event = ""
    while line := stream.readline():
        text = line.decode().rstrip("\r\n")
        if text.startswith("event: "):
            event = text.removeprefix("event: ")
        elif text.startswith("data: ") and event == wanted:
            return json.loads(text.removeprefix("data: "))
    raise EOFError("the stream has ended")


@contextmanager
def one_node(clusters: GetCluster, home: Path, dbname: str, settings: str = "") -> Iterator[Node]:
    """A node that runs for a whole file of tests."""
    cluster = clusters(18)
    cluster.createdb(dbname)
    node = Node("alone", Database(cluster, dbname), home, settings=settings)
    try:
        node.init()
        node.start()
        yield node
    finally:
        node.close()
        cluster.dropdb(dbname)


def add_user(node: Node, name: str = "admin", role: str = "admin") -> None:
    """A user with PASSWORD; works with and without a running agent."""
    known = {user["name"] for user in node.run("admin", "users", "--json").json["users"]}
    if name not in known and (known or name != "admin"):
        node.run("admin", "users", "add", name, "--role", role)
    node.run("admin", "passwd", "--user", name, text=PASSWORD + "\n")


def log_in(node: Node, user: str = "admin") -> Page:
    """A page whose user is logged in; `add_user` comes first."""
    page = Page(node)
    answer = page.log_in(user)
    assert answer.status == 200, answer.body
    return page


def make_token(node: Node, role: str = "viewer", *, days: float = 1.0) -> str:
    """A token of this role, as a script has it."""
    made = node.run(
        "token", "create", f"test-{role}", "--role", role, "--days", str(days), "--json"
    )
    return str(made.json["token"])
