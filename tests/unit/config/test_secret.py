"""A password does not show, however it is written."""

from __future__ import annotations

import pickle

import pytest

from peersync.config.secret import Secret, mask_conninfo


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:canary@h/d",
        "postgres://u:canary@h1:1,h2:2/d?sslmode=require",
        "postgresql://u:can@nary/x?canary@h/d",
        "postgresql://h/d?user=u&password=canary&sslmode=require",
        "host=h password=canary dbname=d",
        "host=h password = 'can ary\\' canary' dbname=d",
        "password=can\\ canary dbname=d",
        "PASSWORD=canary",
        "sslpassword=canary",
        "password='canary with no end",
    ],
)
def test_a_conninfo_is_shown_without_its_password(text: str) -> None:
    masked = mask_conninfo(text)
    assert "canary" not in masked
    assert "nary" not in masked
    assert "***" in masked


@pytest.mark.parametrize("text", ["postgresql:///shop", "host=h dbname=passwords", "service=s"])
def test_a_conninfo_without_a_password_is_shown_as_it_is(text: str) -> None:
    assert mask_conninfo(text) == text


def test_what_stands_beside_the_password_stays_readable() -> None:
    assert mask_conninfo("postgresql://u:p@h/d") == "postgresql://u:***@h/d"
    assert mask_conninfo("host=h password='a b' dbname=d") == "host=h password=*** dbname=d"


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("canary")
    shown = f"{secret} {secret!r} {[secret]} {secret:>20} {secret!s}"
    assert "canary" not in shown
    assert secret.reveal() == "canary"
    assert secret == Secret("canary") != Secret("other")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
