"""Messages to bytes and back, with a bound before anything is parsed.

Owns the JSON form of the messages. What does not fit its type, is too large or too deeply
nested is the sender's fault: ProtocolError when a peer answered it, BadRequest when a
caller sent it. Errors name the place in the message and never quote its content.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from peersync.core.errors import BadRequest, PeersyncError, ProtocolError
from peersync.wire.messages import MAX_MESSAGE_BYTES

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """The JSON of a message, or of plain dicts, lists and values."""
    return _encoder.encode(message)


def decode(data: bytes, kind: type[T], *, limit: int = MAX_MESSAGE_BYTES) -> T:
    """A peer's answer; ProtocolError when it is none of this `kind`."""
    return _decode(data, kind, limit, ProtocolError)


def decode_request(data: bytes, kind: type[T], *, limit: int = MAX_MESSAGE_BYTES) -> T:
    """A caller's body; BadRequest when it is none of this `kind`."""
    return _decode(data, kind, limit, BadRequest)


def _decode(data: bytes, kind: type[T], limit: int, fault: type[PeersyncError]) -> T:
    name = getattr(kind, "__name__", "message")
    if len(data) > limit:
        raise fault(f"the {name} has {len(data)} bytes, more than the {limit} that are allowed")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise fault(f"not a valid {name}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise fault(f"not a {name}: the JSON cannot be read", detail=str(error)) from error
