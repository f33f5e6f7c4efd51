-- Capture: what statements change, as triggers see it.
--
-- One generated function a table, peersync.capture_<oid>, called by statement triggers with
-- transition tables (x: new rows, y: old ones) and, for tables that inherit or are inherited
-- from, by row triggers. What is logged is the CURRENT row of each key that a statement
-- touched: a row trigger of the application may have changed the row again, its statement was
-- logged first, and the transition table still has the older row. Old and new keys are both
-- looked up, so a changed key needs no trigger of its own. (A row trigger WHEN the key differs
-- would depend on the key's columns: ALTER TABLE ... TYPE and DROP COLUMN would be refused.)
-- Where a table has no trigger or cascade that could do so, the transition table's row is the
-- current one: it is logged without a look-up, which would also leave predicate locks behind and
-- make SERIALIZABLE transactions fail that touch different rows. A trigger of another table or a
-- function called by the statement may still change the row, but not without logging that first.
-- So once such a table has logged a row, the setting peersync.logged holds the time of the
-- client's statement, until the transaction (or its savepoint) ends; what fires later in the same
-- statement sees it and looks its rows up.
--
-- A user's statement must never fail because of us, also when somebody has just altered the
-- table. So each generated function begins with a guard: `table_stamp('<oid>', ...)` is labelled
-- IMMUTABLE although it reads the catalog. It is folded into a constant when the expression is
-- planned, and an oid constant makes the plan depend on that relation: after any ALTER the
-- expression is planned, and the function evaluated, again. Where the stamp is not the one that
-- the function was made for, its statement is built anew from the catalog as it is now.

-- Tells a sleeping agent that there is something to publish. A transaction with a NOTIFY can't
-- be prepared, and a full queue would fail the user's commit: then the agent finds out itself.
CREATE OR REPLACE FUNCTION peersync.wake()
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('max_prepared_transactions') = '0' AND pg_notification_queue_usage() < 0.5 THEN
        NOTIFY peersync;
    END IF;
END $$;

-- For a function that is out of date: the settings that the relation needs now, in this
-- transaction. Gives what they were, for peersync.put_settings.
CREATE OR REPLACE FUNCTION peersync.put_settings(settings jsonb)
RETURNS jsonb LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(s.key, s.was), '{}')
      FROM (SELECT e.key, current_setting(e.key) AS was, e.value FROM jsonb_each_text(settings) AS e
            OFFSET 0) AS s
     CROSS JOIN LATERAL (SELECT set_config(s.key, s.value, true) AS now WHERE s.was IS NOT NULL) AS n
$$;

-- Which generator made a function.
CREATE OR REPLACE FUNCTION peersync.capture_version()
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT md5(string_agg(p.prosrc, '' ORDER BY p.proname)) FROM pg_proc AS p
     WHERE p.pronamespace = 'peersync'::regnamespace
       AND p.proname IN ('capture_source', 'capture_choice', 'capture_statement', 'plain_rows_sql',
                         'began_sql', 'image_sql', 'image_fits_sql', 'key_sql', 'key_field', 'quick_stamp')
$$;

-- What is written at the head of a generated function; another one means: make it again.
CREATE OR REPLACE FUNCTION peersync.capture_marker(
    version text, stamp bigint, quick text, tbl integer, keep_old boolean)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT format('%s %s %s %s %s', version, stamp, quick, tbl, keep_old) $$;

-- CREATE FUNCTION for the capture of one relation.
CREATE OR REPLACE FUNCTION peersync.capture_source(relation oid, tbl integer, keep_old boolean)
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    facts  jsonb := peersync.capture_facts(relation);
    root   bigint := facts ->> 'root';
    stamp  bigint := peersync.facts_stamp(facts, relation);
    quick  text := peersync.quick_stamp(relation, root::oid);
    source text := CASE facts ->> 'mode' WHEN 'row' THEN 'row' ELSE 'x' END;
    body   text;
