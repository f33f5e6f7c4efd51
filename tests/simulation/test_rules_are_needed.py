"""Each rule of order is there for a failure: without it the simulation finds that failure."""

from __future__ import annotations

import re

import pytest

from tests.simulation import broken_nodes as broken
from tests.simulation.onlooker import Violation
from tests.simulation.scenario import draw
from tests.simulation.simnode import SimNode
from tests.simulation.world import World

WRONG = "for concurrent|wrong|resurrected"
CUT_OFF = "lost|start anew|another has"

# What is switched off, under which strategy, what the run fails with, and what else it needs.
OFF: list[tuple[type[SimNode], str, str, dict[str, int]]] = [
    (broken.IgnoresWhatWasSeen, "newer_wins", "for concurrent|was made after", {}),
    (broken.JumpsGaps, "newer_wins", f"{WRONG}|lost", {}),
    (broken.DoesNotLook, "newer_wins", WRONG, {}),
    (broken.CountsItsCurrentVector, "newer_wins", "never forgets", {}),
    (broken.BelievesEveryFrame, "newer_wins", "for concurrent", {}),
    (broken.ForgetsWhatItApplied, "newer_wins", "for concurrent", {}),
    (broken.PrunesTheLogEarly, "newer_wins", "start anew", {}),
    (broken.FoldsOutOfOrder, "merge_columns", "wrong", {}),
    (broken.FoldsOutOfOrder, "delta", "wrong", {}),
    (broken.NeverSpeaksUp, "newer_wins", "never forgets", {}),
    (broken.AnswersEverything, "newer_wins", "still talking", {}),
    (broken.ObeysOldAnswers, "newer_wins", "start anew", {}),
    (broken.TrustsTheWallClock, "newer_wins", "and is older", {}),
    (broken.IgnoresOtherClocks, "newer_wins", "and is older", {}),
    (broken.WaitsForNoJoiner, "newer_wins", "for concurrent|start anew", {"joins": 2}),
    (broken.TakesRowsOnly, "newer_wins", "for concurrent", {"joins": 2}),
    (broken.ForgetsTheExpiredAtOnce, "newer_wins", "for concurrent|lost", {"expiries": 1}),
    (broken.PrunesWithoutTheExpired, "newer_wins", "for concurrent", {"expiries": 1}),
    (broken.HearsTheExpired, "newer_wins", "lost|another has", {"expiries": 1}),
    (broken.NeverJoinsAnew, "newer_wins", CUT_OFF, {"joins": 2, "expiries": 1}),
    (broken.SponsorsAtOnce, "newer_wins", CUT_OFF, {"joins": 3, "expiries": 1}),
    (broken.ReturnsAtOnce, "newer_wins", "another has", {"expiries": 1}),
    (broken.ForgetsItsIds, "newer_wins", "made twice", {"restores": 1}),
    (broken.GoesOnAfterARestore, "newer_wins", f"{WRONG}|start anew|lost", {"restores": 1}),
    (broken.AsksOneOnly, "newer_wins", f"{WRONG}|start anew|lost", {"restores": 1}),
    (broken.RecordsItsPositionOnly, "newer_wins", "for concurrent|start anew", {"restores": 1}),
]
MOST = 150


@pytest.mark.parametrize(
    ("node", "strategy", "failure", "events"),
    OFF,
    ids=[f"{node.__name__}-{strategy}" for node, strategy, *_ in OFF],
)
def test_without_the_rule_a_run_fails(
    node: type[SimNode], strategy: str, failure: str, events: dict[str, int]
) -> None:
    """Some seed fails in the way that is named, and goes well with the rule."""
    for seed in range(MOST):
        scenario = draw(seed, strategy=strategy, nodes=3 + seed % 2, **events)  # type: ignore[arg-type]
        if not scenario.connected:
            continue
        try:
            World(scenario, node).run()
        except Violation as violation:
            assert re.search(failure, str(violation)), str(violation)
            World(scenario).run()
            return
    pytest.fail(f"{node.__name__} goes unnoticed in {MOST} seeds")
