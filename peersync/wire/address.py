"""HOST:PORT as people write it and as peers tell it: one parser, one way to print it.

Owns the form only. It resolves nothing and connects to nothing. Where a peer is concerned,
addresses that no server can have (unspecified, link-local, multicast) are refused, so that
a peer cannot point this node at a cloud's metadata service.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from peersync.core.errors import BadRequest

MAX_LENGTH = 262  # 253 of a host name, brackets, colon, port
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")


class Address(NamedTuple):
    """A host name or IP (IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads HOST:PORT or [IPV6]:PORT to listen on; BadRequest says what is wrong with it.

    No host, or "*", is every address of this machine (host ""); port 0 is any free port.
    """
    host, colon, port = text.rpartition(":")
    if not colon or len(text) > MAX_LENGTH:
        raise _wrong(text, "it must be HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ipv6(host):
            raise _wrong(text, "what is in brackets is not an IPv6 address")
    elif host in ("", "*"):
        host = ""
    elif not _HOST_NAME.fullmatch(host):
        reason = "an IPv6 address goes in brackets: [::1]:8791" if ":" in host else "bad host name"
        raise _wrong(text, reason)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise _wrong(text, "the port must be a number up to 65535")
    return Address(host, int(port))


def parse_peer_address(text: str) -> Address:
    """Reads the address of another server; BadRequest where none can be reached."""
    address = parse_address(text)
    if not address.host or not address.port or _is_no_server(address.host):
        raise _wrong(text, "no server can be reached there from another machine")
    return address


def network_of(address: str) -> str:
    """What one customer has for himself: an IPv4 address, or the /64 of an IPv6 one.

    So bounds are counted by it. What is no address stays as it is.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), 64), strict=False).network_address)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_no_server(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name: what it resolves to must prove itself by its certificate
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_unspecified or address.is_link_local or address.is_multicast


def _wrong(text: str, reason: str) -> BadRequest:
    return BadRequest(f"{text[:MAX_LENGTH]!r} is not an address: {reason}")
