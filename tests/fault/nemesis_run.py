"""One run: a cluster is built, people write, the nemesis works, all is healed and checked."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

from tests.fault import nemesis
from tests.fault.nemesis import Cluster, Link, Nemesis, build, join_all, plan
from tests.fault.nemesis_checks import check
from tests.fault.nemesis_load import TABLES, History, Load
from tests.plugins.clusters import Database
from tests.plugins.nodes import MakeNode


def ordeal(
    make_node: MakeNode,
    databases: Sequence[Database],
    edges: list[Link],
    kinds: dict[str, int],
    seconds: float,
    *,
    name: str,
    seed: int = nemesis.SEED,
) -> History:
    """Raises AssertionError with the seed, what was done, and all that is wrong."""
    seed_text, seconds = f"{seed} {name}", nemesis.SECONDS or seconds
    chance = random.Random(seed_text)
    with ExitStack() as stack:
        cluster = build(stack, make_node, databases, edges)
        began = time.monotonic()
        done: list[str] = []

        def step(what: str) -> None:
            done.append(f"{time.monotonic() - began:6.2f} {what}")

        wrong: list[str] = []
        history = History()
        try:
            cluster.nodes[0].database.psql(TABLES)
            faults = plan(chance, cluster, kinds, seconds)
            load = Load(cluster, seed_text, pause_s=chance.choice((0.005, 0.02)))
            history = load.history
            with Nemesis(cluster, chance, step) as worker:
                with load:
                    join_all(cluster, load.admit)
                    step("all are members")
                    worker.run(faults, seconds)
                cluster.heal()
            step("all is healed")
            cluster.settle()
            step("all are in sync")
            wrong = check(cluster, history)
        except BaseException:
            print(told(cluster, seed, seconds, done, history))
            cluster.dump()
            raise
        text = told(cluster, seed, seconds, done, history)
        print(text)
        if wrong:
            cluster.dump()
            raise AssertionError("\n".join([text, *wrong]))
        assert history.writes, "nobody wrote anything"
        assert history.looks, "nobody looked"
        return history


def told(cluster: Cluster, seed: int, seconds: float, done: list[str], history: History) -> str:
    """What a run says before all else."""
    sure = Counter(w.sure for w in history.writes)
    return "\n".join(
        [
            f"PEERSYNC_NEMESIS_SEED={seed} PEERSYNC_NEMESIS_SECONDS={seconds:g}",
            f"logs, and dumps after a failure: {cluster.home}",
            f"{sure[True]} sure writes, {sure[False]} perhaps; {history.looks} looks;"
            f" refused {dict(history.refused)}; the slowest took {history.slowest_s:.1f} s",
            *done,
        ]
    )
