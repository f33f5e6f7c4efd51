"""Several changes of a row in one transaction become one, however triggers nested them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peersync.core.order.chain import net
from peersync.core.order.change import Change, Image, Op, Version


class Log:
    """A row's changes as statements with triggers in them log them: inner ones first."""

    def __init__(self, row: int | None) -> None:
        self.row = row
        self.changes: list[Change] = []

    def statement(self, adds: int, inner: tuple[object, ...]) -> None:
        old = self.row
        self.row = adds if old is None else old + adds
        for one in inner:
            assert isinstance(one, tuple)
            self.statement(*one)
        op: Op = "I" if old is None else "U"
        self.add(op, _text(self.row), _text(old))

    def add(self, op: Op, image: Image | None, old: Image | None) -> None:
        version = Version(1, 1, 1, len(self.changes))
        self.changes.append(Change(version, op, None if op == "T" else "(1)", image, old))


def _text(row: int | None) -> str | None:
    return None if row is None else str(row)


# What a statement adds: no two runs of them add up to nothing, so no row comes back by chance.
_LEAF = st.tuples(st.integers(1, 9), st.just(()))
_STATEMENT = st.recursive(
    _LEAF, lambda inner: st.tuples(st.integers(1, 9), st.lists(inner, max_size=3).map(tuple))
)


@given(st.lists(_STATEMENT, min_size=1, max_size=5))
def test_whatever_was_nested_counts_once(statements: list[tuple[int, tuple[object, ...]]]) -> None:
    log = Log(100)
    for statement in statements:
        log.statement(*statement)
    whole = net(log.changes)
    assert (whole.op, whole.old, whole.image) == ("U", "100", str(log.row))
    assert whole.version == log.changes[-1].version


@given(_STATEMENT)
def test_an_insert_whose_trigger_updates_the_row_is_an_insert(
    statement: tuple[int, tuple[object, ...]],
) -> None:
    log = Log(None)
    log.statement(*statement)
    whole = net(log.changes)
    assert (whole.op, whole.old, whole.image) == ("I", None, str(log.row))


def test_a_row_that_was_deleted_and_made_anew_is_inserted() -> None:
    log = Log(None)
    log.add("U", "2", "1")
    log.add("D", None, "2")
    log.add("I", "7", None)
    whole = net(log.changes)
    assert (whole.op, whole.old, whole.image) == ("I", "1", "7")


def test_what_was_written_and_deleted_is_deleted() -> None:
    log = Log(None)
    log.add("U", "2", "1")
    log.add("D", None, "2")
    assert net(log.changes).op == "D"
    assert net(log.changes).old == "1"


def test_nothing_is_left_from_before_a_truncate() -> None:
    log = Log(None)
    log.add("U", "2", "1")
    log.add("T", None, None)
    assert net(log.changes).removes
    log.add("I", "3", None)
    assert (net(log.changes).op, net(log.changes).image) == ("I", "3")


def test_an_update_whose_old_row_is_not_known_follows_the_one_before_it() -> None:
    log = Log(None)
    log.add("U", "2", "1")
    log.add("U", "9", None)
    assert (net(log.changes).old, net(log.changes).image) == ("1", "9")
