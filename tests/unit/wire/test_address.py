"""HOST:PORT: what is taken, and what is refused with a reason."""

from __future__ import annotations

import pytest

from peersync.core.errors import BadRequest
from peersync.wire.address import Address, network_of, parse_address, parse_peer_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("db1:8791", Address("db1", 8791)),
        ("db-1.example.org:1", Address("db-1.example.org", 1)),
        ("192.0.2.1:65535", Address("192.0.2.1", 65535)),
        ("[::1]:8791", Address("::1", 8791)),
    ],
)
def test_an_address_is_read_and_printed_alike(text: str, address: Address) -> None:
    assert parse_address(text) == parse_peer_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "db1", "db1:", "db1:65536", "db1:8791x", "db1:٣", "::1:8791", "[db1]:8791",
     "user:pw@db1:8791", "http://db1:8791", "db1/x:8791", "d b:1", "db\r\n:1", "[::1]]:1",
     "x" * 300 + ":1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="is not an address"):
        parse_address(text)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "169.254.169.254",
        "[fe80::1]",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
        "[::ffff:169.254.1.1]",
    ],
)
def test_a_peer_cannot_point_us_at_what_is_no_server(host: str) -> None:
    with pytest.raises(BadRequest, match="no server"):
        parse_peer_address(f"{host}:80")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8791", Address("0.0.0.0", 8791)),
        ("[::]:8791", Address("::", 8791)),
        (":8791", Address("", 8791)),
        ("*:8791", Address("", 8791)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
    ],
)
def test_a_listener_may_take_every_address_and_any_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    if not address.port:
        with pytest.raises(BadRequest):
            parse_peer_address(text)


def test_a_customer_is_one_ipv4_address_or_one_ipv6_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1%eth0") == "2001:db8::"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("192.0.2.1") == network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("somewhere") == "somewhere"
