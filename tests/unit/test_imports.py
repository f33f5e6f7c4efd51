"""What a command imports loads by itself, whatever was loaded before it.

The processes of most tests are forked with all modules there (tests/plugins/forks.py), so a
circle of imports that only one order survives would not show in them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import peersync.cli

# Libraries first, once; then each module in a fork that has none of ours.
ALONE = """
import importlib, os, sys, traceback
import aiohttp.web, asyncpg, click, cryptography.x509, msgspec, prometheus_client, psycopg
assert "peersync" not in sys.modules
failed = []
for name in sys.argv[1:]:
    if not (child := os.fork()):
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"do not load alone: {failed}" if failed else 0)
"""


def test_what_a_command_imports_loads_alone() -> None:
    names = set()
    for file in sorted(Path(peersync.cli.__path__[0]).glob("*.py")):
        names.add(f"peersync.cli.{file.stem}")
        names |= set(re.findall(r"(?m)^ *from (peersync\.[\w.]+) import", file.read_text()))
    assert {"peersync.cli.main", "peersync.agent.node", "peersync.transport.local"} <= names
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *sorted(names)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
