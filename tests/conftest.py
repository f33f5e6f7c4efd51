"""What every test has: the plugins, one subject each."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # nothing is timed: other tests run, too
settings.load_profile("any machine")

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
