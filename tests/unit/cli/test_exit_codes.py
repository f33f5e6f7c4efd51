"""docs/exit-codes.md is a contract: page and code say the same."""

from __future__ import annotations

import re
from pathlib import Path

from peersync.cli.main import EXIT_BROKEN_PIPE, EXIT_BUG
from peersync.core.errors import PeersyncError

PAGE = (Path(__file__).parents[3] / "docs" / "exit-codes.md").read_text()


def all_errors(kind: type[PeersyncError] = PeersyncError) -> set[type[PeersyncError]]:
    found = {kind}
    for below in kind.__subclasses__():
        found |= all_errors(below)
    return found


def test_every_error_has_a_code_of_its_own() -> None:
    """By the code alone the other side of a line makes the class again."""
    codes = sorted(error.code for error in all_errors())
    assert codes == sorted(set(codes))


def test_every_error_is_listed_with_its_exit_code() -> None:
    listed = {
        name: int(code) for name, code in re.findall(r"^\| ([a-z-]+) \| (\d+) \|$", PAGE, re.M)
    }
    assert listed == {error.code: error.exit_code for error in all_errors()}


def test_every_exit_code_is_explained() -> None:
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
    used = {error.exit_code for error in all_errors()} | {EXIT_BUG, EXIT_BROKEN_PIPE}
    assert used <= explained
    assert explained - used == {0, 3, 143}  # results and signals, not errors
