"""What a person sees of one record: nothing that is not known, and nothing cut off."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from peersync.agent.jobview import JobView
from peersync.cli.context import Context
from peersync.cli.progress import one_line, screen
from peersync.cli.watch import elapsed_s, print_result, result
from peersync.core.progress import STEPS, Progress, Step, StepProgress, StepState
from peersync.core.results import TableResult

MIB = 1 << 20
PLANNED = Progress(
    session="0" * 32,
    action="pull",
    database="shop",
    source="server-a",
    target="server-b",
    state="planned",
    steps=tuple(StepProgress(name=s, unit="bytes") for s in STEPS),
    started_at="2026-11-22T02:00:00+00:00",
    elapsed_s=0.0,
)
BEGUN = replace(
    PLANNED,
    state="running",
    steps=(
        StepProgress(name=Step.BACKUP, unit="bytes", state=StepState.RUNNING, total=30 * MIB),
        *PLANNED.steps[1:],
    ),
)
LOADING = replace(
    BEGUN,
    step=Step.CONVERT,
    step_number=3,
    steps=(
        StepProgress(
            name=Step.BACKUP, unit="bytes", state=StepState.DONE, done=MIB << 10, seconds=754.0
        ),
        *(
            StepProgress(
                name=s, unit="bytes", state=StepState.RUNNING, done=1000 * MIB, total=1023 * MIB
            )
            for s in (Step.TRANSFER, Step.CONVERT, Step.RESTORE)
        ),
        StepProgress(name=Step.VERIFY, unit="tables"),
    ),
    percent=61.7,
    rows=12_345_678,
    rate_bytes_s=38.0 * MIB,
    eta_s=16.2,
    resumed=1,
    saved_bytes=MIB,
    waiting_for="server-a can't be reached:\nconnection refused\x1b[2J (try 3, again in 4 s)",
    elapsed_s=4000.0,
)


@pytest.mark.parametrize("progress", [PLANNED, BEGUN])
def test_before_anything_has_come_nothing_is_shown_as_zero(progress: Progress) -> None:
    for text in ("\n".join(screen(progress)), one_line(progress)):
        assert "counting…" in text
        for zero in ("0 %", "0 s", "0 B"):
            assert f" {zero}" not in text


def test_a_line_has_what_is_known_and_stays_one_line() -> None:
    moving = replace(LOADING, waiting_for=None)
    assert one_line(moving) == (
        "shop from server-a: 3/5 convert, 61 %, 38.0 MiB/s, about 16 s left, resumed 1×"
    )
    assert one_line(LOADING) == (
        "shop from server-a: 3/5 convert, 61 %, resumed 1×, waiting: "
        r"server-a can't be reached: connection refused\x1b[2J (try 3, again in 4 s)"
    )
    assert one_line(LOADING, giving=True).startswith("shop to server-b: 3/5 convert")


@pytest.mark.parametrize(
    ("state", "percent", "line"),
    [
        ("done", 100.0, "done, 100 %"),
        ("partly", 100.0, "partly, 100 %"),
        ("failed", 99.0, "failed at 99 %"),
        ("failed", None, "failed"),
        ("cancelled", 40.0, "cancelled at 40 %"),
        ("cancelling", 40.0, "cancelling"),
    ],
)
def test_the_last_line_says_how_it_ended(state: str, percent: float | None, line: str) -> None:
    ended = replace(PLANNED, state=state, percent=percent)
    assert one_line(ended) == f"shop from server-a: {line}"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_everything_that_is_known_fits_the_terminal(width: int) -> None:
    moving = screen(replace(LOADING, waiting_for=None), width)
    lines = screen(LOADING, width)
    assert all(len(line) <= width for line in [*lines, *moving]), lines
    text = " ".join("\n".join([*moving, *lines]).split())
    for words in (
        "61 %", "1 h 6 min", "38.0 MiB/s", "about 16 s left", ["12", "345", "678", "rows"][0],
        "resumed 1×, 1.0 MiB not sent again", "(try 3, again in 4 s)", "12 min 34 s",
    ):  # fmt: skip
        assert words in text
    for line in lines[1:4]:
        assert "97 %" in line
        assert "1000.0 MiB" in line


def view(**changes: object) -> JobView:
    ended = JobView(
        id="0" * 32,
        kind="full-sync",
        role="source",
        action="pull",
        database="shop",
        peer="server-b",
        state="done",
        progress=None,
        tables=[TableResult(schema="public", name="items", result="done")],
        seconds={},
        error=None,
        requested_by="root",
        started_at="2026-11-22T02:00:00+00:00",
        completed_at="2026-11-22T03:00:00+00:00",
    )
    return replace(ended, **changes)


def test_the_time_of_a_job_is_from_its_beginning_or_unknown() -> None:
    assert elapsed_s(view()) == 3600.0
    assert elapsed_s(view(progress=LOADING, seconds={"restore": 2.0})) == 4000.0
    assert elapsed_s(view(completed_at=None, state="planned")) is None
    assert elapsed_s(view(state="failed")) is None, "closed by whoever found it, a day later"


def test_a_result_without_progress_has_no_numbers() -> None:
    told = result(view())
    for name in ("raw_bytes", "wire_bytes", "saved_bytes", "resumed"):
        assert told[name] is None


def test_the_tables_say_where_rows_are_and_that_a_deletion_is_a_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = TableResult(schema="public", name="items", result="done", deleted=3, target_only=3)
    same = TableResult(schema="public", name="other", result="done", unchanged=1)
    print_result(Context(), view(tables=[gone, same]))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split("  ")[-1].strip() == "ONLY ON SERVER-B"
    assert "DELETED" in shown[0]
    assert shown[1].split() == ["public.items", "done", "0", "0", "0", "3", "3"]
    assert shown[2] == "1 table had nothing to change."
    print_result(Context(), view(role="target", tables=[replace(gone, deleted=0, inserted=1)]))
    head = capsys.readouterr().out.splitlines()[0]
    assert "ONLY HERE" in head
    assert "DELETED" not in head
