"""`peersync config` says what is configured, and never a password."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from peersync.cli import main
from peersync.cli.context import Context


@pytest.fixture(autouse=True)
def no_pg_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PG"):
            monkeypatch.delenv(name)


def write(path: Path, text: str, mode: int = 0o600) -> str:
    file = path / "peersync.toml"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def run(*args: str, **environ: str) -> int:
    return main.run(args, Context(environ={"HOME": "/nonexistent", **environ}, uid=1000))


def test_show_prints_toml_with_the_origin_of_each_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, '[database.shop]\nconninfo = "host=h password=canary"\n')
    assert run("config", "show", "--origin", "--config", file, PEERSYNC_LOG_LEVEL="debug") == 0
    out = capsys.readouterr().out
    assert 'level = "debug"  # PEERSYNC_LOG_LEVEL' in out
    assert f"# {file}: database.shop.conninfo" in out
    assert "parallel = 2  # default" in out
    assert "canary" not in out
    values = tomllib.loads(out)
    assert values["database"]["shop"]["conninfo"] == "host=h password=***"


def test_show_as_json_has_values_and_origins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, '[database.shop]\nconninfo = "postgresql://u:canary@h/d"\n')
    assert run("config", "show", "--origin", "--json", "--config", file) == 0
    out = capsys.readouterr().out
    answer = json.loads(out)
    assert answer["config"]["database"]["shop"]["conninfo"] == "postgresql://u:***@h/d"
    assert answer["origins"]["log.level"] == "default"
    assert "canary" not in out


def test_check_is_quiet_about_a_good_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, '[database.shop]\nconninfo = "host=/run/pg user=u dbname=d"\n')
    assert run("config", "check", "--config", file) == 0
    assert "u@/run/pg:5432/d" in capsys.readouterr().out
    assert run("config", "check", "-q", "--config", file) == 0
    assert capsys.readouterr().out == ""


def test_check_fails_with_seven_and_says_how_to_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "password"
    secret.write_text("canary\n")
    secret.chmod(0o644)
    file = write(
        tmp_path,
        f'[database.shop]\nconninfo = "host=h"\npassword_file = "{secret}"\n'
        '[database.other]\nconninfo = "nonsense"\n',
    )
    assert run("config", "check", "--json", "--config", file) == 7
    out = capsys.readouterr().out
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["database shop"]["fix"] == f"chmod 600 {secret}"
    assert checks["database other"]["state"] == "FAILED"
    assert "canary" not in out


def test_check_warns_of_a_password_that_everybody_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[database.shop]\nconninfo = "host=h user=u dbname=d password=canary"\n'
    file = write(tmp_path, text, 0o644)
    assert run("config", "check", "--config", file) == 0
    assert f"fix: chmod o= {file}" in capsys.readouterr().out
    write(tmp_path, text, 0o640)
    assert run("config", "check", "--config", file) == 0
    assert "fix" not in capsys.readouterr().out


def test_check_warns_of_a_pgpass_that_libpq_ignores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pgpass = tmp_path / "pgpass"
    pgpass.write_text("*:*:*:*:canary\n")
    pgpass.chmod(0o644)
    file = write(tmp_path, '[database.shop]\nconninfo = "host=h user=u dbname=d"\n')
    assert run("config", "check", "--config", file, PGPASSFILE=str(pgpass)) == 0
    assert f"chmod 600 {pgpass}" in capsys.readouterr().out


def test_check_warns_of_directories_without_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "bin"
    good.mkdir()
    (good / "pg_dump").touch(0o755)
    bindirs = json.dumps(["/none", str(tmp_path), str(good)])
    file = write(tmp_path, f"[tools]\nbindirs = {bindirs}\n")
    assert run("config", "check", "--json", "--config", file) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    found = [(c["state"], c["detail"]) for c in checks if c["name"] == "tools.bindirs"]
    assert found == [
        ("WARNING", "/none is no directory"),
        ("WARNING", f"{tmp_path} has no pg_dump that could be run"),
    ]


def test_a_database_must_be_named_when_there_are_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, '[database.a]\nconninfo = ""\n[database.b]\nconninfo = ""\n')
    assert run("uninstall", "--dry-run", "--config", file) == 2
    assert "a, b" in capsys.readouterr().err
    assert run("uninstall", "--dry-run", "--database", "c", "--config", file) == 2
    assert "configured: a, b" in capsys.readouterr().err
