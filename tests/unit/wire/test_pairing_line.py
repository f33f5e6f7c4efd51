"""The invite line and the proofs: what a person pastes, and what the two nodes prove."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.errors import BadRequest
from peersync.wire import pairing
from peersync.wire.address import Address
from peersync.wire.pairing import Invite, encode_secret, parse_invite

SECRET = encode_secret(bytes(range(20)))
INVITE = Invite(Address("db1.example.org", 8791), "ab" * 32, SECRET)
LINE = INVITE.line()


@pytest.mark.parametrize("host", ["db1.example.org", "192.0.2.7", "2001:db8::7"])
def test_a_line_is_read_as_it_was_written(host: str) -> None:
    invite = Invite(Address(host, 8791), "0f" * 32, SECRET)
    assert parse_invite(invite.line()) == invite


def test_names_that_are_taken_for_each_other() -> None:
    for one, other in (
        ("server-1", "server-l"),
        ("db0", "dbo"),
        ("farm", "farrn"),
        ("a-b", "a--b"),
    ):
        assert pairing.look_alike(one, other)
    for other in ("server-1", "server-2"):
        assert not pairing.look_alike("server-1", other)


def test_an_ipv6_address_is_in_brackets() -> None:
    line = Invite(Address("2001:db8::7", 8791), "0f" * 32, SECRET).line()
    assert line.startswith("psync1:[2001:db8::7]:8791:")


def test_a_line_that_a_terminal_broke_is_mended() -> None:
    assert parse_invite(f"  '{LINE[:40]}\n   {LINE[40:]}'\n") == INVITE


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "it is empty"),
        ("psync2:x", 'does not begin with "psync1:"'),
        ("psync1:host:8791", "a part is missing"),
        (LINE[:-3], "38 characters, here are 35"),
        (LINE.replace("ab" * 32, "ab" * 30), "64 hex digits, here are 60"),
        (LINE.replace("8791", "8792"), "a character was changed"),
        (LINE.replace("db1", "db2"), "a character was changed"),
    ],
)
def test_a_mangled_line_is_told_what_is_wrong_with_it(line: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        parse_invite(line)
    assert SECRET[:10] not in str(caught.value)
    assert "peersync peer invite" in str(caught.value.hint)


@given(st.integers(0, len(LINE) - 1), st.sampled_from(string.ascii_lowercase + "234567:"))
def test_no_single_wrong_character_passes(position: int, character: str) -> None:
    mangled = LINE[:position] + character + LINE[position + 1 :]
    if mangled != LINE:
        with pytest.raises(BadRequest):
            parse_invite(mangled)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_invite("psync1:" + text)


def test_the_secret_does_not_show_itself() -> None:
    assert SECRET not in repr(INVITE)
    assert SECRET not in pairing.invite_id(SECRET) + pairing.invite_key(SECRET)


PARTS = {"inviter": "a" * 64, "joiner": "b" * 64, "name": "n", "address": "h:1", "nonce": "c"}


@pytest.mark.parametrize("changed", PARTS)
def test_the_joiners_proof_covers_each_part(changed: str) -> None:
    key = pairing.invite_key(SECRET)
    other = {**PARTS, changed: "x" * 64}
    assert pairing.joiner_proof(key, **PARTS) != pairing.joiner_proof(key, **other)


def test_a_proof_cannot_be_turned_round_or_shifted() -> None:
    key = pairing.invite_key(SECRET)
    ids = {"inviter": "a" * 64, "joiner": "b" * 64}
    answer = pairing.inviter_proof(key, **ids, name="n", nonces=("h:1", "c"))
    assert answer != pairing.joiner_proof(key, **PARTS)
    shifted = pairing.joiner_proof(key, **ids, name="nh", address=":1", nonce="c")
    assert shifted != pairing.joiner_proof(key, **PARTS)


def test_another_secret_gives_another_proof() -> None:
    other = pairing.invite_key(encode_secret(bytes(20)))
    assert not pairing.same_proof(
        pairing.joiner_proof(pairing.invite_key(SECRET), **PARTS),
        pairing.joiner_proof(other, **PARTS),
    )
