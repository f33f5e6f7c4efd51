"""Until when it is quiet; and the URL of a channel is a secret wherever it is configured."""

from __future__ import annotations

import tomllib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from peersync.cli import main
from peersync.cli.context import Context
from peersync.cli.notify_cmd import quiet_until
from peersync.core.errors import BadRequest

NOW = datetime(2026, 11, 22, 21, 0, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", "2026-11-22T23:00:00+01:00"),
        ("30 m", "2026-11-22T21:30:00+01:00"),
        ("22:30", "2026-11-22T22:30:00+01:00"),
        ("08:00", "2026-11-23T08:00:00+01:00"),
        ("21:00", "2026-11-23T21:00:00+01:00"),
        ("2026-12-24 08:00+02:00", "2026-12-24T08:00:00+02:00"),
    ],
)
def test_quiet_ends_when_the_words_say(text: str, expected: str) -> None:
    assert quiet_until(text, NOW).isoformat() == expected


@pytest.mark.parametrize("text", ["soon", "", "25:00", "2x", "1s"])
def test_words_that_are_no_time_are_refused_with_examples(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        quiet_until(text, NOW)
    assert caught.value.hint


CHANNEL = """
[[channel]]
name = "chat"
kind = "slack"
url = "https://hooks.example.org/services/CANARY"
"""


def test_the_url_of_a_channel_is_not_shown_and_not_for_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "peersync.toml"
    file.write_text(CHANNEL)
    file.chmod(0o644)
    context = Context(environ={"HOME": "/nonexistent"}, uid=1000)
    assert main.run(("config", "show", "--config", str(file)), context) == 0
    out = capsys.readouterr().out
    assert "CANARY" not in out
    assert tomllib.loads(out)["channel"][0]["url"] == "***"
    assert "CANARY" not in repr(context.config)
    assert main.run(("config", "check", "--config", str(file)), Context({}, uid=1000)) == 0
    out = capsys.readouterr().out
    assert f"chmod o= {file}" in out
