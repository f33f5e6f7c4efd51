"""The OpenAPI document has every route, once, and says of each who may use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from peersync.agent.admin_api import ProgressQuery
from peersync.agent.analytics_api import ExportQuery
from peersync.agent.people.openapi import DESCRIBED, is_api, openapi
from peersync.agent.people.rights import RIGHTS
from peersync.agent.periodic.settle_api import ConflictsQuery
from peersync.agent.script_api import HistoryQuery
from peersync.core.errors import BadRequest
from peersync.core.session import State
from peersync.transport.query import read_query

API_PAGE = Path(__file__).parents[3] / "docs" / "api.md"


async def handler(_request: web.Request) -> web.Response:
    raise AssertionError("nobody calls it")


def document() -> dict[str, Any]:
    return openapi([web.route(method, path, handler) for method, path in DESCRIBED])


def test_every_route_that_people_may_ask_is_described_and_no_other() -> None:
    text = re.sub(r"^## On `node.listen`.*?(?=^## )", "", API_PAGE.read_text(), flags=re.M | re.S)
    told = set(re.findall(r"^\| `(GET|POST|PUT|PATCH|DELETE) (/\S+)` \|", text, re.M))
    assert {route for route in told if is_api(route[1])} == set(DESCRIBED)
    assert {route for route in RIGHTS if is_api(route[1])} == set(DESCRIBED)


def test_a_route_that_no_table_has_is_a_bug() -> None:
    with pytest.raises(LookupError, match="POST /api/admin/new"):
        openapi([web.post("/api/admin/new", handler)])
    assert openapi([web.get("/", handler)])["paths"] == {}


def test_the_document_is_whole() -> None:
    made = document()
    text = json.dumps(made)
    names = {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    names |= {f"#/components/responses/{name}" for name in made["components"]["responses"]}
    assert set(re.findall(r'"\$ref": "([^"]+)"', text)) == names
    operations = [one for path in made["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for path, methods in made["paths"].items():
        for one in methods.values():
            variables = {p["name"] for p in one["parameters"] if p["in"] == "path"}
            assert variables == set(re.findall(r"\{(\w+)\}", path))


def test_a_route_says_which_role_it_needs() -> None:
    paths = document()["paths"]
    assert paths["/healthz"]["get"]["security"] == []
    assert paths["/api/sync/history"]["get"]["x-role"] == "viewer"
    assert paths["/api/sync/history"]["delete"]["x-role"] == "admin"
    assert "401" in paths["/api/sync/history"]["get"]["responses"]
    limit = paths["/api/sync/history"]["get"]["parameters"][0]
    assert (limit["name"], limit["schema"]["maximum"]) == ("limit", 1000)


# --- queries --------------------------------------------------------------------------------
def test_a_query_is_read_as_its_struct_says() -> None:
    request = make_mocked_request("GET", "/?limit=7&limit=8&state=done&database=null&more=1")
    asked = read_query(request, HistoryQuery)
    assert (asked.limit, asked.state, asked.database) == (7, State.DONE, "null")
    assert read_query(make_mocked_request("GET", "/"), HistoryQuery) == HistoryQuery()


@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        ("limit=0", HistoryQuery, "limit must be a number from 1 to 1000"),
        ("limit=", HistoryQuery, "limit must be a number from 1 to 1000"),
        ("state=fine", HistoryQuery, "state must be planned or running or"),
        ("format=xml", ExportQuery, "format must be csv or json"),
        ("database=shop&open=maybe", ConflictsQuery, "open must be true or false"),
        ("open=true", ConflictsQuery, "which database? Add"),
        ("session=0f", ProgressQuery, "session must be 32 hexadecimal digits"),
    ],
)
def test_what_is_wrong_with_a_query_is_said_in_words(query: str, kind: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(words)):
        read_query(make_mocked_request("GET", f"/?{query}"), kind)
