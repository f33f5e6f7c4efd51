"""What stops `peersync init` is found before the first database is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from peersync.cli import main
from peersync.cli.context import Context
from tests.plugins.clusters import Database


def run(home: Path, *args: str) -> int:
    return main.run(args, Context(environ={"HOME": str(home)}, uid=1000))


def has_schema(database: Database) -> bool:
    return database.psql("SELECT to_regnamespace('peersync') IS NOT NULL").strip() == "t"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--config", "/proc/none/p.toml"), 7, "/proc/none cannot be written"),
        (("--config", "{home}/file/p.toml"), 7, "is a file, not a directory"),
        (("--config", "{home}"), 7, "is not a file"),
        (("--config", "{home}/new/" + "x" * 300), 7, "too long"),
        (("--config", "{home}/new/p.toml", "--state-dir", "{home}/file/s"), 7, "is a file"),
        (("--config", "{home}/new/p.toml", "--state-dir", "/proc/none"), 7, "cannot be written"),
        (("--state-dir", ""), 2, "--state-dir is empty"),
        (("--state-dir", "~nobody-has-this-name/x"), 7, "home directory"),
        (("--listen", "h:99999"), 7, "node.listen is not valid"),
        (("--socket", "relative"), 7, "node.socket must be an absolute path"),
        (("--database", "shop=postgresql:///other"), 2, "--database shop is given twice"),
    ],
)
def test_nothing_is_made_when_something_is_wrong(
    args: tuple[str, ...],
    code: int,
    words: str,
    tmp_path: Path,
    database: Database,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    given = [arg.format(home=tmp_path) for arg in args]
    assert run(tmp_path, "init", "--database", f"shop={database.conninfo()}", *given) == code
    said = capsys.readouterr().err
    assert words in said and "next:" in said and "internal error" not in said
    assert not has_schema(database)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_identity_that_cannot_be_used_stops_it_first(
    tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = tmp_path / "s" / "identity"
    identity.mkdir(parents=True)
    (identity / "node.crt").touch(0o644)
    (identity / "node.crt").chmod(0o644)
    shop = f"shop={database.conninfo()}"
    assert run(tmp_path, "init", "--database", shop, "--state-dir", str(tmp_path / "s")) == 8
    assert "chmod 600" in capsys.readouterr().err
    assert not has_schema(database)


def test_the_next_commands_can_be_pasted_whatever_the_path(
    tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / 'my "née" dir' / "p.toml"
    state = tmp_path / "it's here"
    args = ("--config", str(config), "--state-dir", str(state), "--name", "a")
    assert run(tmp_path, "init", *args, "--database", f"shop={database.conninfo()}") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"peersync agent --config '{config}'"
    assert run(tmp_path, "--config", str(config), "config", "check") == 0
