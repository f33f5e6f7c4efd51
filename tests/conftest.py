"""What every test has: the plugins, one subject each."""

from __future__ import annotations

pytest_plugins = [
    "pytester",
    "tests.plugins.skips",
    "tests.plugins.forks",
    "tests.plugins.leaks",
    "tests.plugins.blocking",
    "tests.plugins.clusters",
    "tests.plugins.corpus",
    "tests.plugins.nodes",
]
