"""Where the page is found, and what `[people]` can't be."""

from __future__ import annotations

import socket

import pytest

from peersync.agent.people.address import base_url, host_names
from peersync.config.model import Config, Node
from peersync.config.people import People, is_loopback
from peersync.config.rules import violations


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost"])
def test_loopback_is_what_only_this_machine_can_reach(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1", "localhost.evil", "128.0.0.1"])
def test_anything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("people", "key"),
    [
        (People(certificate="a.crt"), "people.key"),
        (People(key="a.key"), "people.certificate"),
        (People(session_idle_h=200), "people.session_idle_h"),
    ],
)
def test_what_does_not_fit_together_is_named(people: People, key: str) -> None:
    config = Config(node=Node(name="a", advertise="a:8791"), people=people)
    assert [path for path, _ in violations(config)] == [key]


@pytest.mark.parametrize(
    ("admin", "people", "url"),
    [
        ("127.0.0.1:8790", People(), "http://127.0.0.1:8790/"),
        ("[::1]:8790", People(), "http://[::1]:8790/"),
        ("127.0.0.1:8790", People(certificate="c", key="k"), "https://127.0.0.1:8790/"),
        ("192.0.2.7:443", People(), "https://192.0.2.7:443/"),
        ("0.0.0.0:8790", People(), f"https://{socket.gethostname()}:8790/"),
        (":8790", People(allowed_hosts=("sync.shop.example",)), "https://sync.shop.example:8790/"),
    ],
)
def test_the_address_that_is_told_is_one_that_answers(admin: str, people: People, url: str) -> None:
    config = Config(node=Node(name="a", admin=admin), people=people)
    assert base_url(config) == url
    host = url.split("//")[1].rpartition(":")[0]
    assert host.lower() in host_names(config)
