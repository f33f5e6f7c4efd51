"""Accounts of the nodes of these tests."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.plugins.nodes import Node

USER = "admin"
PASSWORD = "a sentence is better than a riddle"


def link_of(node: Node, user: str = USER) -> str:
    """A one-time link, as the operator of the server makes it."""
    link: str = node.run("admin", "link", "--user", user, "--json").json["link"]
    return link


def set_password(node: Node) -> None:
    """What the page does with the one-time link."""
    secret = link_of(node).rpartition("/")[2]
    call(node, "POST", "/api/login/link", {"secret": secret, "password": PASSWORD})


def call(node: Node, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
    """One request to the people's listener, as the page or a script sends it."""
    url = f"http://{node.admin}"
    request = urllib.request.Request(url + path, method=method)
    request.add_header("Origin", url)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)
