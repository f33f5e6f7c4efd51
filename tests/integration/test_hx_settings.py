from __future__ import annotations
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
import asyncpg, pytest
from tests.integration.apply_rig import Node, drain, make_group
from tests.plugins.clusters import MakeDatabase

SQL = """CREATE TYPE public.mood AS ENUM ('sad', 'happy'); CREATE DOMAIN public.dd AS numeric;
CREATE TYPE public.comp AS (a timestamptz, b float8, c text);
CREATE TABLE public.s (id int PRIMARY KEY, t text, m public.mood, d public.dd, c public.comp, rc regclass, iv interval[], ts tstzrange, mm tstzmultirange, f float4[], b bytea, mo money, "Ümläut %s ""q"" $$ " text)"""


@pytest.mark.parametrize("setting", [
    "quote_all_identifiers = on", "standard_conforming_strings = off", "array_nulls = off",
    "transform_null_equals = on", "xmloption = document", "row_security = off", "DateStyle = 'SQL, DMY'",
    "bytea_output = escape", "extra_float_digits = -15", "IntervalStyle = sql_standard", "TimeZone = 'Asia/Kolkata'",
    "plpgsql.extra_errors = 'all'", "plpgsql.variable_conflict = use_column", "search_path = ''", "lc_monetary = 'C'",
    "default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on", "debug_parallel_query = on",
    "plan_cache_mode = force_generic_plan", "synchronous_commit = off", "default_transaction_isolation = 'repeatable read'",
    "check_function_bodies = off", "escape_string_warning = off", "backslash_quote = on", "lo_compat_privileges = on",
    "enable_seqscan = off", "recursive_worktable_factor = 1",
])
async def test_setting(make_database: MakeDatabase, setting: str) -> None:
    async with AsyncExitStack() as stack:
        a, b = await make_group(stack, make_database(18), make_database(18), sql=SQL)
        app = await asyncpg.connect(a.test.url(), statement_cache_size=0)
        await app.execute(f"SET {setting}")
        for n in range(7):
            await app.execute(f"""INSERT INTO public.s VALUES ({n}, 'a''b' || chr(92) || 'n', 'sad', 1.50, ROW('2020-01-02 03:04:05+00', 1.1, 'x y')::public.comp,
              'public.s', ARRAY['1 day 02:03'::interval, NULL], '[2020-01-01 00:00+00,2020-02-01 00:00+00)',
              '{{[2020-01-01 00:00+00,2020-02-01 00:00+00)}}', '{{1.1,NULL,3.3333333}}', decode('00ff41','hex'), 12.34::numeric::money, 'odd')""")
        await app.execute("UPDATE public.s SET t = t || 'u', c = ROW('2021-01-02 03:04:05+00', 0.1::float8 + 0.2::float8, NULL)::public.comp WHERE id = 1")
        await app.execute("DELETE FROM public.s WHERE id = 2")
        await app.close()
        await drain(a, b)
        q = "SELECT md5(string_agg(x::text, '|' ORDER BY id)) FROM public.s x"
        parked = await b.rows("SELECT parked FROM peersync.synced_table WHERE parked IS NOT NULL")
        left = await b.rows("SELECT op::text, key, reason FROM peersync.quarantine")
        print(setting, parked, left[:2])
        assert not parked and not left
        assert await a.rows(q) == await b.rows(q)
