"""The API does what its OpenAPI document says, also for input that nobody in his right mind sends.

Every route is asked with data that fits the document and with data that does not; the answers are
held against it. The node has one small database and no peer, so that nothing can be lost by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, CheckContext, GenerationMode, Response
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from tests.integration.operators_rig import connect, put_conflict, put_quarantined
from tests.integration.periodic_rig import make_group
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node

EXAMPLES = 5  # of each route, of each kind
READ_S = 30
TROUBLES = 12
ENDLESS = {"GET /api/admin/events"}


def no_failure(_ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """No 5xx, but for a status that the document gives a meaning of its own."""
    told = case.operation.definition.raw["responses"]
    if response.status_code >= 500 and str(response.status_code) not in told:
        raise AssertionError(response.text)


CHECKS = [
    no_failure,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
FEW = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Api:
    """The people's listener of a node, asked with an admin's token."""

    url: str
    session: requests.Session
    document: dict[str, Any]


@pytest.fixture
def api(make_database: MakeDatabase, make_node: MakeNode) -> Iterator[Api]:
    node = make_node("server-a", make_database(18))
    make_group(node)
    node.database.psql("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 20) AS i")
    asyncio.run(make_trouble(node))
    url = f"http://{node.admin}"
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token(node)}"
        document = session.get(f"{url}/api/openapi.json", timeout=READ_S)
        assert document.status_code == 200, document.text
        yield Api(url, session, document.json())
    print(node.log[-20_000:])  # shown where the test has failed


async def make_trouble(node: Node) -> None:
    """Conflicts and changes in quarantine, with the ids from 1 to TROUBLES."""
    conn = await connect(node.database)
    try:
        for row in range(1, TROUBLES + 1):
            mine, theirs = f"({row},mine)", f"({row},theirs)"
            state = "open" if row % 2 else "resolved"
            await put_conflict(conn, 1_000, "t", f"({row})", mine, theirs, state=state)
            await put_quarantined(conn, "t", "U", f"({row})", theirs, position=row)
    finally:
        await conn.close()


def token(node: Node) -> str:
    made: str = node.run("token", "create", "fuzz", "--role", "admin", "--json").json["token"]
    return made


def test_every_route_answers_what_the_document_says_whatever_is_asked(api: Api) -> None:
    every_route_exists(api)
    schema = schemathesis.openapi.from_dict(without_tuples(api.document))
    wrong: list[str] = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.label in ENDLESS:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                ask(api, operation, mode)
            except Unsatisfiable:  # nothing that could be wrong can be sent to it
                assert mode is GenerationMode.NEGATIVE, operation.label
            except FailureGroup as group:
                wrong.append(f"{operation.label} ({mode.value}): {group}")
    assert not wrong, "\n\n".join(wrong)


def every_route_exists(api: Api) -> None:
    for path, operations in api.document["paths"].items():
        where = path.replace("{id}", "1").replace("{job}", "1").replace("{name}", "1")
        told = api.session.options(api.url + where, timeout=READ_S)
        assert told.status_code == 405, path
        allowed = {method.strip() for method in told.headers["Allow"].split(",")}
        assert {method.upper() for method in operations} <= allowed, path


def without_tuples(schema: Any) -> Any:
    """schemathesis takes the 3.1 form of a tuple in an answer for a mistake; all are of texts."""
    if isinstance(schema, list):
        return [without_tuples(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: without_tuples(value) for key, value in schema.items()}
    if kinds := told.pop("prefixItems", None):
        assert all(kind == kinds[0] for kind in kinds)
        told["items"] = kinds[0]
    return told


def ask(api: Api, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> None:
    @FEW
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE:
            name_what_there_is(case)
        response = case.call(base_url=api.url, session=api.session, timeout=READ_S)
        case.validate_response(response, checks=CHECKS)

    one()


def name_what_there_is(case: Case[Any]) -> None:
    """So that a request gets further than to "there is no such database"."""
    for place in (case.query, case.body):
        if isinstance(place, dict) and "database" in place:
            place["database"] = "shop"
    if isinstance(number := (case.path_parameters or {}).get("id"), int):
        case.path_parameters["id"] = number % TROUBLES + 1
