"""The error tree: codes are stable and unique, and a bug is never hidden by what followed it."""

from __future__ import annotations

import pytest

from peersync.core import errors
from peersync.core.errors import (
    Cancelled,
    CorruptData,
    Denied,
    PeersyncError,
    PeerUnreachable,
    error_class,
    root_error,
)

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PeersyncError)
]


def test_every_code_is_used_once() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_is_found_again_by_its_code(kind: type[PeersyncError]) -> None:
    assert error_class(kind.code) is kind


def test_an_unknown_code_is_a_plain_failure() -> None:
    assert error_class("from-the-future") is PeersyncError


def test_a_group_is_about_the_bug_in_it() -> None:
    bug = KeyError("x")
    group = BaseExceptionGroup("", [Denied("a"), BaseExceptionGroup("", [CorruptData("b"), bug])])
    assert root_error(group) is bug


def test_then_about_what_no_retry_mends() -> None:
    final = Denied("a")
    group = BaseExceptionGroup("", [PeerUnreachable("b"), BaseExceptionGroup("", [final])])
    assert root_error(group) is final


def test_among_equals_the_first_counts() -> None:
    first = Cancelled("a")
    assert root_error(BaseExceptionGroup("", [first, Denied("b")])) is first
