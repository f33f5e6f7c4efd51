"""Messages and bytes: bounded, typed, and each fault blamed on who made it."""

from __future__ import annotations

import pytest

from peersync.core.errors import BadRequest, ProtocolError
from peersync.wire.codec import decode, decode_request, encode
from peersync.wire.messages import DescribeRequest, Hello

HELLO = Hello(
    protocol=1, version="1", node_id="a", name="n", unix_time=1.5, databases=("shop", "Ünï")
)


def test_a_message_comes_back_as_it_was() -> None:
    assert decode(encode(HELLO), Hello) == HELLO


def test_a_newer_minor_may_send_fields_that_we_do_not_know() -> None:
    assert decode(b'{"database":"shop","later":[1]}', DescribeRequest).database == "shop"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"database":7}', b'{"database":""}', b"{}",
     b'{"later":' + b"[" * 200_000, b'{"database":"' + b"x" * 256 + b'"}'],
)  # fmt: skip
def test_what_is_not_the_message_is_its_senders_fault(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data, DescribeRequest)
    with pytest.raises(BadRequest):
        decode_request(data, DescribeRequest)


def test_a_message_beyond_its_limit_is_not_parsed() -> None:
    with pytest.raises(ProtocolError, match="more than the 10"):
        decode(b" " * 11, DescribeRequest, limit=10)


def test_an_error_names_the_place_and_not_the_content() -> None:
    with pytest.raises(BadRequest) as caught:
        decode_request(b'{"database":["canary-7"]}', DescribeRequest)
    assert "$.database" in str(caught.value)
    assert "canary" not in f"{caught.value} {caught.value.detail}"
