"""What both sides of a verification have, asked of both at the same time, as pairs of tables.

It decides how rows are hashed, too: by PostgreSQL's own functions where a fixed row has the same
hash on both servers, else in the portable form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import asyncpg

from peersync.agent.databases import Databases
from peersync.agent.proof.oneway import Directions, read_directions
from peersync.agent.proof.pairs import Pairs, Sides, pair_tables
from peersync.agent.proof.remote import read_probe
from peersync.agent.proof.view import VerifyRequest
from peersync.config.model import Config
from peersync.core.errors import NotFound, ProtocolError, root_error
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.digest import probe
from peersync.postgres.rights import read_rights, unreadable
from peersync.transport.client import PeerClient
from peersync.wire.messages import Catalogue, DescribeRequest


@dataclass(frozen=True)
class _Here:
    catalog: DatabaseCatalog
    closed: Mapping[TableName, str]
    probe: str
    directions: Directions


async def read_both(
    conn: asyncpg.Connection,
    client: PeerClient,
    config: Config,
    databases: Databases,
    database: str,
    wanted: VerifyRequest,
) -> tuple[Pairs, Directions]:
    """The pairs, with shapes that both sides hash alike, and which way their changes go.

    NotFound where the tables that were asked for are on neither side.
    """
    try:
        async with asyncio.TaskGroup() as group:
            asked = DescribeRequest(database=database)
            described = group.create_task(
                client.call("POST", "/api/sync/describe", asked, Catalogue), name="verify-describe"
            )
            probed = group.create_task(_probe(client, database), name="verify-probe")
            here = await _read_here(conn, client.peer.node_id)
    except BaseExceptionGroup as errors:
        raise root_error(errors) from errors
    pairs = pair_tables(
        Sides(
            there=described.result(),
            here=here.catalog,
            peer=client.peer.name,
            patterns=databases.patterns(database),
            chosen=Patterns(wanted.tables or ("*",), wanted.exclude_tables),
            everything=not wanted.tables,
            closed=here.closed,
            own_filters=frozenset(f.name for f in config.database[database].filter),
        )
    )
    theirs = probed.result()
    if isinstance(theirs, NotFound):
        raise ProtocolError(
            f"{client.peer.name} runs a version of peersync that can't be verified with",
            hint=f"upgrade peersync on {client.peer.name}",
        ) from theirs
    portable = theirs != here.probe
    pairs.comparable = [
        replace(one, shape=replace(one.shape, portable=portable, wide=wanted.paranoid))
        for one in pairs.comparable
    ]
    _refuse_no_such(wanted, pairs, client.peer.name)
    return pairs, here.directions


async def _read_here(conn: asyncpg.Connection, node_id: str) -> _Here:
    return _Here(
        catalog=await read_catalog(conn),
        closed=unreadable(await read_rights(conn)).tables,
        probe=await probe(conn),
        directions=await read_directions(conn, node_id),
    )


async def _probe(client: PeerClient, database: str) -> str | NotFound:
    """An error is given back: where there is no such database, the description says so."""
    try:
        return await read_probe(client, database)
    except NotFound as error:
        return error


def _refuse_no_such(wanted: VerifyRequest, pairs: Pairs, peer: str) -> None:
    if wanted.tables and not pairs.comparable and not pairs.left:
        raise NotFound(
            f"no table here or on {peer} is meant by {', '.join(wanted.tables)}",
            hint='patterns are psql\'s: public.order_* or "Odd name".*',
        )
