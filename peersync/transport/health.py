"""Health and metrics: does the loop run, can this node do its work, and the numbers.

Owns the three routes and their form. What "ready" means is told by the agent. On a network
listener the answer is yes or no and nothing else: the names and texts of the checks say
too much about a server to whoever can reach the port. Metrics do name peers and databases:
who may ask for them there is checked before, by the agent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from peersync.transport.app import json_response
from peersync.transport.query import read_query


class Check(msgspec.Struct, frozen=True):
    """One named thing that must hold. `text` says what was found, for people."""

    name: str
    ok: bool
    text: str = ""


_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = r"^([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|min|h|)$"
Duration = Annotated[
    str, msgspec.Meta(pattern=_DURATION, description="a duration, for example 30s or 5min")
]


class Alive(msgspec.Struct, frozen=True):
    """The event loop turns."""

    ok: bool = True


class Readiness(msgspec.Struct, frozen=True):
    """`checks`: on the Unix socket only."""

    ready: bool
    checks: Sequence[Check] | msgspec.UnsetType = msgspec.UNSET


class ReadyQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is to hold beside the usual: `max_lag` of all links, or of those with `peer`."""

    max_lag: Duration | None = None
    peer: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """What the asker wants to hold, beside the usual: /readyz?max_lag=30s&peer=server-b."""

    max_lag_s: float | None = None
    peer: str | None = None


Ready = Callable[[Asked], Awaitable[Sequence[Check]]]


def health_routes(
    ready: Ready, registry: CollectorRegistry, *, show_checks: bool = False
) -> list[web.RouteDef]:
    """/healthz, /readyz and /metrics. `show_checks` is for the Unix socket."""

    async def healthz(_request: web.Request) -> web.Response:
        return json_response(Alive())

    async def readyz(request: web.Request) -> web.Response:
        checks = await ready(_asked(request))
        good = all(check.ok for check in checks)
        answer = Readiness(good, checks if show_checks else msgspec.UNSET)
        return json_response(answer, status=200 if good else 503)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
    ]


def _asked(request: web.Request) -> Asked:
    asked = read_query(request, ReadyQuery)
    return Asked(_seconds(asked.max_lag) if asked.max_lag is not None else None, asked.peer)


def _seconds(text: str) -> float:
    match = re.match(_DURATION, text)
    assert match is not None, "the query was read with this pattern"
    return float(match[1]) * _UNITS[match[2]]
