"""Whether a directory can be used, said before anything depends on it.

Owns the trial and its words. The trial makes a directory of its own where the wanted one is,
or would be, and removes it again: modes alone say too little about a read-only disk, a quota
or /proc. It changes nothing else, and it does not make the wanted directory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from peersync.core.errors import ConfigError


def trouble_with(directory: Path) -> str | None:
    """Why nothing could be written into `directory` (an absolute path), or None. Blocks."""
    try:
        place = _nearest(directory)
        if not place.is_dir():
            what = "it" if place == directory else str(place)
            return f"{what} is a file, not a directory"
        with tempfile.TemporaryDirectory(dir=place, prefix=".peersync-trial-"):
            return None
    except OSError as error:
        return reason(error)


def expand(text: str) -> Path:
    """A path with its ~; ConfigError where no home directory is known."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"the home directory of {text.partition('/')[0]} is not known",
            hint="set HOME, or name the file: --config FILE",
        ) from error


def reason(error: OSError) -> str:
    """The system's own words, without number and path."""
    return error.strerror or str(error)


def _nearest(path: Path) -> Path:
    """The path itself, or the first of its parents that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
