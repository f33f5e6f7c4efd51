"""How a bulk sync looks: a line a database, a table at the end; with --quiet what failed.

stdout has the lines and the table. With --quiet stdout stays empty and what failed goes to
stderr, which cron mails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from peersync.cli.context import Context
from peersync.cli.output import duration, flat, print_err, print_out, print_table, size
from peersync.core.results import ErrorRecord
from peersync.core.words import counted

if TYPE_CHECKING:
    from peersync.agent.orchestration.bulk_outcome import BulkDatabase, BulkPlan, BulkView
    from peersync.agent.orchestration.outcome import CompleteView

_WAITING = frozenset({"waiting", "running"})
_FAILED = frozenset({"partial", "error"})
_DECIMALS = 6


class Lines:
    """Prints each database once, in its turn, when it has ended."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._shown = 0
        self._begun = -1

    def show(self, view: BulkView) -> Iterator[int]:
        """Prints what is new; yields the place of each database behind its line."""
        while self._shown < len(view.databases):
            place, one = self._shown, view.databases[self._shown]
            if one.status in _WAITING:
                self._begin(view, place)
                return
            self._shown += 1
            if self._ctx.json:
                continue
            if not self._ctx.quiet:
                print_out(f"[{place + 1}/{view.total}] {line_of(one)}")
            elif one.status in _FAILED:
                print_err(line_of(one))
            yield place

    def _begin(self, view: BulkView, place: int) -> None:
        one = view.databases[place]
        if self._ctx.verbose and one.status == "running" and self._begun < place:
            self._begun = place
            print_err(f"[{place + 1}/{view.total}] … {one.database} – {counted(one.peers, 'peer')}")

    def show_peers(self, complete: CompleteView) -> None:
        """With --verbose: what was done for each peer of the last database."""
        for one in complete.peers:
            if one.status == "skipped":
                print_out(f"      ○ {one.peer} – {flat(one.reason or 'passed over')}")
            elif one.error is not None:
                print_out(f"      ✗ {one.peer} – {one.way}: {_words(one.error)}")
            else:
                sign = "✓" if one.status == "success" else "✗"
                more = f": {flat(one.reason)}" if one.reason else ""
                facts = f"{one.way}, {rows(one.rows)}, {size(one.wire_bytes)} on the wire"
                print_out(f"      {sign} {one.peer} – {facts} ({took(one.seconds)}){more}")

    def close(self, view: BulkView) -> None:
        """The summary; with --quiet nothing more than what is to be done."""
        if not self._ctx.quiet:
            print_summary(self._ctx, view)
        elif view.status == "interrupted":
            print_err(view.message)
        _print_hints([(one.database, one.error) for one in view.databases])


def line_of(one: BulkDatabase) -> str:
    """ "✓ shop – 3 peers, 1,204 rows (23.4 s)"; its error or the reason where there is one."""
    name = one.database
    if one.status == "success":
        passed = f"; {flat(one.reason)}" if one.reason else ""
        done = f"{counted(one.peers, 'peer')}, {rows(one.rows)} ({took(one.duration_s)})"
        return f"✓ {name} – {done}{passed}"
    if one.status == "skipped":
        return f"○ {name} – {flat(one.reason or 'skipped')}"
    if one.status == "not_run":
        return f"○ {name} – not run: {flat(one.reason or 'interrupted')}"
    if one.status == "interrupted":
        return f"✗ {name} – interrupted ({took(one.duration_s)})"
    said = [flat(one.reason)] if one.reason else []
    said += [_words(one.error)] if one.error else []
    return f"✗ {name} – {': '.join(said) or 'failed'}"


def print_plan(ctx: Context, plan: BulkPlan) -> None:
    """What a run would do: a line a database, then a summary."""
    for one in plan.databases:
        if one.error is not None:
            line = f"✗ {one.database} – {_words(one.error)}"
        elif one.status == "skipped":
            line = f"○ {one.database} – {flat(one.reason or 'skipped')}"
        else:
            line = f"✓ {one.database} – {counted(one.peers, 'peer')}"
        if not ctx.quiet:
            print_out(line)
        elif one.error is not None:
            print_err(line)
    if not ctx.quiet:
        failed = f", {plan.failed} cannot be asked" if plan.failed else ""
        print_out(
            f"dry run: {plan.ready} of {plan.total} databases would be synced, "
            f"{plan.skipped} skipped{failed}"
        )
    _print_hints([(one.database, one.error) for one in plan.databases])


def print_summary(ctx: Context, view: BulkView) -> None:
    """One row of sums under their names; what is seldom has a column only when there is some."""
    cells: list[tuple[str, object]] = [
        ("databases", view.total),
        ("successful", view.successful),
        ("failed", view.failed),
        ("skipped", view.skipped),
        ("rows", f"{view.rows:,}"),
        ("on the wire", size(view.wire_bytes)),
        ("duration", took(view.duration_s)),
    ]
    if view.not_run:
        cells.insert(4, ("not run", view.not_run))
    if view.cost:
        cells.insert(-1, ("cost", price(view.cost, view.currency)))
    print_table([name for name, _ in cells], [[value for _, value in cells]], color=ctx.color)
    if view.status in ("nothing", "interrupted"):
        print_err(view.message)


def rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


def took(seconds: float) -> str:
    """ "23.4 s"; minutes and more as everywhere."""
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)


def price(cost: float, currency: str) -> str:
    """Two to six decimals: "1.50 EUR", "0.000123"."""
    whole, _, decimals = f"{cost:.{_DECIMALS}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')} {currency}".rstrip()


def _words(error: ErrorRecord) -> str:
    detail = f" ({flat(error.detail)})" if error.detail else ""
    return flat(error.message) + detail


def _print_hints(errors: list[tuple[str, ErrorRecord | None]]) -> None:
    for name, error in errors:
        if error is not None and error.hint:
            print_err(f"{name}: {flat(error.hint)}")
