"""Reading request bodies: counted, and with a deadline.

aiohttp bounds neither a streamed body (`client_max_size` is for `read()` alone) nor the
time that a sender takes. Handlers read bodies through here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from aiohttp import web

from peersync.core.errors import BadRequest
from peersync.wire.codec import decode_request
from peersync.wire.messages import MAX_MESSAGE_BYTES

T = TypeVar("T")
# Who asks, where that was proved: it stands in place of what a body says of it.
ASKER = web.RequestKey("ASKER", str)

BODY_TIMEOUT_S = 60.0
IDLE_TIMEOUT_S = 30.0


async def read_message(
    request: web.Request,
    kind: type[T],
    *,
    limit: int = MAX_MESSAGE_BYTES,
    timeout_s: float = BODY_TIMEOUT_S,
) -> T:
    """The body as a message of `kind`; BadRequest when it is anything else."""
    body = await read_body(request, limit=limit, timeout_s=timeout_s)
    message = decode_request(body, kind, limit=limit)
    asker = request.get(ASKER)
    if asker is None or not isinstance(message, msgspec.Struct):
        return message
    if not hasattr(message, "requested_by"):
        return message
    return msgspec.structs.replace(message, requested_by=asker)


async def read_body(
    request: web.Request, *, limit: int, timeout_s: float = BODY_TIMEOUT_S
) -> bytes:
    """At most `limit` bytes, all of them within `timeout_s`; else BadRequest."""
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in iter_body(request, limit=limit, idle_timeout_s=timeout_s):
                body += piece
    except TimeoutError as error:
        raise _too_slow(timeout_s) from error
    return bytes(body)


async def iter_body(
    request: web.Request, *, limit: int, idle_timeout_s: float = IDLE_TIMEOUT_S
) -> AsyncIterator[bytes]:
    """The body in pieces of at most 64 KiB, for what is too large to hold.

    BadRequest beyond `limit` bytes, or when nothing comes for `idle_timeout_s`.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    count = 0
    while True:
        try:
            async with asyncio.timeout(idle_timeout_s):
                piece = await request.content.read(64 * 1024)
        except TimeoutError as error:
            raise _too_slow(idle_timeout_s) from error
        if not piece:
            return
        count += len(piece)
        if count > limit:
            raise _too_large(limit)
        yield piece


def _too_large(limit: int) -> BadRequest:
    return BadRequest(f"the body is larger than the {limit} bytes that are allowed here")


def _too_slow(timeout_s: float) -> BadRequest:
    return BadRequest(f"the body did not arrive within {timeout_s:g} s")
