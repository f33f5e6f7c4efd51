"""Of many tables those are shown that something happens to, and all of them are counted."""

from __future__ import annotations

from peersync.core.tables import SHOWN, TableProgress, sum_up


def table(name: str, state: str) -> TableProgress:
    return TableProgress(schema="public", name=name, state=state)


def test_what_moves_comes_first_then_what_failed_then_what_is_next() -> None:
    order = ("done", "waiting", "failed", "copied", "copying", "waiting", "comparing")
    told = sum_up(table(f"t{n}", state) for n, state in enumerate(order))
    assert [one.name for one in told.shown] == ["t4", "t6", "t2", "t1", "t5", "t3", "t0"]
    counts = (told.total, told.waiting, told.active, told.done, told.failed)
    assert counts == (7, 2, 2, 2, 1)


def test_of_very_many_a_few_are_shown_and_none_is_lost_from_the_counts() -> None:
    tables = [table(f"t{n}", "done" if n < 30_000 else "waiting") for n in range(50_000)]
    told = sum_up([*tables, table("last", "copying")])
    assert len(told.shown) == SHOWN
    assert told.shown[0].name == "last"
    assert told.shown[1].name == "t30000"
    assert (told.total, told.done, told.waiting) == (50_001, 30_000, 20_000)
