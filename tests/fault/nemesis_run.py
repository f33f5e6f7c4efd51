"""One run: a cluster is built, people write, the nemesis works, all is healed and checked."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext

from tests.fault import nemesis
from tests.fault.nemesis import Cluster, Link, Nemesis, build, join_all, join_anyhow, plan
from tests.fault.nemesis_checks import check
from tests.fault.nemesis_load import TABLES, History, Load
from tests.plugins.clusters import Database
from tests.plugins.nodes import MakeNode, Result


def ordeal(
    make_node: MakeNode,
    databases: Sequence[Database],
    edges: list[Link],
    kinds: dict[str, int],
    seconds: float,
    *,
    name: str,
    late: bool = False,
    seed: int = nemesis.SEED,
) -> History:
    """Raises AssertionError with the seed, what was done, and all that is wrong.

    `late`: the last node joins while the faults are at work, not before.
    """
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
                    join_all(cluster, load.admit, -1 if late else None)
                    step("all are members")
                    with _joining(cluster, load, step) if late else nullcontext():
                        worker.run(faults, seconds)
                        cluster.heal()
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


@contextmanager
def _joining(cluster: Cluster, load: Load, step: Callable[[str], None]) -> Iterator[None]:
    """The last node becomes a member meanwhile, however often it has to be told."""
    over, new = threading.Event(), cluster.members[-1]

    def join() -> Result:
        result = join_anyhow(cluster, new, over)
        step(f"joined: {result.code} {result.err.strip()}")
        load.admit(new)
        return result

    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(join)
        try:
            yield
            joining.result(30)
        except TimeoutError:
            pass  # the last try is on its way
        finally:
            over.set()
        result = joining.result(120)
    assert result.code == 0 or "already" in result.err, result


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
