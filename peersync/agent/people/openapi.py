"""The OpenAPI 3.1 document of this node's API, made from the tables of its routes.

Owns how a table becomes a document. Types are not described here: they come from the structs
that the handlers read and answer. A route that no table has is a bug, and ends the request aloud.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from peersync import __version__
from peersync.agent.people.operation import EVENTS, JSON, IdempotencyKey, Operation
from peersync.agent.people.operations import OPERATIONS
from peersync.agent.people.operations_people import PEOPLE_OPERATIONS
from peersync.agent.people.operations_proof import PROOF_OPERATIONS
from peersync.agent.people.rights import needed
from peersync.transport.problems import CONTENT_TYPE, Problem

HEALTH: Final = ("/healthz", "/readyz", "/metrics")

_REF: Final = "#/components/schemas/"
_ALWAYS: Final = ("400", "5XX")
_LOGGED_IN: Final = ("401", "403")
_ERRORS: Final = {
    "400": "What was asked makes no sense",
    "401": "Log in first",
    "403": "Your role, or where you come from, is not enough",
    "404": "There is no such thing",
    "409": "Somebody else holds it, or it is not in the state for that",
    "422": "The Idempotency-Key stands for another request",
    "429": "Too often: Retry-After says when to try again",
    "5XX": "The database, a peer or this node failed",
}
_ABOUT: Final = (
    "Everything that the page does is one of these calls. Sizes are bytes, durations seconds, "
    "times ISO 8601. Errors are problem documents (RFC 9457) with a stable `code`."
)
_LOGINS: Final = {
    "cookie": {"type": "apiKey", "in": "cookie", "name": "peersync-8790",
               "description": "given by POST /api/login; over HTTPS __Host-peersync-PORT"},
    "token": {"type": "http", "scheme": "bearer", "description": "made by: peersync token create"},
}  # fmt: skip
DESCRIBED: Final[dict[tuple[str, str], Operation]] = {
    (one.method, one.pattern): one for one in (*OPERATIONS, *PEOPLE_OPERATIONS, *PROOF_OPERATIONS)
}


def openapi(routes: Iterable[web.RouteDef]) -> dict[str, Any]:
    """The document of these routes; the page's own files are left out.

    Raises LookupError for a route that no table describes.
    """
    found = [_operation(route) for route in routes if is_api(route.path)]
    schemas = _Schemas(found)
    paths: dict[str, dict[str, Any]] = {}
    for one in found:
        paths.setdefault(one.pattern, {})[one.method.lower()] = _described(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "peersync", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": _problems(schemas),
            "securitySchemes": _LOGINS,
        },
    }


def openapi_route(routes: Iterable[web.RouteDef]) -> web.RouteDef:
    """GET /api/openapi.json: the document of `routes` and of itself, made when it is asked for."""
    described: list[web.RouteDef] = []
    made: list[bytes] = []

    async def answer(_request: web.Request) -> web.Response:
        if not made:
            made.append(await asyncio.to_thread(lambda: msgspec.json.encode(openapi(described))))
        return web.Response(body=made[0], content_type=JSON)

    route = web.get("/api/openapi.json", answer)
    described += [*routes, route]
    return route


def is_api(path: str) -> bool:
    """Whether a route is for programs; the others are the files of the page."""
    return path.startswith("/api/") or path in HEALTH


def _operation(route: web.RouteDef) -> Operation:
    try:
        return DESCRIBED[route.method, route.path]
    except KeyError:
        raise LookupError(f"no table describes {route.method} {route.path}") from None


class _Schemas:
    """The schemas of all types that are named in some operations; `components` has the structs."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._kinds: list[Any] = [Problem, IdempotencyKey]
        for one in operations:
            self._kinds += [one.body, one.query, one.path, *one.answers.values()]
        self._schemas, self.components = msgspec.json.schema_components(
            self._kinds, ref_template=_REF + "{name}"
        )
        queries = {one.query for one in operations if one.query is not None}
        self._queries = {
            query: self.components.pop(self.of(query)["$ref"].removeprefix(_REF))
            for query in queries
        }

    def of(self, kind: Any) -> dict[str, Any]:
        schema: dict[str, Any] = self._schemas[self._kinds.index(kind)]
        return schema

    def of_query(self, kind: type[msgspec.Struct]) -> dict[str, Any]:
        """The struct itself: its fields are parameters, and nobody refers to it."""
        struct: dict[str, Any] = self._queries[kind]
        return struct


def _described(one: Operation, schemas: _Schemas) -> dict[str, Any]:
    role = needed(one.method, one.pattern)
    words = re.findall(r"[a-z]+", f"{one.method.lower()} {one.pattern.removeprefix('/api')}")
    told: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": one.summary,
        "security": [] if role == "anyone" else [{"cookie": []}, {"token": []}],
        "x-role": role,
        "parameters": [*_parameters(one, schemas)],
        "responses": _responses(one, schemas, public=role == "anyone"),
    }
    if one.body is not None:
        content = {JSON: {"schema": schemas.of(one.body)}}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _parameters(one: Operation, schemas: _Schemas) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", one.pattern):
        yield {"name": name, "in": "path", "required": True, "schema": schemas.of(one.path)}
    if one.query is not None:
        query = schemas.of_query(one.query)
        for name, schema in query["properties"].items():
            required = name in query.get("required", ())
            yield {
                "name": name,
                "in": "query",
                "required": required,
                "schema": _without_null(schema),
            }
    if one.key:
        schema = schemas.of(IdempotencyKey)
        yield {"name": "Idempotency-Key", "in": "header", "required": False, "schema": schema}
    if EVENTS in one.media:
        what = {"type": "string", "description": "go on behind this event"}
        yield {"name": "Last-Event-ID", "in": "header", "required": False, "schema": what}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given has no value; there is no null in a query."""
    kept = {k: v for k, v in schema.items() if not (k == "default" and v is None)}
    if "anyOf" in kept:
        others = [s for s in kept.pop("anyOf") if s != {"type": "null"}]
        kept |= others[0] if len(others) == 1 else {"anyOf": others}
    return kept


def _responses(one: Operation, schemas: _Schemas, *, public: bool) -> dict[str, Any]:
    errors = {*_ALWAYS, *(() if public else _LOGGED_IN), *map(str, one.errors)}
    told: dict[str, Any] = {s: {"$ref": f"#/components/responses/{s}"} for s in errors}
    for status, kind in one.answers.items():
        answer: dict[str, Any] = {"description": "Done" if status < 300 else "Not now"}
        if kind is not None:
            answer["content"] = {
                media: {"schema": schemas.of(kind) if media == JSON else {"type": "string"}}
                for media in one.media
            }
        told[str(status)] = answer
    return dict(sorted(told.items()))


def _problems(schemas: _Schemas) -> dict[str, Any]:
    content = {CONTENT_TYPE: {"schema": schemas.of(Problem)}}
    told: dict[str, Any] = {
        status: {"description": words, "content": content} for status, words in _ERRORS.items()
    }
    seconds = {"schema": {"type": "integer", "minimum": 1}}
    told["429"]["headers"] = {"Retry-After": seconds}
    return told
