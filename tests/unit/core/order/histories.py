"""Histories as a group of nodes could really make them: what was seen was there to be seen."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from peersync.core.order.change import Change, Image, Op, Transaction, Version

NODES = (1, 2, 3)
UNHURRIED = settings(deadline=None, max_examples=50)  # a busy machine is no failure


@st.composite
def transactions(draw: st.DrawFn, most: int = 14) -> list[Transaction]:
    """Published transactions of three origins, in an order in which they could be published."""
    vectors: dict[int, dict[int, int]] = {node: {} for node in NODES}
    clocks = dict.fromkeys(NODES, 0)
    made: list[Transaction] = []
    for _ in range(draw(st.integers(1, most))):
        node = draw(st.sampled_from(NODES))
        other = draw(st.sampled_from(NODES))
        if other != node and draw(st.booleans()):
            mine, theirs = vectors[node], vectors[other]
            vectors[node] = {o: max(mine.get(o, 0), theirs.get(o, 0)) for o in {*mine, *theirs}}
            clocks[node] = max(clocks[node], clocks[other])
        position = vectors[node].get(node, 0) + 1
        clocks[node] = max(clocks[node] + 1, draw(st.integers(0, 20)))
        seen = {o: p for o, p in vectors[node].items() if o != node}
        vectors[node] = {**vectors[node], node: position}
        made.append(Transaction(node, position, clocks[node], "d", 1, seen))
    return made


@st.composite
def changes_of_a_row(draw: st.DrawFn, *, columns: bool = False) -> list[Change]:
    """One change of the same row in each transaction."""
    made = []
    for head in draw(transactions(most=7)):
        op: Op = draw(st.sampled_from(["I", "U", "U", "U", "D", "T"]))
        image: Image | None = None
        old: Image | None = None
        if op in ("I", "U"):
            image = draw(_rows()) if columns else draw(st.sampled_from("abc"))
        if op == "U":
            old = draw(_rows()) if columns else draw(st.sampled_from("abc"))
        version = Version(head.hlc, head.origin, head.position)
        made.append(Change(version, op, None if op == "T" else "(1)", image, old, head.seen))
    return made


def _rows() -> st.SearchStrategy[Image]:
    numbers = st.integers(-9, 9).map(str)
    return st.fixed_dictionaries({"a": st.sampled_from(["x", "y", None]), "n": numbers})
