"""Errors over HTTP: PeersyncError to application/problem+json (RFC 9457) and back.

One of the two edges where errors are translated. What goes out has a stable code, the
sentence for people and the hint; a bug goes out as its id alone. What comes in from a
peer is text from outside: bounded, and without control characters, because it ends in
terminals and logs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from peersync.core.errors import (
    BadRequest,
    Denied,
    Locked,
    NotFound,
    PeerFailed,
    PeersyncError,
    ProtocolError,
)

CONTENT_TYPE = "application/problem+json"
MAX_PROBLEM_BYTES = 64 * 1024
MAX_TEXT = 4000
TYPE_PREFIX = "urn:peersync:problem:"

# What a peer says about our request, not about itself: the caller acts on these.
_PASSED_ON = (Denied, Locked, NotFound, BadRequest)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body. `detail` is the message; `cause` has the database's or system's own words."""

    type: str
    title: str
    status: int
    detail: str
    code: str = PeersyncError.code
    instance: str | None = None
    hint: str | None = None
    cause: str | None = None
    data: dict[str, Any] = {}


def to_problem(
    error: PeersyncError, *, instance: str | None = None, status: int | None = None
) -> Problem:
    """`instance` is the id of the request, as the log has it."""
    return Problem(
        type=TYPE_PREFIX + error.code,
        title=error.code.replace("-", " ").capitalize(),
        status=status or error.http_status,
        detail=error.message,
        code=error.code,
        instance=instance and f"urn:peersync:request:{instance}",
        hint=error.hint,
        cause=error.detail,
        data=error.data,
    )


def from_problem(status: int, body: bytes) -> PeersyncError:
    """The error that the other end raised, of the same class.

    An answer that is no problem document becomes a ProtocolError that names the status.
    """
    try:
        problem = msgspec.json.decode(body[:MAX_PROBLEM_BYTES], type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        failure = ProtocolError(f"the answer has HTTP status {status} and no explanation")
        failure.__cause__ = error
        return failure
    kind = _classes().get(problem.code, PeersyncError)
    return kind(
        clean(problem.detail),
        detail=problem.cause and clean(problem.cause),
        hint=problem.hint and clean(problem.hint),
        **_clean_data(problem.data),
    )


def from_peer(name: str, status: int, body: bytes) -> PeersyncError:
    """What a peer's refusal means here: refusals keep their class, failures are PeerFailed."""
    told = from_problem(status, body)
    message = f"{name}: {told.message}"
    if isinstance(told, (*_PASSED_ON, ProtocolError)):
        kind: type[PeersyncError] = type(told)
        return kind(message, detail=told.detail, hint=told.hint, **told.data)
    facts = {**told.data, "peer": name, "peer_code": told.code, "peer_retryable": told.retryable}
    hint = told.hint and f"on {name}: {told.hint}"
    return PeerFailed(message, detail=told.detail, hint=hint, **facts)


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, at most a day; None without one, or for a date."""
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    return min(float(header[:9]), 86_400.0)


def clean(text: str) -> str:
    """Text from outside, fit for a terminal and a log line; line breaks stay."""
    kept = "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return kept[:MAX_TEXT]


def _clean_data(value: dict[str, Any]) -> dict[str, Any]:
    reserved = {"message", "detail", "hint", "self"}  # PeersyncError's own parameters
    return {key: _clean_value(item) for key, item in value.items() if key not in reserved}


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_clean_value(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _clean_value(item) for key, item in value.items()}
    return value


def _classes() -> dict[str, type[PeersyncError]]:
    return {kind.code: kind for kind in _tree(PeersyncError)}


def _tree(kind: type[PeersyncError]) -> Iterator[type[PeersyncError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