BEGIN
    body := format($body$
/* peersync %1$s */
DECLARE
    before pg_catalog.jsonb;
    logged pg_catalog.text;
BEGIN
    /* in a restored database, a trigger may call what was made for another table since */
    IF TG_RELID = '%2$s'::pg_catalog.oid
       AND peersync.table_stamp('%2$s'::pg_catalog.oid, '%3$s'::pg_catalog.oid, %13$L,
                                '%4$s'::pg_catalog.int8) = '%4$s'::pg_catalog.int8 THEN
        IF TG_OP = 'UPDATE' THEN
            %5$s;
        ELSIF TG_OP = 'INSERT' THEN
            %6$s;
        ELSIF TG_OP = 'DELETE' THEN
            %7$s;
        ELSE
            %8$s;
        END IF;
    ELSE
        BEGIN
            before := peersync.put_settings(peersync.output_settings(TG_RELID));
            IF TG_OP = 'TRUNCATE' THEN
                PERFORM peersync.capture_truncate(TG_RELID, %9$s, %10$L, TG_WHEN);
            ELSIF TG_LEVEL = 'STATEMENT' THEN
                EXECUTE peersync.capture_anew(TG_RELID, %9$s, %10$L, TG_OP, 'x');
            ELSIF TG_OP = 'INSERT' THEN
                EXECUTE peersync.capture_anew(TG_RELID, %9$s, %10$L, TG_OP, 'text')
                  USING NULL::pg_catalog.text, pg_catalog.textin(pg_catalog.record_out(NEW));
            ELSIF TG_OP = 'UPDATE' THEN
                EXECUTE peersync.capture_anew(TG_RELID, %9$s, %10$L, TG_OP, 'text')
                  USING pg_catalog.textin(pg_catalog.record_out(OLD)),
                        pg_catalog.textin(pg_catalog.record_out(NEW));
            ELSE
                EXECUTE peersync.capture_anew(TG_RELID, %9$s, %10$L, TG_OP, 'text')
                  USING pg_catalog.textin(pg_catalog.record_out(OLD)), NULL::pg_catalog.text;
            END IF;
            PERFORM peersync.put_settings(before);
        EXCEPTION WHEN OTHERS THEN  /* the user's statement goes on: "read the table again" */
            RAISE LOG 'peersync: capture of %%: %%', TG_RELID::pg_catalog.regclass, SQLERRM;
            INSERT INTO peersync.change (tbl, shape, op)
            VALUES (%9$s, peersync.table_shape(TG_RELID), 'X');
        END;
        logged := pg_catalog.set_config('peersync.logged', %14$s, true);
    END IF;
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(%11$s, %12$s) THEN
        PERFORM peersync.wake();
    END IF;
    RETURN NULL;
END $body$,
        peersync.capture_marker(peersync.capture_version(), stamp, quick, tbl, keep_old), relation, root, stamp,
        peersync.capture_choice(facts, tbl, keep_old, 'UPDATE', source),
        peersync.capture_choice(facts, tbl, keep_old, 'INSERT', source),
        peersync.capture_choice(facts, tbl, keep_old, 'DELETE', source),
        CASE WHEN facts -> 'triggers' @> '34' OR (facts ->> 'mode' = 'statement'
                  AND NOT facts -> 'triggers' @> '32')
             THEN format('PERFORM peersync.capture_truncate(TG_RELID, %s, %L, TG_WHEN)', tbl, keep_old)
             ELSE format('INSERT INTO peersync.change (tbl, shape, op) VALUES (%s, %L::pg_catalog.int8, ''T'')',
                         tbl, peersync.facts_shape(facts)) END,
        tbl, keep_old, x'70737963'::int, hashtext('awake'), quick, peersync.began_sql());
    RETURN format(
        'CREATE OR REPLACE FUNCTION peersync.capture_%s() RETURNS trigger LANGUAGE plpgsql '
        'SECURITY DEFINER SET search_path = pg_catalog, pg_temp %s AS %L', relation,
        (SELECT string_agg(format('SET %s = %L', e.key, e.value), ' ')
           FROM jsonb_each_text(facts -> 'settings') AS e), body);
END $$;

-- TRUNCATE of a relation as it is now. Of a partition alone, its rows are logged as deleted, while
-- they are still there; the root's own trigger runs first and says when the whole is meant. So are
-- those of a table without key, always: rows of another server that this TRUNCATE has not seen
-- stay, and without keys nobody could tell later which ones they are.
CREATE OR REPLACE FUNCTION peersync.capture_truncate(
    relation oid, tbl integer, keep_old boolean, "when" text)
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    facts   jsonb := peersync.capture_facts(relation);
    root    text := format(',%s,', facts ->> 'root');
    whole   text := coalesce(current_setting('peersync.truncated', true), '');
    is_root boolean := relation = (facts ->> 'root')::bigint::oid;
    rowwise boolean := facts -> 'key' = '[]' AND (facts ->> 'current')::boolean;
    -- the table may have got or lost its key since its triggers were made: one of them has to log
    paired  boolean := (SELECT count(*) > 1 FROM pg_trigger AS g
                         WHERE g.tgrelid = relation AND g.tgname IN ('peersync_t', 'peersync_b'));
BEGIN
    IF rowwise AND "when" = 'BEFORE' THEN
        IF NOT (facts ->> 'partitioned')::boolean OR (facts ->> 'leaf')::boolean THEN
            PERFORM peersync.capture_gone(relation, tbl, keep_old);
        END IF;
    ELSIF rowwise AND paired THEN
        RETURN;
    ELSIF is_root AND "when" = 'BEFORE' AND paired THEN
        PERFORM set_config('peersync.truncated', whole || root, true);
    ELSIF is_root THEN
        PERFORM set_config('peersync.truncated', replace(whole, root, ''), true);
        INSERT INTO peersync.change (tbl, shape, op)
        VALUES (coalesce((SELECT s.tbl FROM peersync.synced_table AS s
                           WHERE s.schema_name = facts ->> 'schema'
                             AND s.table_name = facts ->> 'table'), capture_truncate.tbl),
                peersync.register_shape(facts), 'T');
    ELSIF "when" = 'BEFORE' AND (facts ->> 'leaf')::boolean AND strpos(whole, root) = 0 THEN
        PERFORM peersync.capture_gone(relation, tbl, keep_old);
    END IF;
