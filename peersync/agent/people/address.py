"""Where the people's listener is found, and whether what goes there is encrypted.

Owns the rule that nothing but loopback is served in the clear: elsewhere it is TLS, with the
certificate of the configuration, else with the one by which peers know this node.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from peersync.config.model import Config
from peersync.config.people import is_loopback
from peersync.core.errors import ConfigError
from peersync.transport.identity import Identity
from peersync.wire.address import parse_address

_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104  # compared, not bound


def tls_context(config: Config, identity: Identity) -> ssl.SSLContext | None:
    """None on loopback without a certificate; ConfigError where the given one can't be used."""
    people = config.people
    if is_loopback(parse_address(config.node.admin).host) and not people.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    certificate = people.certificate or str(identity.cert_path)
    try:
        context.load_cert_chain(certificate, people.key or str(identity.key_path))
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"the certificate {certificate} of the page cannot be used",
            detail=str(error),
            hint="see certificate and key in [people]",
        ) from error
    return context


def host_names(config: Config) -> list[str]:
    """The names by which the page may be called, beside the address that is connected to."""
    host = parse_address(config.node.admin).host.lower()
    names = [name.lower() for name in config.people.allowed_hosts]
    if host in _EVERYWHERE:
        own = socket.gethostname().lower()
        return [*names, own, own.partition(".")[0]]
    return [*names, f"[{host}]" if ":" in host else host]


def base_url(config: Config) -> str:
    """The address to open: on this server, or by the name that others shall use."""
    address, people = parse_address(config.node.admin), config.people
    encrypted = not is_loopback(address.host) or bool(people.certificate)
    host = socket.gethostname() if address.host in _EVERYWHERE else address.host
    if people.allowed_hosts and not is_loopback(address.host):
        host = people.allowed_hosts[0]
    shown = f"[{host}]" if ":" in host else host
    return f"http{'s' if encrypted else ''}://{shown}:{address.port}/"


def first_link(config: Config, secret: str) -> str:
    """A one-time link. What stands behind # is never sent to a server, so no log has it."""
    return f"{base_url(config)}#/first/{secret}"
