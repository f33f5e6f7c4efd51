"""Who may open the page of this node, from where, and for how long: `[people]`.

Owns the names, the types and the limits. Accounts, sessions and tokens are no configuration:
they are in files of the state directory.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec

from peersync.config.table import Table

Hours = Annotated[float, msgspec.Meta(gt=0, le=8760)]


class People(Table, frozen=True):
    """The listener at `node.admin`: the page, its API, and who stays logged in for how long."""

    enabled: bool = True
    allowed_hosts: tuple[str, ...] = ()
    certificate: str = ""
    key: str = ""
    session_idle_h: Hours = 12.0
    session_max_h: Hours = 168.0


def trouble_of_people(people: People) -> tuple[str, str] | None:
    """The key that can't be as it is, and why."""
    if bool(people.certificate) != bool(people.key):
        missing = "key" if people.certificate else "certificate"
        return missing, "certificate and key belong together: give both, or none"
    if people.session_idle_h > people.session_max_h:
        return "session_idle_h", "it must not be more than session_max_h"
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there; a name is only localhost's."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