END $$;

-- Logs the rows of a relation as deleted. A TRUNCATE does not fail because one can't be read.
CREATE OR REPLACE FUNCTION peersync.capture_gone(relation oid, tbl integer, keep_old boolean)
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE peersync.capture_anew(relation, tbl, keep_old, 'GONE', 'x');
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'peersync: capture of %: %', relation::regclass, SQLERRM;
    INSERT INTO peersync.change (tbl, shape, op)
    VALUES (capture_gone.tbl, peersync.table_shape(relation), 'X');
END $$;

-- Makes or renews the capture of a relation. `log_rows`: here is where its rows are from, so those
-- of a relation that was never captured are logged as inserted. Whether it was is looked at under
-- a lock, now: somebody else may have captured it since the caller looked. Triggers that are as
-- they should be are not touched, and then no lock is taken. Gives the number of rows logged.
-- For a transaction that is READ COMMITTED: the rows are read after the triggers were made.
CREATE OR REPLACE FUNCTION peersync.capture_install(
    relation oid, tbl integer, keep_old boolean, log_rows boolean)
RETURNS bigint LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    facts   jsonb := peersync.capture_facts(relation);
    call    text := format('peersync.capture_%s()', relation);
    wanted  integer;
    name    text;
    logged  bigint := 0;
    is_new  boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(x'70737963'::int, hashtext('capture'));
    is_new := log_rows AND to_regprocedure(call) IS NULL AND NOT EXISTS (
        SELECT FROM peersync.synced_table AS s
         WHERE s.tbl = capture_install.tbl AND s.relation = (facts ->> 'root')::bigint::oid
           AND (s.state <> 'captured' OR capture_install.relation = s.relation));
    PERFORM peersync.register_shape(facts);
    -- DROP TRIGGER is for the owner of the table; a trigger that goes with its function is not
    FOR name IN SELECT DISTINCT g.tgfoid::regprocedure::text FROM pg_trigger AS g
                  JOIN pg_proc AS p ON p.oid = g.tgfoid
                 WHERE g.tgrelid = relation AND NOT g.tgisinternal
                   AND p.pronamespace = 'peersync'::regnamespace
                   AND NOT facts -> 'triggers' @> to_jsonb(g.tgtype) LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', name);
    END LOOP;
    EXECUTE peersync.capture_source(relation, tbl, keep_old);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', call);
    FOR wanted IN SELECT jsonb_array_elements_text(facts -> 'triggers')::integer LOOP
        name := CASE wanted & ~1 WHEN 4 THEN 'peersync_i' WHEN 8 THEN 'peersync_d'
                                 WHEN 16 THEN 'peersync_u' WHEN 32 THEN 'peersync_t'
                                 ELSE 'peersync_b' END;
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_trigger AS g WHERE g.tgrelid = relation AND g.tgname = name
               AND g.tgtype = wanted AND g.tgfoid = to_regprocedure(call)::oid);
        EXECUTE format('CREATE OR REPLACE TRIGGER %I %s ON %s %s FOR EACH %s EXECUTE FUNCTION %s', name,
            CASE wanted & ~1 WHEN 4 THEN 'AFTER INSERT' WHEN 8 THEN 'AFTER DELETE'
                             WHEN 16 THEN 'AFTER UPDATE' WHEN 32 THEN 'AFTER TRUNCATE'
                             ELSE 'BEFORE TRUNCATE' END,
            facts ->> 'own',
            CASE wanted WHEN 4 THEN 'REFERENCING NEW TABLE AS x' WHEN 8 THEN 'REFERENCING OLD TABLE AS y'
                        WHEN 16 THEN 'REFERENCING OLD TABLE AS y NEW TABLE AS x' ELSE '' END,
            CASE wanted & 1 WHEN 1 THEN 'ROW' ELSE 'STATEMENT' END, call);
    END LOOP;
    IF is_new AND (SELECT relkind FROM pg_class WHERE oid = relation) = 'r' THEN
        EXECUTE peersync.capture_statement(facts, tbl, keep_old, 'EXISTING', 'x');
        GET DIAGNOSTICS logged = ROW_COUNT;
        IF logged > 0 AND NOT pg_try_advisory_xact_lock_shared(x'70737963'::int, hashtext('awake')) THEN
            PERFORM peersync.wake();
        END IF;
    END IF;
    RETURN logged;
END $$;

-- For the event trigger: DDL wakes the agent, which then looks at the tables. It never fails.
CREATE OR REPLACE FUNCTION peersync.ddl_noticed()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(x'70737963'::int, hashtext('awake')) THEN
        PERFORM peersync.wake();
    END IF;
EXCEPTION WHEN OTHERS THEN
    NULL;
END $$;
