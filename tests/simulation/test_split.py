"""Parts of a split that expire each other: never both, whoever joined whom meanwhile (R12).

The nodes of the simulation, without its network: each part talks in itself only, asks to expire
whoever is not in it, and admits newcomers of its own. What is switched off at the end of the file
shows that the checks notice.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import pytest

from peersync.core.order.fold import NewerWins
from tests.simulation.broken_nodes import CountsEverybody, ExpiresByItself
from tests.simulation.onlooker import Onlooker
from tests.simulation.simnode import SimNode
from tests.simulation.trace import Trace

WALL = 1_700_000_000_000_000
Part = list[SimNode]


def group(kind: type[SimNode], size: int) -> Part:
    origins = range(1, size + 1)
    onlooker = Onlooker(NewerWins(), Trace(0, size, "newer_wins", []))
    return [kind(origin, set(origins), NewerWins(), onlooker) for origin in origins]


def admit(sponsor: SimNode, origin: int) -> SimNode:
    sponsor.announce(WALL, "j", origin)
    joiner = type(sponsor)(origin, set(), sponsor.strategy, sponsor.watch)
    joiner.take_baseline(sponsor)
    return joiner


def talk(part: Part) -> None:
    """Until nobody in it has anything new to say or to hear."""
    for _ in range(3):
        for node, other in itertools.permutations(part, 2):
            if other.origin in node.members:
                answer = other.serve(node.origin, dict(node.vector), 1_000)
                node.accept(answer, WALL)  # type: ignore[arg-type]  # nothing was pruned
        for node in part:
            node.heartbeat(WALL)


def expire_the_rest(part: Part) -> None:
    """All that a part can do to go on without the others."""
    here = {node.origin for node in part}
    for node in part:
        for other in sorted(node.members - here):
            node.announce(WALL, "w", other)
    talk(part)
    for node in part:
        for other in sorted(node.members - here):
            if node.may_expire(other):
                node.announce(WALL, "e", other)
    talk(part)


def has_expired(part: Part, others: Collection[int]) -> bool:
    return any(node.expiring.keys() & set(others) for node in part)


def splits(size: int) -> Iterator[tuple[list[int], list[int]]]:
    for number in range(1, size // 2 + 1):
        for few in itertools.combinations(range(size), number):
            yield [n for n in range(size) if n not in few], list(few)


def both_went_on(kind: type[SimNode], size: int, *, joins: int) -> bool:
    """Whether, in any split of so many, each part expired somebody of the other."""
    for many, few in splits(size):
        nodes = group(kind, size)
        talk(nodes)
        large, small = [nodes[n] for n in many], [nodes[n] for n in few]
        first = {node.origin for node in large}, {node.origin for node in small}
        for number in range(joins):  # the smaller part would become the larger one
            small.append(admit(small[0], 100 + number))
            talk(small)
        expire_the_rest(large)
        expire_the_rest(small)
        if has_expired(large, first[1]) and has_expired(small, first[0]):
            return True
    return False


@pytest.mark.parametrize("joins", [0, 1, 4])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_never_do_two_parts_of_a_split_expire_each_other(size: int, joins: int) -> None:
    assert not both_went_on(SimNode, size, joins=joins)


def test_the_larger_part_goes_on_and_two_halves_wait_for_a_person() -> None:
    for size, many, few in ((3, (0, 1), (2,)), (5, (0, 2, 4), (1, 3)), (4, (0, 1), (2, 3))):
        nodes = group(SimNode, size)
        part, rest = [nodes[n] for n in many], {nodes[n].origin for n in few}
        expire_the_rest(part)
        for node in part:
            assert (node.expiring.keys() == rest) is (2 * len(part) > size)


@pytest.mark.parametrize(
    ("kind", "size", "joins"), [(ExpiresByItself, 2, 0), (CountsEverybody, 3, 4)]
)
def test_without_the_rule_both_go_on(kind: type[SimNode], size: int, joins: int) -> None:
    assert both_went_on(kind, size, joins=joins)
