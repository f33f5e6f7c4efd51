"""`PEERSYNC_LEAST_PRIVILEGE=1`: nodes log in as a role that has what `peersync grants` prints.

The grants are given again before each sync, as an administrator would after new tables. A node
whose test says how it logs in keeps that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pgcluster
import pytest

if TYPE_CHECKING:
    from tests.plugins.nodes import Node

ROLE = "least"
# what a command needs here, and what it needs at the peer
SYNCS = {
    "pull": ("pull", "push"),
    "push": ("pull", "push"),
    "join": ("join", "periodic"),
    "merge": ("join", "periodic"),
    "rebaseline": ("join", "periodic"),
}
ASKED = os.environ.get("PEERSYNC_LEAST_PRIVILEGE") == "1"


def needs_more(reason: str) -> pytest.MarkDecorator:
    """For a test of what no GRANT of ours can give."""
    return pytest.mark.skipif(ASKED, reason=f"least privilege: {reason}")


def conninfo(node: Node) -> str | None:
    """How a new node logs in, its role made; None where this is not asked for."""
    database = node.database
    if not ASKED or node.conninfo or database.user != pgcluster.SUPERUSER:
        return None
    database.cluster.createrole(ROLE)
    # what the first command needs, before there is a configuration to read the rest from
    database.psql(f"GRANT CREATE ON DATABASE {pgcluster.identifier(database.name)} TO {ROLE}")
    return database.conninfo(user=ROLE)


def grant(node: Node, mode: str) -> None:
    """Gives a node's role what the mode needs of the tables that are there now."""
    if node.least:
        script = node.run("grants", "--mode", mode, "--missing", "--sql").out
        node.database.psql(script)
