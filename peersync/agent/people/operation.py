"""What the OpenAPI document says about one route; the tables of them are beside this file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

Errors = tuple[int, ...]

JSON = "application/json"
EVENTS = "text/event-stream"

FOUND: Errors = (404,)  # beside 400, 401 and 403, which every route may answer
TAKEN: Errors = (404, 409)
KEYED: Errors = (404, 409, 422)

# How the variable parts of paths look.
Text = Annotated[str, msgspec.Meta(min_length=1)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
IdempotencyKey = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[\x20-\x7e]{1,200}$",
        description="the same key with the same body gives the same answer for a day",
    ),
]


class Operation(NamedTuple):
    """`answers`: for each status what the body is, None where there is none.

    `media`: of the answers that are no JSON. `path`: of the variable in the path. `key`: whether
    an Idempotency-Key is looked at.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    pattern: str
    summary: str
    answers: dict[int, Any]
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    path: Any = Text
    errors: Errors = ()
    media: tuple[str, ...] = (JSON,)
    key: bool = False
