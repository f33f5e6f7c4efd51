"""The commands of docs/procedures.md, read from the page and typed one after the other.

A test walks one section with `Steps`: it says on which node the next command is typed and what
stands for its placeholders, and never what the command is. What it has not typed at its end fails.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.plugins.nodes import Node, Result

PAGE = Path(__file__).parents[2] / "docs" / "procedures.md"
FIRST = "First"  # what stands before the first heading
# Commands that ask. The tests have no terminal: they say yes.
ASKING = (
    "jobs clear-stuck",
    "members expire",
    "node rotate-certificate",
    "rebaseline",
    "leave",
    "uninstall",
    "undo",
    "join",
)
_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")


def sections() -> dict[str, list[str]]:
    """The commands of each section, in the order of the page; comments stay with them."""
    found: dict[str, list[str]] = {}
    text = PAGE.read_text()
    for part in re.split(r"^## ", f"{FIRST}\n{text}", flags=re.M):
        title, _, body = part.partition("\n")
        blocks = re.findall(r"^```sh\n(.*?)^```$", body, re.M | re.S)
        found[title] = [line for block in blocks for line in block.splitlines() if line.strip()]
    return {title: lines for title, lines in found.items() if lines}


class Steps:
    """The commands of one section; see `walk`."""

    def __init__(self, title: str) -> None:
        lines = sections()[title]
        self.left = [line for line in lines if not line.startswith("#")]

    def skip_to(self, beginning: str) -> None:
        """Past commands that another test walks, up to the next one with this beginning."""
        while not self.left[0].startswith(beginning):
            self.left.pop(0)

    def stop_before(self, beginning: str) -> None:
        """What follows is walked by another test."""
        assert self.left[0].startswith(beginning), self.left
        self.left.clear()

    def next(self, **words: str) -> str:
        """The next command as it is typed, its placeholders filled."""
        command = self.left.pop(0).split(" # ")[0].strip()
        if not command.startswith("psql"):
            for word in set(_PLACEHOLDER.findall(command)):
                command = re.sub(rf"\b{word}\b", words[word], command)
        return command

    def type(self, node: Node, *, check: bool = True, **words: str) -> Result:
        """Types the next command on `node`."""
        command = self.next(**words)
        program, *arguments = shlex.split(command)
        if program == "systemctl":
            return _systemctl(node, arguments[0])
        if program == "psql":
            return Result(0, node.database.psql(arguments[1]), "")
        assert program == "peersync", command
        given = " ".join(arguments)
        if given.startswith(ASKING) and "--dry-run" not in arguments:
            arguments.append("--yes")
        return node.run(*arguments, check=check)


def _systemctl(node: Node, verb: str) -> Result:
    if verb in ("stop", "restart"):
        node.stop()
    if verb in ("start", "restart"):
        node.start()
    assert verb in ("stop", "restart", "start", "disable"), verb
    return Result(0, "", "")


@contextmanager
def walk(title: str) -> Iterator[Steps]:
    """The section's commands; the block must have typed all of them when it ends."""
    steps = Steps(title)
    yield steps
    assert not steps.left, f"not typed: {steps.left}"


def dump(node: Node, *options: str) -> str:
    """What pg_dump gives, without the random words of newer versions."""
    done = subprocess.run(
        [node.database.cluster.bindir / "pg_dump", *options, node.database.conninfo()],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.M)
