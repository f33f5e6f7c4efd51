"""Row security that hides rows from peersync's role: changes wait, and do not pass for applied."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.integration.apply_rig import drain, make_group
from tests.plugins.clusters import MakeDatabase

OWNER = "rls_owner"
ROWS = "SELECT t::text FROM public.t ORDER BY 1"


@pytest.mark.parametrize("major", [15, 18])
async def test_a_delete_of_a_row_that_is_hidden_here_waits_until_the_role_may_see_it(
    make_database: MakeDatabase, major: int
) -> None:
    sql = "CREATE TABLE public.t (id int PRIMARY KEY, tenant text)"
    async with AsyncExitStack() as stack:
        one, other = make_database(major), make_database(major, nth=1, owner=OWNER)
        a, b = await make_group(stack, one, other, sql=sql)
        await a.execute("INSERT INTO t VALUES (1, 'x'), (2, 'x')")
        await drain(a, b)
        await b.execute(
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            "CREATE POLICY p ON t USING (tenant = current_setting('app.tenant', true))"
        )
        await a.execute("DELETE FROM t WHERE id = 1")
        await drain(a, b)
        ((reason,),) = await b.rows("SELECT parked FROM peersync.synced_table")
        assert 'row-level security policy for table "t"' in reason
        assert "peersync grants --mode periodic --missing" in reason
        await b.execute("ALTER TABLE t NO FORCE ROW LEVEL SECURITY")
        (resumed,) = await b.applier.resume_parked()
        assert (resumed.changes, resumed.quarantined) == (1, 0)
        assert await b.rows(ROWS) == await a.rows(ROWS) == [("(2,x)",)]
