"""What a person or a script sees of `peersync`, whatever the verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from peersync.cli import main
from peersync.cli.context import Context, add_global_options
from peersync.core.errors import DatabaseError, Locked, PeersyncError

PEERSYNC = [sys.executable, "-m", "peersync.cli.main"]
CONFIG = '[node]\nname = "a"\n[database.shop]\nconninfo = "postgresql://u:canary@h/shop"\n'


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "peersync.toml"
    path.write_text(CONFIG)
    return str(path)


def run(*args: str, **environ: str) -> int:
    return main.run(args, Context(environ=environ, uid=1000))


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Puts a command `boom` beside the others that does what the test wants."""

    def install(action: Callable[[], object]) -> None:
        command = click.Command("boom", callback=action)
        add_global_options(command)
        monkeypatch.setitem(main.VERBS, "boom", main.Verb("Tools", "peersync.cli.main:x", ""))
        monkeypatch.setitem(main.cli.commands, "boom", command)

    return install


@pytest.mark.parametrize("place", ["before", "after", "last"])
def test_global_options_work_before_and_after_the_verb(
    place: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", config, "--json"]
    args = {
        "before": [*options, "config", "show"],
        "after": ["config", *options, "show"],
        "last": ["config", "show", *options],
    }[place]
    assert run(*args) == 0
    assert json.loads(capsys.readouterr().out)["config"]["node"]["name"] == "a"


def test_a_typo_gets_the_nearest_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("confg") == 2
    assert "did you mean peersync config?" in capsys.readouterr().err
    assert run("xyzzy") == 2
    assert "peersync --help" in capsys.readouterr().err


def test_a_usage_error_says_where_help_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--bogus") == 2
    assert "peersync config show --help" in capsys.readouterr().err


def test_a_missing_configuration_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--config", "/nonexistent.toml") == 7
    assert "peersync init" in capsys.readouterr().err


def test_an_error_has_five_parts(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise DatabaseError(
            "writing failed",
            detail="23505: duplicate key\nKey (id)=(1) already exists.",
            hint="peersync check",
            table="orders",
            did="rolled back: nothing was changed",
        )

    verb(fail)
    assert run("boom") == 1
    lines = [line.split(":", 1) for line in capsys.readouterr().err.splitlines()]
    assert [name.strip() for name, *_ in lines] == [
        "peersync", "where", "database", "Key (id)=(1) already exists.", "peersync", "next",
    ]  # fmt: skip


def test_json_has_the_error_on_stdout_and_words_on_stderr(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise Locked("busy", hint="wait", holder="server-b")

    verb(fail)
    assert run("boom", "--json") == 6
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["schema_version"] == 1
    assert answer["error"] == {
        "code": "locked",
        "message": "busy",
        "detail": None,
        "hint": "wait",
        "exit_code": 6,
        "retryable": False,
        "data": {"holder": "server-b"},
    }
    assert "busy" in err


def test_a_usage_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--json", "--bogus") == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad-request"


def test_errors_of_a_task_group_are_shown_and_bugs_in_it_stay_bugs(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def ours() -> None:
        raise ExceptionGroup("g", [ExceptionGroup("h", [Locked("busy")])])

    verb(ours)
    assert run("boom") == 6

    def bug() -> None:
        raise ExceptionGroup("g", [Locked("busy"), ZeroDivisionError("x")])

    verb(bug)
    assert run("boom") == 1
    assert "internal error: ZeroDivisionError" in capsys.readouterr().err


def test_a_bug_is_one_line_and_a_traceback_only_when_asked_for(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def bug() -> None:
        raise ZeroDivisionError("one\ntwo")

    verb(bug)
    assert run("boom") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "internal error: ZeroDivisionError: one two at " in err
    assert "test_main.py" in err
    assert run("boom", PEERSYNC_DEBUG="1") == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    verb(interrupt)
    assert run("boom") == 130
    assert "cancelled" in capsys.readouterr().err


def test_nothing_from_a_peer_moves_the_cursor(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise PeersyncError("peer \x1b[2J\x07evil", detail="a\x9bb\nc")

    verb(fail)
    assert run("boom") == 1
    err = capsys.readouterr().err
    assert r"peer \x1b[2J\x07evil" in err
    assert r"a\x9bb" in err


def test_colour_is_for_terminals_and_no_color_wins() -> None:
    assert Context(environ={}).color
    assert not Context(environ={"NO_COLOR": "1"}).color
    assert not Context(environ={}, no_color=True).color
    for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        assert (b"\x1b[" in on_terminal(["nonsense"], environ)) is coloured


def on_terminal(args: list[str], environ: dict[str, str]) -> bytes:
    """stderr of a run whose stderr is a terminal."""
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [*PEERSYNC, *args],
            stderr=theirs,
            env={"PATH": os.environ["PATH"], **environ},
        ) as process:
            process.wait(timeout=30)
        return os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_reader_that_goes_away_is_met_in_silence(config: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*PEERSYNC, "config", "show", "--config", config],
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_and_version_import_no_driver_and_no_rich() -> None:
    code = (
        "import sys; from peersync.cli.main import run; from peersync.cli.context import Context\n"
        "run(['--help'], Context())\n"
        "bad = {'rich', 'psycopg', 'asyncpg', 'aiohttp', 'asyncio', 'msgspec'} & {*sys.modules}\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_verb_loads_has_help_and_takes_the_global_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with click.Context(main.cli) as ctx:
        names = main.cli.list_commands(ctx)
    assert "config" in names
    for name in names:
        assert run(name, "--help") == 0
        text = capsys.readouterr().out
        assert f"Usage: peersync {name}" in text
        assert "--json" in text
        assert main.VERBS[name].help.endswith(".")
