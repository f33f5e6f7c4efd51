"""What a replayed run made, and which conflicts a database must record of it.

The simulation decides one transaction after another. A database applies a run of them at once
and records less: of each row only the last change of the run, and only the highest of its
rivals. What that leaves of the simulation's findings is said here.
"""

from __future__ import annotations

from typing import Any

from tests.simulation.simnode import KEYS
from tests.simulation.trace import Step

Place = tuple[int, int]
Op = dict[str, Any]
Record = dict[str, Any]


class History:
    """What was written and published so far. `rivals`: those that each transaction met last."""

    def __init__(self, strategy: str) -> None:
        self._state = "open" if strategy == "manual" else "resolved"
        self._ops: dict[int, list[Op]] = {}  # by uid
        self._made: dict[Place, Step] = {}
        self._rivals: dict[Place, list[list[Any]]] = {}

    def wrote(self, step: Step) -> None:
        self._ops[step["uid"]] = step["ops"]

    def published(self, step: Step) -> None:
        self._made[step["node"], step["position"]] = step

    def applied(self, step: Step) -> None:
        self._rivals[step["origin"], step["position"]] = step["conflicts"]

    def head(self, origin: int, position: int) -> Step:
        """What was published there."""
        return self._made[origin, position]

    def ops(self, place: Place) -> list[Op]:
        """The changes of a transaction; none where it is an announcement."""
        return self._ops.get(self._made[place]["uid"], [])

    def conflicts_of(self, run: Step) -> list[Record]:
        """What is recorded of a run.

        Rivals that had their place before come first; those that got it meanwhile are only met
        where the incoming change has won until then. A truncate goes on, row by row.
        """
        found = []
        for key, place in self._last(run).items():
            rivals = {(r[1], r[2]) for r in self._rivals[place] if r[0] == key}
            late = {r for r in rivals if r[0] == run["node"] and r[1] > run["own"]}
            came = self._op(place, key)
            for group in (rivals - late, late):
                if came["op"] == "T":  # both leave nothing
                    group = {r for r in group if self._op(r, key)["op"] != "T"}
                if not group:
                    continue
                top = max(group, key=self._version)
                if (self._op(top, key)["image"], came["image"]) != (None, None):
                    found.append(self._record(key, top, place))
                if self._version(top) > self._version(place) and came["op"] != "T":
                    found += self._of_truncate(
                        run, key, place, late if group is not late else set()
                    )
                    break
        return found

    def _of_truncate(self, run: Step, key: str, place: Place, late: set[Place]) -> list[Record]:
        """A change that has lost is gone; a truncate before it in the run meets who came late."""
        for position in range(place[1] - 1, run["first"] - 1, -1):
            earlier = (run["origin"], position)
            if any(op["key"] is None for op in self.ops(earlier)):
                met = {(r[1], r[2]) for r in self._rivals[earlier] if r[0] == key} & late
                met = {r for r in met if self._op(r, key)["image"] is not None}
                return [self._record(key, max(met, key=self._version), earlier)] if met else []
        return []

    def _last(self, run: Step) -> dict[str, Place]:
        """By row the last transaction of a run that changed it."""
        places = [(run["origin"], p) for p in range(run["first"], run["last"] + 1)]
        return {
            key: place
            for place in places
            for op in self.ops(place)
            for key in (KEYS if op["key"] is None else [op["key"]])
        }

    def _record(self, key: str, kept: Place, came: Place) -> Record:
        wins = self._version(kept) > self._version(came)
        return {
            "key": key,
            "kind": _kind(self._op(came, key)["op"], self._op(kept, key)["op"]),
            "winner": "kept" if wins else "incoming",
            "state": self._state,
            **self._side("kept", key, kept),
            **self._side("in", key, came),
        }

    def _side(self, side: str, key: str, place: Place) -> Record:
        op = self._op(place, key)
        return {
            f"{side}_origin": place[0],
            f"{side}_position": place[1],
            f"{side}_hlc": self._made[place]["hlc"],
            f"{side}_op": op["op"],
            f"{side}_image": op["image"] and f"({key},{op['image']})",
        }

    def _op(self, place: Place, key: str) -> Op:
        return next(op for op in self.ops(place) if op["key"] in (key, None))

    def _version(self, place: Place) -> tuple[int, int, int]:
        return (self._made[place]["hlc"], *place)


def _kind(came: str, kept: str) -> str:
    if came in ("D", "T"):
        return "delete_origin_differs"
    if kept in ("D", "T"):
        return "insert_deleted" if came == "I" else "update_missing"
    return "insert_exists" if came == "I" else "update_origin_differs"
