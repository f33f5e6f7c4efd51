"""What verifications may take, and what is done for them beforehand: `[verify]`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from peersync.config.table import Table


class Verify(Table, frozen=True):
    """How tables are read; and digests of verified ones, kept up to date so that they need not be.

    processes: of this server that read one table at the same time for one verification.
    continuous_budget: percent of one connection's time; 0: nothing is kept. scrub_days: after so
    many a block is read again, whatever the log says.
    """

    processes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    continuous_budget: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    scrub_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 30.0
