"""Names that go from the command line to the agent: the user, and the paths of jobs."""

from __future__ import annotations

import getpass
import os
from urllib.parse import quote

from peersync.core.errors import BadRequest


def user_name() -> str:
    """Who types; a container's user may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def job_path(job: str, deed: str = "") -> str:
    """The route of a job, whose id may be shortened. BadRequest for no id at all."""
    if not job.strip():
        raise BadRequest("which job? Its id is empty", hint="See: peersync jobs list")
    path = f"/api/admin/jobs/{quote(job, safe='')}"
    return f"{path}/{deed}" if deed else path
