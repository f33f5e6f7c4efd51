"""`scripts/bench delta`: what a sync costs that sends only what differs.

It owns the choice of turns and what a turn has to prove: that the target is what the source is,
and that just as many rows were changed as had been made to differ. The rivals replace the table
whatever differs, so they have one turn for each table and repetition.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pgcluster import find_installations

from benchlib import cells, cells_report, delta_report, differing, rivals, staged
from benchlib.agents import DATABASE, facts
from benchlib.cells import Ledger, Plan
from benchlib.delta_report import BACKUP, DUMP_PSQL, ENGINES, OURS, PGCOPYDB
from benchlib.differing import Case, State
from benchlib.meter import Meter
from benchlib.programs import RunFailed
from benchlib.stage import FAILURES, PRISTINE, Stage, Terms, passed

THEIRS = "rival"


def add_arguments(verbs: Any, machine: Callable[[], dict[str, Any]]) -> None:
    """Another verb of the script; `machine` tells what a reader of figures has to know."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "delta", help="syncs that send only what differs, against full ones"
    )
    parser.set_defaults(run=lambda options: main(options, machine))
    staged.add_options(parser, cells.names(cells.STATES, ENGINES))
    parser.add_argument("--rivals", action="store_true", help="install missing rivals with apt-get")


def main(options: argparse.Namespace, machine: Callable[[], dict[str, Any]]) -> int:
    """Run, print, write; the exit code: 0 all measured, 1 something failed, 130 stopped."""
    if options.rivals:
        rivals.install()
    there = rivals.present()[PGCOPYDB]
    majors = list(find_installations())
    major = options.major or _major(majors, pgcopydb=there is not None)
    able = there is not None and major <= rivals.PGCOPYDB_MAJOR
    plan = staged.plan(options, cells.STATES, ENGINES, lambda name: name != PGCOPYDB or able)
    ledger = Ledger()

    def play(case: Case, terms: Terms) -> None:
        agents = any(name in plan.engines for name in OURS)
        with Stage(terms, case, ledger, agents=agents, dumped=True) as stage:
            for repetition in range(plan.repeat):
                _Turns(stage, plan, repetition).play()

    stopped = staged.run(options, plan, major, ledger, play)
    told = [f"- {PGCOPYDB}: {_ran(ledger, there)}"]
    lines = cells_report.summarize(ledger)
    found = delta_report.goals(lines)
    staged.publish(
        options, machine(), ledger, lines, found, delta_report.render(ledger, lines), told
    )
    return staged.exit_code(ledger, stopped=stopped)


def _major(majors: list[int], *, pgcopydb: bool) -> int:
    """Where all can meet, otherwise the newest; 0 where there is none."""
    if pgcopydb and rivals.PGCOPYDB_MAJOR in majors:
        return rivals.PGCOPYDB_MAJOR
    return max(majors, default=0)


def _ran(ledger: Ledger, version: str | None) -> str:
    if version is None:
        return "not here"
    ran = any(cell.engine == PGCOPYDB and cell.cost for cell in ledger.cells)
    return f"{version}, {'ran' if ran else 'did not run'}"


class _Turns:
    """One repetition on one table. Who comes first changes with every state and repetition."""

    def __init__(self, stage: Stage, plan: Plan, repetition: int) -> None:
        self._stage, self._plan, self._repetition = stage, plan, repetition

    def play(self) -> None:
        ours = [name for name in OURS if name in self._plan.engines]
        for number, state in enumerate(self._plan.of(self._stage.case)):
            backwards = (number + self._repetition) % 2 == 1
            for engine in reversed(ours) if backwards else ours:
                self._ours(engine, state)
        for engine in (DUMP_PSQL, PGCOPYDB):
            if engine in self._plan.engines:
                self._rival(engine)

    def _ours(self, engine: str, state: State) -> None:
        stage = self._stage
        try:
            stage.renew()
            differing.change(stage.target, DATABASE, stage.case, state)
        except FAILURES as error:
            stage.fail(engine, state, self._repetition, error)
            return
        told: dict[str, Any] = {}

        def proof() -> None:
            _same(stage, DATABASE)
            wanted = state.rows(stage.case)
            if told["updated"] != wanted or told["inserted"]:
                raise RunFailed(f"{told['updated']} rows were changed instead of {wanted}", "")

        with stage.recorded(engine, state, self._repetition, proof=proof) as record:
            before = stage.link_bytes()
            with Meter(stage.source, stage.target, stage.pair.pids) as meter:
                account = stage.pair.pull("--method", engine)
            told.update(_told(account) | passed(before, stage.link_bytes()))
            if engine == BACKUP and told["way"] != "full":
                raise RunFailed("a backup was asked for, and the table was compared", "")
            record(meter.cost, told)

    def _rival(self, engine: str) -> None:
        stage = self._stage
        try:
            stage.target.dropdb(THEIRS)
            stage.target.createdb(THEIRS, template=PRISTINE)
            route = rivals.Route(
                *(stage.source, stage.target, PRISTINE, THEIRS, stage.terms.work), replace=True
            )
        except FAILURES as error:
            stage.fail(engine, None, self._repetition, error)
            return
        proof = lambda: _same(stage, THEIRS)  # noqa: E731
        with stage.recorded(engine, None, self._repetition, proof=proof) as record:
            with Meter(stage.source, stage.target) as meter:
                rivals.RUNNERS[engine](route)
            sent = {"wire_bytes": stage.dump_bytes} if engine == DUMP_PSQL else {}
            record(meter.cost, sent)


def _same(stage: Stage, database: str) -> None:
    if differing.content(stage.target, database) != stage.expected:
        raise RunFailed("the target does not equal the source", "")


def _told(account: dict[str, Any]) -> dict[str, Any]:
    """Of peersync's account what concerns its one table."""
    (table,) = account["tables"]
    counts = ("way", "way_reason", "blocks", "differing_blocks", "inserted", "updated", "unchanged")
    told = {key: table[key] for key in counts if table.get(key) is not None}
    return facts(account) | told
