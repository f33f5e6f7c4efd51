"""Each rule of order is there for a failure: without it the simulation finds that failure."""

from __future__ import annotations

import re

import pytest

from tests.simulation import broken_nodes as broken
from tests.simulation.onlooker import Violation
from tests.simulation.scenario import draw
from tests.simulation.simnode import SimNode
from tests.simulation.world import World

OFF: list[tuple[type[SimNode], str, str]] = [
    (broken.IgnoresWhatWasSeen, "newer_wins", "for concurrent|was made after"),
    (broken.JumpsGaps, "newer_wins", "for concurrent|wrong|resurrected|lost"),
    (broken.DoesNotLook, "newer_wins", "for concurrent|wrong|resurrected"),
    (broken.CountsItsCurrentVector, "newer_wins", "never forgets"),
    (broken.BelievesEveryFrame, "newer_wins", "for concurrent"),
    (broken.ForgetsWhatItApplied, "newer_wins", "for concurrent"),
    (broken.PrunesTheLogEarly, "newer_wins", "start anew"),
    (broken.FoldsOutOfOrder, "merge_columns", "wrong"),
    (broken.FoldsOutOfOrder, "delta", "wrong"),
    (broken.NeverSpeaksUp, "newer_wins", "never forgets"),
    (broken.AnswersEverything, "newer_wins", "still talking"),
    (broken.ObeysOldAnswers, "newer_wins", "start anew"),
    (broken.TrustsTheWallClock, "newer_wins", "and is older"),
    (broken.IgnoresOtherClocks, "newer_wins", "and is older"),
]
OFF_AT_JOINS: list[tuple[type[SimNode], str, str]] = [
    (broken.WaitsForNoJoiner, "newer_wins", "for concurrent|start anew"),
    (broken.TakesRowsOnly, "newer_wins", "for concurrent"),
]
MOST = 150


@pytest.mark.parametrize(
    ("node", "strategy", "failure"), OFF, ids=lambda value: str(getattr(value, "__name__", value))
)
def test_without_the_rule_a_run_fails(node: type[SimNode], strategy: str, failure: str) -> None:
    assert_fails(node, strategy, failure, joins=0)


@pytest.mark.parametrize(
    ("node", "strategy", "failure"),
    OFF_AT_JOINS,
    ids=lambda value: str(getattr(value, "__name__", value)),
)
def test_without_the_rule_a_run_with_joins_fails(
    node: type[SimNode], strategy: str, failure: str
) -> None:
    assert_fails(node, strategy, failure, joins=2)


def assert_fails(node: type[SimNode], strategy: str, failure: str, *, joins: int) -> None:
    """Some seed fails in the way that is named, and goes well with the rule."""
    for seed in range(MOST):
        scenario = draw(seed, strategy=strategy, joins=joins, nodes=3 + seed % 2)
        if not scenario.connected:
            continue
        try:
            World(scenario, node).run()
        except Violation as violation:
            assert re.search(failure, str(violation)), str(violation)
            World(scenario).run()
            return
    pytest.fail(f"{node.__name__} goes unnoticed in {MOST} seeds")
