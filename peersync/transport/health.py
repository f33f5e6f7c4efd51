"""Health and metrics: does the loop run, can this node do its work, and the numbers.

Owns the three routes and their form. What "ready" means is told by the agent. On a network
listener the answer is yes or no and nothing else: the names and texts of the checks say
too much about a server to whoever can reach the port.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from peersync.core.errors import BadRequest
from peersync.transport.app import json_response


class Check(msgspec.Struct, frozen=True):
    """One named thing that must hold. `text` says what was found, for people."""

    name: str
    ok: bool
    text: str = ""


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
        return json_response({"ok": True})

    async def readyz(request: web.Request) -> web.Response:
        checks = await ready(_asked(request))
        good = all(check.ok for check in checks)
        answer: dict[str, object] = {"ready": good}
        if show_checks:
            answer["checks"] = checks
        return json_response(answer, status=200 if good else 503)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
    ]


_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


def _asked(request: web.Request) -> Asked:
    lag = request.query.get("max_lag")
    return Asked(_seconds(lag) if lag is not None else None, request.query.get("peer"))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|min|h|)", text)
    if not match:
        raise BadRequest("max_lag must be a duration, for example 30s or 5min")
    return float(match[1]) * _UNITS[match[2]]
