"""`scripts/bench verify`: how fast two tables are compared, and at whose cost.

It owns the choice of turns and the question whether an engine found just the rows that had been
made to differ: changed, missing and extra ones. A wrong answer of peersync's is a failure; one of
a rival's stands in its line.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

from pgcluster import find_installations

from benchlib import cells, cells_report, differing, reladiff, staged, verify_report
from benchlib.agents import DATABASE
from benchlib.cells import Ledger, Plan
from benchlib.differing import KINDS, TABLE, Case, Difference, State
from benchlib.meter import Meter
from benchlib.programs import RunFailed
from benchlib.stage import FAILURES, Stage, Terms, passed
from benchlib.verify_report import ENGINES, EXACT, PEERSYNC, RELADIFF

STATES = tuple(s for s in cells.STATES if s.name in ("0", "0.1-random", "1-clustered"))


def add_arguments(verbs: Any, machine: Callable[[], dict[str, Any]]) -> None:
    """Another verb of the script; `machine` tells what a reader of figures has to know."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "verify", help="comparing two databases, against reladiff"
    )
    parser.set_defaults(run=lambda options: main(options, machine))
    staged.add_options(parser, cells.names(STATES, ENGINES))


def main(options: argparse.Namespace, machine: Callable[[], dict[str, Any]]) -> int:
    """Run, print, write; the exit code: 0 all measured, 1 something failed, 130 stopped."""
    version = reladiff.version()
    plan = staged.plan(options, STATES, ENGINES, lambda name: name != RELADIFF or bool(version))
    major = options.major or max(find_installations(), default=0)
    ledger = Ledger()

    def play(case: Case, terms: Terms) -> None:
        agents = PEERSYNC in plan.engines
        with Stage(terms, case, ledger, agents=agents, dumped=False) as stage:
            for number, state in enumerate(plan.of(case)):
                _state(stage, plan, state, number)

    stopped = staged.run(options, plan, major, ledger, play)
    told = [f"- {RELADIFF}: {version or 'not here'}"]
    lines = cells_report.summarize(ledger)
    found = verify_report.goals(lines)
    staged.publish(
        options, machine(), ledger, lines, found, verify_report.render(ledger, lines), told
    )
    return staged.exit_code(ledger, stopped=stopped)


def _state(stage: Stage, plan: Plan, state: State, number: int) -> None:
    """All engines, all repetitions: nobody changes anything."""
    try:
        stage.renew()
        made = differing.unsettle(stage.target, DATABASE, stage.case, state)
    except FAILURES as error:
        for engine in plan.engines:
            stage.fail(engine, state, 0, error)
        return
    for repetition in range(plan.repeat):
        backwards = (number + repetition) % 2 == 1
        for engine in reversed(plan.engines) if backwards else plan.engines:
            turn = _peersync if engine == PEERSYNC else _reladiff
            turn(stage, state, repetition, made)


def _peersync(stage: Stage, state: State, repetition: int, made: set[Difference]) -> None:
    found: dict[str, int] = {}

    def proof() -> None:
        if (said := verdict(found, made)) != EXACT:
            raise RunFailed(f"not what was made to differ: {said}", "")

    with stage.recorded(PEERSYNC, state, repetition, proof=proof) as record:
        before = stage.link_bytes()
        with Meter(stage.source, stage.target, stage.pair.pids) as meter:
            view = stage.pair.verify()
        between = passed(before, stage.link_bytes())
        (table,) = [t for t in view["tables"] if t["name"] == TABLE]
        wrong = {Difference(k["kind"], tuple(k["key"])) for k in table["keys"]} - made
        if wrong or table["in_flight"]:
            raise RunFailed("it told of rows that were not made to differ", str(table)[:500])
        found.update({kind: int(table[kind]) for kind in KINDS})
        told = {"found": verdict(found, made), "look_s": float(table["seconds"])}
        record(meter.cost, told | {"result": view["result"], **found, **between})


def _reladiff(stage: Stage, state: State, repetition: int, made: set[Difference]) -> None:
    log = stage.terms.work / "reladiff.log"
    with stage.recorded(RELADIFF, state, repetition, proof=lambda: None) as record:
        with Meter(stage.source, stage.target) as meter:
            found = reladiff.compare(stage.source, stage.target, DATABASE, stage.case, log)
        record(meter.cost, {"found": verdict(found, made), **found})


def verdict(found: dict[str, int], made: set[Difference]) -> str:
    """EXACT, or each count that is not right."""
    right = Counter(one.kind for one in made)
    wrong = [
        f"{kind} {found[kind]} for {right[kind]}" for kind in KINDS if found[kind] != right[kind]
    ]
    return ", ".join(wrong) or EXACT
