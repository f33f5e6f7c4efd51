"""The rules of order hold in any topology, with wrong clocks and a bad network.

`PEERSYNC_SIM_SEEDS` says how many seeds (`2000`) or which (`17-17`).
"""

from __future__ import annotations

import os

import pytest

from peersync.core.order.membership import Start
from tests.simulation.scenario import STRATEGIES, TOPOLOGIES, draw
from tests.simulation.simnode import KEYS
from tests.simulation.trace import Trace
from tests.simulation.world import World


def seeds() -> range:
    first, dash, last = os.environ.get("PEERSYNC_SIM_SEEDS", "25").partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(first))


def test_nodes_converge_and_lose_nothing_whatever_the_seed() -> None:
    found = 0
    for seed in seeds():
        world = World(draw(seed))
        world.run()
        found += world.onlooker.conflicts
    assert found or len(seeds()) < 20, (
        "no conflict was ever met: the load is too tame to say anything"
    )


def test_nodes_that_join_while_others_write_converge_too() -> None:
    for seed in seeds():
        World(draw(seed, joins=1 + seed % 3)).run()


def test_nodes_that_leave_are_not_waited_for() -> None:
    for seed in seeds():
        World(draw(seed, leaves=1 + seed % 2)).run()


def test_what_an_expired_member_had_told_anybody_reaches_everybody() -> None:
    for seed in seeds():
        World(draw(seed, expiries=1)).run()


def test_who_was_expired_or_joined_in_vain_comes_back_with_its_writes() -> None:
    returned = 0
    for seed in seeds():
        world = World(draw(seed, joins=seed % 3, expiries=1))
        world.run()
        returned += len(world.returning)
    assert returned or len(seeds()) < 20


def test_a_database_that_is_set_back_to_a_backup_forks_nothing() -> None:
    verdicts = set()
    for seed in seeds():
        world = World(draw(seed, restores=1))
        world.run()
        verdicts.update(world.restored)
    assert verdicts == {Start.GO_ON, Start.RETURN} or len(seeds()) < 20


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_converges_in_every_topology(topology: str, strategy: str) -> None:
    world = World(draw(1234, topology=topology, strategy=strategy, nodes=4, writes=40))
    world.run()
    assert world.onlooker.conflicts > 0


@pytest.mark.parametrize("topology", ["chain", "star", "one-way ring"])
def test_many_nodes_converge(topology: str) -> None:
    World(draw(5, nodes=30, topology=topology, writes=30, strategy="newer_wins")).run()


def test_two_nodes_that_keep_nothing_for_others_converge_and_forget() -> None:
    for seed in range(12):
        World(draw(seed, nodes=2, topology="mesh", writes=40)).run()


def test_a_seed_gives_the_same_run_again() -> None:
    first, second = (World(draw(99)).run() for _ in range(2))
    assert first == second
    assert first.steps


def test_the_trace_of_a_run_can_be_replayed_from_its_file(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    trace = World(draw(3, nodes=3, topology="chain", strategy="newer_wins")).run()
    file = tmp_path_factory.mktemp("trace") / "run.json"
    trace.dump(file)
    again = Trace.load(file)
    assert again.rows == replayed(again)


def replayed(trace: Trace) -> dict[str, str]:
    """What node 1 has after the steps of a trace, by its versions alone."""
    writes = {step["uid"]: step["ops"] for step in trace.of("write")}
    newest: dict[str, tuple[tuple[int, int], str | None]] = {}
    for step in trace.of("publish"):
        for op in writes.get(step["uid"], []):
            for key in KEYS if op["key"] is None else [op["key"]]:
                version = (step["hlc"], step["node"])
                if key not in newest or version > newest[key][0]:
                    newest[key] = (version, op["image"])
    return {key: image for key, (_, image) in newest.items() if image is not None}
