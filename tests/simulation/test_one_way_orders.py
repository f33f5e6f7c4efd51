"""One-way members change nothing for the others: all converge, nothing is lost, the logs empty."""

from __future__ import annotations

import re

import pytest

from tests.simulation import oneway
from tests.simulation.oneway import Giver, Receiver, kinds
from tests.simulation.onlooker import Violation
from tests.simulation.scenario import TOPOLOGIES, draw
from tests.simulation.simnode import KEYS, SimNode
from tests.simulation.test_convergence import seeds
from tests.simulation.world import World

MOST = 60
CONNECTED = [shape for shape in TOPOLOGIES if shape != "one-way chain"]


def test_a_star_whose_leaves_only_receive() -> None:
    """Headquarters and its branches: the price list."""
    overwritten = 0
    for seed in seeds():
        scenario = draw(seed, topology="star")
        leaves = range(2, scenario.nodes + 1)
        world = World(scenario, kinds(leaves, ()))
        world.run()
        center, *others = world.nodes.values()
        for node in others:
            assert isinstance(node, Receiver)
            assert all(t.head.kind == "b" for t in node.log[node.origin].values())
            overwritten += len(KEYS) - len(node.over)
            assert node.rows == center.rows
    assert overwritten or len(seeds()) < 20


def test_a_receiver_anywhere_passes_on_what_others_change() -> None:
    for seed in seeds():
        scenario = draw(seed, topology=CONNECTED[seed % len(CONNECTED)])
        World(scenario, kinds({1 + seed % scenario.nodes}, ())).run()


def test_a_leaf_that_only_gives() -> None:
    """A branch that delivers its sales: its writes are nowhere lost, and it takes none."""
    for seed in seeds():
        scenario = draw(seed, topology=["star", "mesh", "chain", "ring"][seed % 4])
        world = World(scenario, kinds({2}, {scenario.nodes}))
        world.run()
        giver = world.nodes[scenario.nodes]
        assert isinstance(giver, Giver)
        origins = {t.head.origin for log in giver.log.values() for t in log.values()}
        assert origins <= {giver.origin}


def test_members_come_and_go_beside_one_way_members() -> None:
    for seed in seeds():
        scenario = draw(seed, joins=1 + seed % 2, expiries=seed % 2)
        World(scenario, kinds({scenario.nodes}, ())).run()


@pytest.mark.parametrize(
    ("topology", "wrong", "failure"),
    [
        ("star", oneway.SilentReceiver, "never forgets"),
        ("mesh", oneway.RelayingGiver, "wrong|differs|concurrent"),
        ("mesh", oneway.DropsRowsOfOneLink, "wrong|differs|concurrent"),
    ],
)
def test_another_way_to_be_one_way_fails(topology: str, wrong: type[SimNode], failure: str) -> None:
    """Some seed fails as is named, and goes well with the rule."""
    for seed in range(MOST):
        scenario = draw(seed, topology=topology, strategy="newer_wins")
        last = {scenario.nodes}
        right = kinds((), last) if issubclass(wrong, Giver) else kinds(last, ())
        try:
            World(scenario, kinds(last, (), receiver=wrong)).run()
        except Violation as violation:
            assert re.search(failure, str(violation)), str(violation)
            World(scenario, right).run()
            return
    pytest.fail(f"it goes unnoticed in {MOST} seeds")
