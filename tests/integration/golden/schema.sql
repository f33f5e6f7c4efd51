CREATE SCHEMA peersync;

CREATE FUNCTION peersync.announce(kind "char", info jsonb, OUT "position" bigint, OUT hlc bigint) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    ours    peersync.replica%ROWTYPE;
    vector  jsonb;
BEGIN
    PERFORM peersync.publish();
    SELECT * INTO ours FROM peersync.replica WHERE state = 'active' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    vector := peersync.vector_without(ours.origin);
    announce."position" := ours.position + 1;
    announce.hlc := greatest(ours.hlc + 1, peersync.micros(clock_timestamp()));
    INSERT INTO peersync.transaction (origin, position, hlc, kind, seen, info)
    VALUES (ours.origin, announce."position", announce.hlc, announce.kind, vector, announce.info);
    UPDATE peersync.replica SET position = announce."position", hlc = announce.hlc;
    UPDATE peersync.member
       SET applied = announce."position", applied_hlc = announce.hlc, seen = vector
     WHERE origin = ours.origin;
END $$;

CREATE FUNCTION peersync.began_sql() RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT 'pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.statement_timestamp()), ''hex'')' $$;

CREATE FUNCTION peersync.capture_anew(relation oid, tbl integer, keep_old boolean, op text, source text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    facts jsonb := peersync.capture_facts(relation);
    known integer;
BEGIN
    PERFORM peersync.register_shape(facts);
    SELECT s.tbl INTO known FROM peersync.synced_table AS s
     WHERE s.schema_name = facts ->> 'schema' AND s.table_name = facts ->> 'table';
    RETURN peersync.capture_statement(facts || '{"direct": []}', coalesce(known, capture_anew.tbl),
                                      keep_old, op, source);
END $$;

CREATE FUNCTION peersync.capture_choice(facts jsonb, tbl integer, keep_old boolean, op text, source text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    plain  text := peersync.capture_statement(facts, tbl, keep_old, op, source);
    looked text := peersync.capture_statement(facts || '{"direct": []}', tbl, keep_old, op, source);
BEGIN
    IF facts -> 'direct' = '[]' OR facts -> 'key' = '[]' OR NOT (facts ->> 'current')::boolean THEN
        RETURN plain;
    END IF;
    IF plain <> looked THEN
        IF op = 'UPDATE' AND source = 'x' THEN
            plain := format('%s; IF NOT FOUND THEN PERFORM FROM x LIMIT 1; '
                            'IF FOUND THEN %s; END IF; END IF',
                            peersync.capture_statement(facts, tbl, keep_old, 'SAME', source), plain);
        END IF;
        plain := format('IF pg_catalog.current_setting(''peersync.logged'', true) = %s THEN %s; '
                        'ELSE %s; END IF', peersync.began_sql(), looked, plain);
    END IF;
    RETURN plain || format('; IF FOUND THEN logged := '
        'pg_catalog.set_config(''peersync.logged'', %s, true); END IF', peersync.began_sql());
END $$;

CREATE FUNCTION peersync.capture_facts(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $$
SELECT jsonb_build_object(
    'own', format('%I.%I', cn.nspname, c.relname), 'root', r.oid::bigint,
    'schema', n.nspname, 'table', r.relname, 'partitioned', r.relkind = 'p',
    'leaf', c.relispartition AND c.relkind = 'r',
    'mode', CASE WHEN tree.row_mode THEN 'row' ELSE 'statement' END,
    'current', has_table_privilege(r.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
               AND NOT row_security_active(r.oid),
    'settings', peersync.output_settings(r.oid),
    'columns', coalesce(cols.list, '[]'), 'key', coalesce(keys.list, '[]'),
    'bad_key', keys.bad, 'direct', coalesce(plain.ops, '[]'),
    'triggers', CASE WHEN tree.row_mode AND keys.list IS NULL THEN '[5, 9, 17, 34]'
                     WHEN tree.row_mode THEN '[5, 9, 17, 32]'
                     WHEN r.relkind <> 'p' AND keys.list IS NULL THEN '[4, 8, 16, 34]'
                     WHEN r.relkind <> 'p' THEN '[4, 8, 16, 32]'
                     WHEN c.oid = r.oid THEN '[4, 8, 16, 32, 34]'
                     WHEN c.relkind = 'p' THEN '[4, 8, 16]'
                     ELSE '[4, 8, 16, 34]' END::jsonb)
  FROM pg_class AS c
  JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
  JOIN pg_class AS r ON r.oid = coalesce(pg_partition_root(c.oid::regclass)::oid, c.oid)
  JOIN pg_namespace AS n ON n.oid = r.relnamespace
 CROSS JOIN LATERAL (
    SELECT r.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS i
                                        WHERE r.oid IN (i.inhparent, i.inhrelid)) AS row_mode) AS tree
 CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(
               a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> 'v',
               CASE WHEN b.typlen <> -1
                         OR b.oid IN ('numeric'::regtype, 'inet'::regtype, 'cidr'::regtype,
                                      'bit'::regtype, 'interval'::regtype)
                         OR b.oid IN ('bpchar'::regtype, 'varchar'::regtype)
                            AND a.atttypmod BETWEEN 0 AND 100000 THEN NULL
                    WHEN b.oid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype,
                                   'bytea'::regtype) THEN 'text'
                    ELSE 'any' END) ORDER BY a.attnum) AS list
      FROM pg_attribute AS a
      JOIN pg_type AS t ON t.oid = a.atttypid
      JOIN pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN (
               WITH RECURSIVE base AS (
                   SELECT t.oid, t.typtype, t.typbasetype
                   UNION ALL
                   SELECT u.oid, u.typtype, u.typbasetype FROM base
                     JOIN pg_type AS u ON u.oid = base.typbasetype WHERE base.typtype = 'd')
               SELECT base.oid FROM base WHERE base.typtype <> 'd') ELSE t.oid END
     WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped) AS cols
  LEFT JOIN LATERAL (
    SELECT jsonb_agg(o.op) AS ops
      FROM (VALUES ('INSERT', NULL), ('UPDATE', 'u'), ('DELETE', 'd')) AS o (op, action)
     WHERE NOT tree.row_mode AND r.relkind = 'r' AND NOT r.relhasrules
       AND NOT EXISTS (SELECT FROM pg_trigger AS g
                         JOIN pg_proc AS p ON p.oid = g.tgfoid
                        WHERE g.tgrelid = r.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
                          AND p.pronamespace <> 'peersync'::regnamespace)
       AND NOT EXISTS (SELECT FROM pg_constraint AS f
                        WHERE f.contype = 'f' AND f.confrelid = r.oid
                          AND CASE o.action WHEN 'u' THEN f.confupdtype
                                            WHEN 'd' THEN f.confdeltype END NOT IN ('a', 'r'))
       -- two rows may have one key until it is checked: what leaves it is not all that was there
       AND NOT EXISTS (SELECT FROM pg_index AS di
                        WHERE di.indrelid = r.oid AND di.indisprimary AND NOT di.indimmediate)
       -- a cascade is part of the same statement: one transition table has both moves of a key
       AND NOT (o.op = 'UPDATE' AND EXISTS (
             SELECT FROM pg_constraint AS f
               JOIN pg_index AS fi ON fi.indrelid = r.oid AND fi.indisunique
                                  AND fi.indkey::int2[] && f.conkey
              WHERE f.contype = 'f' AND f.conrelid = r.oid
                AND (f.confupdtype NOT IN ('a', 'r') OR f.confdeltype IN ('n', 'd'))))
       ) AS plain ON true
  LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(a.attname, format('OPERATOR(%I.%s)', opn.nspname, op.oprname),
                                       form.name) ORDER BY k.n) AS list,
           min(a.attname) FILTER (WHERE form.name IS NULL) AS bad
      FROM (SELECT i.* FROM pg_index AS i
              JOIN pg_class AS ic ON ic.oid = i.indexrelid
              JOIN pg_am AS am ON am.oid = ic.relam AND am.amname = 'btree'
             WHERE i.indrelid = r.oid AND i.indisunique AND i.indisvalid
               AND i.indpred IS NULL AND i.indexprs IS NULL
               AND (i.indisprimary OR i.indimmediate AND NOT EXISTS (
                     SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u (attnum, n)
                       JOIN pg_attribute AS na ON na.attrelid = r.oid AND na.attnum = u.attnum
                      WHERE u.n <= i.indnkeyatts AND NOT na.attnotnull))
             ORDER BY EXISTS (
                     SELECT FROM unnest(i.indclass::oid[], i.indcollation::oid[])
                                 WITH ORDINALITY AS u (opclass, coll, n)
                       JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS w (attnum, n) USING (n)
                       JOIN pg_attribute AS ka ON ka.attrelid = r.oid AND ka.attnum = w.attnum
                      WHERE n <= i.indnkeyatts
                        AND peersync.key_form(u.opclass, ka.atttypid, u.coll, ka.attcollation) IS NULL),
                   i.indisprimary DESC, i.indnkeyatts, ARRAY(  -- not the index's name: nodes differ in it
                     SELECT ka.attname::text COLLATE "C" FROM unnest(i.indkey::int2[])
                              WITH ORDINALITY AS w (attnum, n)
                       JOIN pg_attribute AS ka ON ka.attrelid = r.oid AND ka.attnum = w.attnum
                      WHERE n <= i.indnkeyatts ORDER BY n), ic.relname LIMIT 1) AS i
     CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
                        WITH ORDINALITY AS k (attnum, opclass, coll, n)
      JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = k.attnum
     CROSS JOIN LATERAL (SELECT peersync.key_form(k.opclass, a.atttypid, k.coll, a.attcollation) AS name) AS form
      JOIN pg_opclass AS oc ON oc.oid = k.opclass
      JOIN pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
      JOIN pg_operator AS op ON op.oid = ao.amopopr
      JOIN pg_namespace AS opn ON opn.oid = op.oprnamespace
     WHERE k.n <= i.indnkeyatts) AS keys ON true
 WHERE c.oid = relation
$$;

CREATE FUNCTION peersync.capture_gone(relation oid, tbl integer, keep_old boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE peersync.capture_anew(relation, tbl, keep_old, 'GONE', 'x');
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'peersync: capture of %: %', relation::regclass, SQLERRM;
    INSERT INTO peersync.change (tbl, shape, op)
    VALUES (capture_gone.tbl, peersync.table_shape(relation), 'X');
END $$;

CREATE FUNCTION peersync.capture_install(relation oid, tbl integer, keep_old boolean, log_rows boolean) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

CREATE FUNCTION peersync.capture_marker(version text, stamp bigint, quick text, tbl integer, keep_old boolean) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT format('%s %s %s %s %s', version, stamp, quick, tbl, keep_old) $$;

CREATE FUNCTION peersync.capture_source(relation oid, tbl integer, keep_old boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
END $_$;

CREATE FUNCTION peersync.capture_statement(facts jsonb, tbl integer, keep_old boolean, op text, source text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    shape  text := quote_literal(peersync.facts_shape(facts)) || '::pg_catalog.int8';
    root   text := format('%I.%I', facts ->> 'schema', facts ->> 'table');
    scan   text := CASE WHEN (facts ->> 'partitioned')::boolean THEN root ELSE 'ONLY ' || root END;
    y      text := CASE source WHEN 'row' THEN 'OLD' ELSE 'y' END;
    x      text := CASE source WHEN 'row' THEN 'NEW' ELSE 'x' END;
    olds   text := CASE source WHEN 'x' THEN 'y' WHEN 'row' THEN '(SELECT OLD.*) AS y'
                       ELSE format('(SELECT ($1::%s).*) AS y', facts ->> 'own') END;
    news   text := CASE source WHEN 'x' THEN 'x' WHEN 'row' THEN '(SELECT NEW.*) AS x'
                       ELSE format('(SELECT ($2::%s).*) AS x', facts ->> 'own') END;
    into_  text := 'INSERT INTO peersync.change (tbl, shape, op, key, image, old) ';
    key_of text;   -- of alias %1$s: its key columns as k1, ...
    ks     text;   -- k1, k2, ...
    found_ text;   -- t is the row of k
    looked text;
    kept   text;
BEGIN
    IF op IN ('EXISTING', 'GONE') THEN
        olds := 'ONLY ' || (facts ->> 'own') || ' AS y';
        news := 'ONLY ' || (facts ->> 'own') || ' AS x';
        x := 'x'; y := 'y';
    ELSIF source = 'row' THEN  -- fields of records, not columns of a table
        olds := '(SELECT 1) AS y_'; news := '(SELECT 1) AS x_';
    END IF;
    SELECT string_agg(format('%%1$s.%I AS k%s', replace(k ->> 0, '%', '%%'), n), ', ' ORDER BY n),
           string_agg(format('k%s', n), ', ' ORDER BY n),
           string_agg(format('t.%I %s k.k%s', k ->> 0, k ->> 1, n), ' AND ' ORDER BY n)
      INTO key_of, ks, found_
      FROM jsonb_array_elements(facts -> 'key') WITH ORDINALITY AS u (k, n);

    IF key_of IS NULL OR NOT (facts ->> 'current')::boolean OR op IN ('EXISTING', 'GONE', 'SAME')
       OR facts -> 'direct' @> to_jsonb(op) AND NOT (op = 'UPDATE' AND keep_old) THEN
        RETURN into_ || peersync.plain_rows_sql(facts, tbl, keep_old, op, shape, olds, news, y, x);
    END IF;

    -- the keys that the statement touched
    IF op = 'INSERT' OR op = 'DELETE' THEN
        looked := format('SELECT %s, %s AS key, %s AS old FROM %s',
            format(key_of, CASE op WHEN 'INSERT' THEN x ELSE y END),
            peersync.key_sql(facts, CASE op WHEN 'INSERT' THEN x ELSE y END),
            CASE WHEN keep_old AND op = 'DELETE' THEN peersync.image_sql(facts, y, false)
                 ELSE 'NULL::pg_catalog.text' END,
            CASE op WHEN 'INSERT' THEN news ELSE olds END);
    ELSIF keep_old THEN
        looked := format('SELECT DISTINCT ON (u.key) u.* FROM ('
            'SELECT %1$s, %2$s AS key, NULL::pg_catalog.text AS old FROM %3$s UNION ALL '
            'SELECT %4$s, %5$s, %6$s FROM %7$s) AS u ORDER BY u.key, u.old',  -- nulls are last
            format(key_of, x), peersync.key_sql(facts, x), news,
            format(key_of, y), peersync.key_sql(facts, y), peersync.image_sql(facts, y, false), olds);
    ELSE
        looked := format(
            'SELECT %1$s, %2$s AS key, NULL::pg_catalog.text AS old FROM ('
            'SELECT %3$s FROM %4$s UNION SELECT %5$s FROM %6$s) AS u', ks,
            peersync.key_sql(facts, NULL), format(key_of, x), news, format(key_of, y), olds);
    END IF;
    -- A child was added since: what is not in the table itself may be a row of the child.
    kept := CASE WHEN facts ->> 'mode' = 'row' AND source = 'x' THEN format(
        ' WHERE c.here OR NOT EXISTS (SELECT FROM %s AS t WHERE %s)', root, found_) ELSE '' END;
    -- LATERAL with LIMIT: looked up row by row through the key's index, whatever number of rows
    -- the plan was first made for; a cached hash join would read the whole table for one row.
    RETURN into_ || format(
        'SELECT %s, %s, CASE WHEN c.here IS NULL THEN ''D'' WHEN c.image IS NULL THEN ''X'' ELSE %L END'
        '::pg_catalog."char", k.key, c.image, k.old FROM (%s) AS k LEFT JOIN LATERAL ('
        'SELECT true AS here, %s AS image FROM %s AS t WHERE %s LIMIT 1) AS c ON true%s',
        tbl, shape, CASE op WHEN 'INSERT' THEN 'I' ELSE 'U' END, looked,
        peersync.image_sql(facts, 't', true), scan, found_, kept);
END $_$;

CREATE FUNCTION peersync.capture_truncate(relation oid, tbl integer, keep_old boolean, "when" text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

CREATE FUNCTION peersync.capture_version() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT md5(string_agg(p.prosrc, '' ORDER BY p.proname)) FROM pg_proc AS p
     WHERE p.pronamespace = 'peersync'::regnamespace
       AND p.proname IN ('capture_source', 'capture_choice', 'capture_statement', 'plain_rows_sql',
                         'began_sql', 'image_sql', 'image_fits_sql', 'key_sql', 'key_field', 'quick_stamp')
$$;

CREATE FUNCTION peersync.ddl_noticed() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(x'70737963'::int, hashtext('awake')) THEN
        PERFORM peersync.wake();
    END IF;
EXCEPTION WHEN OTHERS THEN
    NULL;
END $$;

CREATE FUNCTION peersync.ended_between(earlier pg_snapshot, later pg_snapshot) RETURNS TABLE(low xid8, high xid8)
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN QUERY
    SELECT x, x FROM pg_snapshot_xip(earlier) AS x WHERE pg_visible_in_snapshot(x, later)
    UNION ALL
    SELECT g.first::text::xid8, g.last::text::xid8
      FROM (SELECT coalesce(lag(e.edge) OVER (ORDER BY e.edge) + 1,
                            pg_snapshot_xmax(earlier)::text::bigint) AS first, e.edge - 1 AS last
              FROM (SELECT x::text::bigint FROM pg_snapshot_xip(later) AS x
                     WHERE x >= pg_snapshot_xmax(earlier)
                    UNION ALL
                    SELECT pg_snapshot_xmax(later)::text::bigint) AS e (edge)) AS g
     WHERE g.first <= g.last;
END $$;

CREATE FUNCTION peersync.facts_shape(facts jsonb) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT peersync.shape_hash(facts ->> 'schema', facts ->> 'table',
        ARRAY(SELECT c ->> 0 FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)
               ORDER BY n),
        ARRAY(SELECT c ->> 1 FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)
               ORDER BY n),
        ARRAY(SELECT k ->> 0 FROM jsonb_array_elements(facts -> 'key') WITH ORDINALITY AS u (k, n)
               ORDER BY n))
$$;

CREATE FUNCTION peersync.facts_stamp(facts jsonb, relation oid) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $$
    SELECT ('x' || substr(md5(facts::text || coalesce(string_agg(d.name, ',' ORDER BY d.o, d.n), '')),
                          1, 16))::bit(64)::bigint
      FROM (SELECT o, n, pg_describe_object('pg_class'::regclass, o, n) AS name
              FROM (SELECT DISTINCT unnest(ARRAY[relation, (facts ->> 'root')::bigint::oid]) AS o) AS u
              JOIN pg_class AS c ON c.oid = o
             CROSS JOIN generate_series(0, c.relnatts + 1) AS n) AS d
     WHERE facts IS NOT NULL
$$;

CREATE FUNCTION peersync.image_fits_sql(facts jsonb, a text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT string_agg(format('GREATEST(%s, 0) OPERATOR(pg_catalog.<) %s', k.sizes,
                             200000000 / k.growth / k.wide), ' AND ' ORDER BY k.growth)
      FROM (SELECT g.growth, (sum(count(*)) OVER ())::integer AS wide,
                   string_agg(format('pg_catalog.%s(%s.%I)', g.measure, a, c ->> 0), ', '
                              ORDER BY n) AS sizes
              FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)
              JOIN (VALUES ('text', 2, 'octet_length'), ('any', 256, 'pg_column_size'))
                   AS g (kind, growth, measure) ON g.kind = c ->> 3
             WHERE (c ->> 2)::boolean GROUP BY g.growth, g.measure) AS k
$$;

CREATE FUNCTION peersync.image_sql(facts jsonb, a text, whole boolean) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT CASE WHEN f.fits IS NULL THEN format('pg_catalog.textin(pg_catalog.record_out(%s))', s.r)
           ELSE format('CASE WHEN %s THEN pg_catalog.textin(pg_catalog.record_out(%s))'
                       ' ELSE peersync.try_image(%s) END', f.fits, s.r, s.r) END
      FROM (SELECT CASE WHEN whole AND bool_and((c ->> 2)::boolean) THEN a || '.*'
                        ELSE 'ROW(' || string_agg(CASE WHEN (c ->> 2)::boolean
                                                       THEN format('%s.%I', a, c ->> 0)
                                                       ELSE 'NULL' END, ', ' ORDER BY n) || ')'
                        END AS r
              FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)) AS s
     CROSS JOIN (SELECT peersync.image_fits_sql(facts, a) AS fits) AS f
$$;

CREATE FUNCTION peersync.key_field(expression text, form text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT format(CASE form WHEN 'numeric' THEN 'pg_catalog.trim_scale(%s)'
                            WHEN 'float4' THEN '(%s OPERATOR(pg_catalog.+) ''0''::pg_catalog.float4)'
                            WHEN 'float8' THEN '(%s OPERATOR(pg_catalog.+) ''0''::pg_catalog.float8)'
                            WHEN 'bpchar' THEN '%s::pg_catalog.text'  -- without blanks at its end
                            WHEN 'citext' THEN 'pg_catalog.lower(%s::pg_catalog.text'
                                               ' COLLATE pg_catalog."default")'
                            ELSE '%s' END, expression)
$$;

CREATE FUNCTION peersync.key_form(opclass oid, type oid, coll oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
WITH RECURSIVE base AS (
    SELECT t.oid, t.typtype, t.typbasetype FROM pg_type AS t WHERE t.oid = type
    UNION ALL
    SELECT t.oid, t.typtype, t.typbasetype FROM base
      JOIN pg_type AS t ON t.oid = base.typbasetype WHERE base.typtype = 'd'),
field AS (  -- what the values are made of
    SELECT i.typname AS name, coalesce(g.rngsubtype, CASE WHEN b.typcategory = 'A' THEN b.typelem END,
                                       b.oid) AS part
      FROM pg_opclass AS oc JOIN pg_type AS i ON i.oid = oc.opcintype
     CROSS JOIN base JOIN pg_type AS b ON b.oid = base.oid
      LEFT JOIN pg_range AS g ON g.rngtypid = b.oid
     WHERE oc.oid = opclass AND base.typtype <> 'd')
SELECT CASE WHEN f.name = 'citext' THEN 'citext'
            WHEN NOT coalesce((SELECT l.collisdeterministic FROM pg_collation AS l WHERE l.oid = coll),
                              true) THEN NULL
            WHEN f.name IN ('numeric', 'float4', 'float8', 'bpchar') THEN f.name
            WHEN f.part IN ('interval'::regtype, 'bpchar'::regtype) THEN NULL
            WHEN f.part IN ('varchar'::regtype, 'name'::regtype, 'oidvector'::regtype)
                 OR (SELECT t.typtype = 'e' FROM pg_type AS t WHERE t.oid = f.part)
                 OR EXISTS (SELECT FROM pg_amproc AS s
                              JOIN pg_opfamily AS y ON y.oid = s.amprocfamily
                              JOIN pg_am AS m ON m.oid = y.opfmethod AND m.amname = 'btree'
                             WHERE s.amprocnum = 4 AND s.amproclefttype = f.part
                               AND s.amprocrighttype = f.part) THEN 'text' END
  FROM field AS f
$$;

CREATE FUNCTION peersync.key_form(opclass oid, type oid, coll oid, own oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
SELECT CASE WHEN own = coll OR coalesce((SELECT l.collisdeterministic FROM pg_collation AS l
                                          WHERE l.oid = own), true)
            THEN peersync.key_form(opclass, type, coll) END
$$;

CREATE FUNCTION peersync.key_sql(facts jsonb, a text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT 'ROW(' || string_agg(peersync.key_field(
               CASE WHEN a IS NULL THEN format('k%s', n) ELSE format('%s.%I', a, k ->> 0) END,
               k ->> 2), ', ' ORDER BY n) || ')::pg_catalog.text'
      FROM jsonb_array_elements(facts -> 'key') WITH ORDINALITY AS u (k, n)
$$;

CREATE FUNCTION peersync.micros(at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE
    RETURN ((EXTRACT(epoch FROM at) * (1000000)::numeric))::bigint;

CREATE FUNCTION peersync.output_settings(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
WITH RECURSIVE parts AS (
    SELECT a.atttypid AS oid FROM pg_attribute AS a
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT u.oid FROM parts
      JOIN pg_type AS t ON t.oid = parts.oid
     CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT g.rngsubtype FROM pg_range AS g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
        UNION ALL SELECT f.atttypid FROM pg_attribute AS f
                   WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0
                     AND NOT f.attisdropped) AS u (oid))
SELECT coalesce(jsonb_object_agg(s.name, s.value), '{}')
  FROM (VALUES
        ('DateStyle', 'ISO', '{date,timestamp,timestamptz}'::regtype[]),
        ('IntervalStyle', 'postgres', '{interval}'),
        ('TimeZone', 'UTC', '{timestamptz}'),
        ('bytea_output', 'hex', '{bytea}'),
        ('extra_float_digits', '1', '{float4,float8,point,line,lseg,box,path,polygon,circle}'),
        ('lc_monetary', 'C', '{money}'),
        ('quote_all_identifiers', 'off',
         '{regclass,regproc,regprocedure,regoper,regoperator,regtype,regconfig,regdictionary,'
         'regnamespace,regrole,regcollation}')) AS s (name, value, types)
 WHERE EXISTS (SELECT FROM parts WHERE parts.oid = ANY (s.types))
    OR s.name <> 'quote_all_identifiers'  -- an extension's: who knows
       AND EXISTS (SELECT FROM parts JOIN pg_type AS t ON t.oid = parts.oid
                    WHERE t.typtype = 'b' AND t.typelem = 0 AND t.oid >= 16384)
$$;

CREATE FUNCTION peersync.plain_rows_sql(facts jsonb, tbl integer, keep_old boolean, op text, shape text, olds text, news text, old_alias text, new_alias text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    keyed   boolean := jsonb_array_length(facts -> 'key') > 0;
    old_key text := coalesce(peersync.key_sql(facts, old_alias), 'NULL::pg_catalog.text');
    new_key text := coalesce(peersync.key_sql(facts, new_alias), 'NULL::pg_catalog.text');
    old_row text := peersync.image_sql(facts, old_alias, false);
    -- the fields of a partition have an order of their own
    whole   boolean := new_alias = 'x' AND NOT (facts ->> 'partitioned')::boolean;
    new_row text := peersync.image_sql(facts, new_alias, whole);
    sure    boolean := peersync.image_fits_sql(facts, new_alias) IS NULL;
    letter  text := CASE WHEN keyed AND op IN ('UPDATE', 'SAME') THEN 'U' ELSE 'I' END;
    -- what tells keys apart: their texts, or a value that is the same where it is equal
    one     text := facts #>> '{key,0,0}';
    simple  boolean := jsonb_array_length(facts -> 'key') = 1 AND (
        SELECT c ->> 1 IN ('smallint', 'integer', 'bigint', 'uuid', 'date')
          FROM jsonb_array_elements(facts -> 'columns') AS c WHERE c ->> 0 = one);
    old_id  text := CASE WHEN simple THEN format('%s.%I', old_alias, one) ELSE old_key END;
    new_id  text := CASE WHEN simple THEN format('%s.%I', new_alias, one) ELSE new_key END;
    gone    text;
    there   text;
BEGIN
    IF op = 'SAME' THEN  -- y has one row, of the same key
        news := format('%s WHERE ARRAY[%s] OPERATOR(pg_catalog.=) ARRAY(SELECT %s FROM %s LIMIT 2)',
                       news, new_id, old_id, olds);
    END IF;
    gone := format('SELECT %s, %s, %L::pg_catalog."char", %s, %s, %s FROM %s', tbl, shape, 'D', old_key,
                   CASE WHEN keyed THEN 'NULL::pg_catalog.text' ELSE old_row END,
                   CASE WHEN keyed AND keep_old THEN old_row ELSE 'NULL::pg_catalog.text' END, olds);
    there := format(CASE WHEN sure THEN
                        'SELECT %1$s, %2$s, %3$L::pg_catalog."char", %4$s, %5$s, NULL::pg_catalog.text FROM %6$s'
                    ELSE 'SELECT %1$s, %2$s, CASE WHEN r.image IS NULL THEN ''X'' ELSE %3$L END'
                         '::pg_catalog."char", r.key, r.image, NULL::pg_catalog.text'
                         ' FROM (SELECT %4$s AS key, %5$s AS image FROM %6$s OFFSET 0) AS r' END,
                    tbl, shape, letter, new_key, new_row, news);
    RETURN CASE
        WHEN op IN ('INSERT', 'EXISTING', 'SAME') THEN there
        WHEN op IN ('DELETE', 'GONE') THEN gone
        WHEN keyed AND keep_old
        THEN gone || format(' WHERE %s NOT IN (SELECT %s FROM %s)', old_key, new_key, news)
             || ' UNION ALL ' || there
        WHEN keyed THEN format(
             'SELECT %s, %s, %L::pg_catalog."char", %s, NULL::pg_catalog.text, NULL::pg_catalog.text'
             ' FROM (SELECT %s AS key FROM %s EXCEPT SELECT %s FROM %s) AS g UNION ALL %s',
             tbl, shape, 'D', CASE WHEN simple THEN 'ROW(g.key)::pg_catalog.text' ELSE 'g.key' END,
             old_id, olds, new_id, news, there)
        ELSE gone || ' UNION ALL ' || there END;
END $_$;

CREATE FUNCTION peersync.publish(OUT published integer, OUT "position" bigint, OUT hlc bigint) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    SET work_mem TO '32MB'
    AS $$
#variable_conflict use_column
DECLARE
    started   timestamptz;
    ours      peersync.replica%ROWTYPE;
    now_seen  pg_snapshot;
    lows      xid8[];
    highs     xid8[];
    vector    jsonb;
BEGIN
    publish.published := 0;
    PERFORM pg_advisory_xact_lock(x'70737963'::int, hashtext('publish'));
    SELECT * INTO ours FROM peersync.replica;
    IF NOT FOUND OR ours.state <> 'active' THEN
        RETURN;
    END IF;
    publish."position" := ours.position;
    publish.hlc := ours.hlc;

    started := clock_timestamp();
    now_seen := peersync.snapshot_without_self();
    SELECT array_agg(r.low), array_agg(r.high) INTO lows, highs
      FROM peersync.ended_between(ours.published, now_seen) AS r;
    IF NOT EXISTS (SELECT FROM unnest(lows, highs) AS r (low, high)
                     CROSS JOIN LATERAL (SELECT FROM peersync.change AS c
                                          WHERE c.xid >= r.low AND c.xid <= r.high LIMIT 1) AS c) THEN
        IF clock_timestamp() - started > interval '1 millisecond' THEN
            -- it went over what was rolled back: not again
            UPDATE peersync.replica SET published = now_seen;
        END IF;
        RETURN;
    END IF;

    SELECT * INTO ours FROM peersync.replica FOR UPDATE;
    IF NOT FOUND OR ours.state <> 'active' THEN
        RETURN;
    END IF;
    IF ours.direction = 'receive' THEN
        PERFORM peersync.withhold(lows, highs);
        UPDATE peersync.replica SET published = now_seen;
        RETURN;
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);  -- peers rely on what they are shown
    END IF;
    vector := peersync.vector_without(ours.origin);
    WITH found AS MATERIALIZED (
        SELECT c.xid, max(c.id) AS last, max(c.at) AS at, count(*) AS changes,
               sum(coalesce(octet_length(c.key), 0) + coalesce(octet_length(c.image), 0)
                   + coalesce(octet_length(c.old), 0)) AS bytes
          FROM unnest(lows, highs) AS r (low, high)
         CROSS JOIN LATERAL (SELECT * FROM peersync.change AS c
                              WHERE c.xid >= r.low AND c.xid <= r.high OFFSET 0) AS c
         GROUP BY c.xid
    ), placed AS (
        SELECT f.*, row_number() OVER (ORDER BY f.last) AS nth FROM found AS f
    ), clocked AS (
        -- hlc = greatest(its own time, the hlc before + 1), without a loop
        SELECT p.*, p.nth + greatest(ours.hlc, max(peersync.micros(p.at) - p.nth)
                                               OVER (ORDER BY p.last ROWS UNBOUNDED PRECEDING)) AS hlc
          FROM placed AS p
    ), written AS (
        INSERT INTO peersync.transaction
               (origin, position, hlc, kind, xid, changes, bytes, at, seen)
        SELECT ours.origin, ours.position + k.nth, k.hlc, 'd', k.xid, k.changes, k.bytes, k.at, vector
          FROM clocked AS k ORDER BY k.last
        RETURNING position, hlc)
    SELECT count(*), max(w.position), max(w.hlc)
      INTO publish.published, publish."position", publish.hlc FROM written AS w;
    UPDATE peersync.replica
       SET published = now_seen, position = publish."position", hlc = publish.hlc;
    UPDATE peersync.member
       SET applied = publish."position", applied_hlc = publish.hlc, seen = vector
     WHERE origin = ours.origin;
END $$;

CREATE FUNCTION peersync.put_settings(settings jsonb) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(jsonb_object_agg(s.key, s.was), '{}')
      FROM (SELECT e.key, current_setting(e.key) AS was, e.value FROM jsonb_each_text(settings) AS e
            OFFSET 0) AS s
     CROSS JOIN LATERAL (SELECT set_config(s.key, s.value, true) AS now WHERE s.was IS NOT NULL) AS n
$$;

CREATE FUNCTION peersync.quick_stamp(relation oid, root oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $$
SELECT md5(ROW(columns.list, keys.list,
    has_table_privilege(root, 'SELECT'), row_security_active(root), pg_partition_root(relation)::oid,
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = root),
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = root),
    -- foreign keys of both directions have triggers here, each action a function of its own
    (SELECT array_agg(ROW(g.tgfoid, g.tgenabled, g.tgconstraint)::text
                      ORDER BY g.tgfoid, g.tgenabled, g.tgconstraint)
       FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
      WHERE g.tgrelid = root AND p.pronamespace <> 'peersync'::regnamespace),
    (SELECT array_agg(ROW(c.oid, n.nspname, c.relname, c.relkind, c.relhasrules, c.relispartition,
                          has_schema_privilege(n.oid, 'USAGE'),
                          ARRAY(SELECT pg_describe_object('pg_class'::regclass, c.oid, s)
                                  FROM generate_series(0, c.relnatts + 1) AS s))::text ORDER BY c.oid)
       FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE c.oid IN (relation, root)))::text)
  FROM (SELECT array_agg(ROW(a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attisdropped,
                             a.attgenerated, format_type(a.atttypid, a.atttypmod))::text
                         ORDER BY a.attnum) AS list,
               coalesce(bool_and(a.attisdropped OR t.typtype IN ('b', 'e') AND NOT EXISTS (
                   SELECT FROM pg_type AS e
                    WHERE e.oid = t.typelem AND e.typtype NOT IN ('b', 'e'))), true) AS simple
          FROM pg_attribute AS a LEFT JOIN pg_type AS t ON t.oid = a.atttypid
         WHERE a.attrelid = root AND a.attnum > 0) AS columns,
       (SELECT array_agg(ROW(i.indexrelid, c.relname, i.indkey, i.indclass, i.indcollation, i.indnkeyatts,
                             i.indisprimary, i.indisvalid, i.indimmediate, i.indpred IS NULL,
                             i.indexprs IS NULL)::text ORDER BY i.indexrelid) AS list,
               coalesce(bool_and(NOT EXISTS (
                   SELECT FROM unnest(i.indclass::oid[]) AS o WHERE o >= 16384)), true) AS simple
          FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE i.indrelid = root AND i.indisunique) AS keys
 WHERE columns.simple AND keys.simple
$$;

CREATE FUNCTION peersync.register_shape(facts jsonb) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    number bigint := peersync.facts_shape(facts);
BEGIN
    INSERT INTO peersync.shape (shape, schema_name, table_name, columns, types, key)
    SELECT number, facts ->> 'schema', facts ->> 'table',
           ARRAY(SELECT c ->> 0 FROM jsonb_array_elements(facts -> 'columns')
                 WITH ORDINALITY AS u (c, n) ORDER BY n),
           ARRAY(SELECT c ->> 1 FROM jsonb_array_elements(facts -> 'columns')
                 WITH ORDINALITY AS u (c, n) ORDER BY n),
           ARRAY(SELECT k ->> 0 FROM jsonb_array_elements(facts -> 'key')
                 WITH ORDINALITY AS u (k, n) ORDER BY n)
     WHERE NOT EXISTS (SELECT FROM peersync.shape AS s WHERE s.shape = number);
    RETURN number;
END $$;

CREATE FUNCTION peersync.shape_hash(schema_name text, table_name text, columns text[], types text[], key text[]) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT ('x' || substr(md5(jsonb_build_array(schema_name, table_name, to_jsonb(columns),
                                                to_jsonb(types), to_jsonb(key))::text), 1, 16)
           )::bit(64)::bigint
$$;

CREATE FUNCTION peersync.snapshot_without_self() RETURNS pg_snapshot
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    taken  pg_snapshot := pg_current_snapshot();
    self   xid8 := pg_current_xact_id_if_assigned();
BEGIN
    IF self IS NULL OR NOT pg_visible_in_snapshot(self, taken) THEN
        RETURN taken;
    END IF;
    RETURN (SELECT concat_ws(':', least(self, pg_snapshot_xmin(taken)), pg_snapshot_xmax(taken),
                             string_agg(open.xid::text, ',' ORDER BY open.xid))
              FROM (SELECT pg_snapshot_xip(taken) UNION ALL SELECT self) AS open (xid))::pg_snapshot;
END $$;

CREATE FUNCTION peersync.table_shape(relation oid) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT peersync.facts_shape(peersync.capture_facts(relation)) $$;

CREATE FUNCTION peersync.table_stamp(relation oid, root oid, quick text, stamp bigint) RETURNS bigint
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF peersync.quick_stamp(relation, root) = quick THEN
        RETURN stamp;
    END IF;
    RETURN peersync.facts_stamp(peersync.capture_facts(relation), relation);
END $$;

CREATE FUNCTION peersync.try_image(r record) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    image text;
BEGIN
    image := textin(record_out(r));
    RETURN CASE WHEN octet_length(image) <= 500000000 THEN image END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

CREATE FUNCTION peersync.vector_without(own bigint) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(jsonb_object_agg(m.origin::text, m.applied), '{}')
      FROM peersync.member AS m WHERE m.origin <> own AND m.applied > 0
$$;

CREATE FUNCTION peersync.wake() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF current_setting('max_prepared_transactions') = '0' AND pg_notification_queue_usage() < 0.5 THEN
        NOTIFY peersync;
    END IF;
END $$;

CREATE FUNCTION peersync.withhold(lows xid8[], highs xid8[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
    WITH taken AS (
        DELETE FROM peersync.change AS c
         USING unnest(lows, highs) AS r (low, high)
         WHERE c.xid >= r.low AND c.xid <= r.high
        RETURNING c.id, c.xid, c.at, c.tbl, c.shape, c.op, c.key, c.image, c.old
    ), marked AS (  -- who keeps digests of these rows would look for them in the log
        INSERT INTO peersync.proof_mark (xid, table_schema, table_name, shape, key)
        SELECT t.xid, s.schema_name, s.table_name, t.shape, t.key
          FROM taken AS t JOIN peersync.synced_table AS s USING (tbl)
         WHERE EXISTS (SELECT FROM peersync.proof_list))
    INSERT INTO peersync.withheld (id, at, tbl, shape, op, key, image, old)
    SELECT t.id, t.at, t.tbl, t.shape, t.op, t.key, t.image, t.old FROM taken AS t
$$;

CREATE TABLE peersync.baselines (
    session_id uuid NOT NULL,
    source_id text NOT NULL,
    snapshot pg_snapshot NOT NULL,
    vector jsonb NOT NULL,
    taken_at timestamp with time zone NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE peersync.baselines IS 'What this database may claim to have since a full sync: the source''s snapshot and vector';

CREATE TABLE peersync.change (
    id bigint NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tbl integer NOT NULL,
    shape bigint NOT NULL,
    op "char" NOT NULL,
    key text,
    image text,
    old text
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_analyze_scale_factor='0.05', vacuum_truncate=off, toast.vacuum_truncate=off);

COMMENT ON TABLE peersync.change IS 'Changes made here, as the triggers caught them';

COMMENT ON COLUMN peersync.change.op IS 'I insert, U update, D delete, T truncate, X a row whose text no server could build';

COMMENT ON COLUMN peersync.change.key IS 'ROW(key columns)::text; null for T and for tables without a key';

COMMENT ON COLUMN peersync.change.image IS 'The row as text; for tables without a key also of a D';

COMMENT ON COLUMN peersync.change.old IS 'The row before it, where the strategy of its table needs it';

ALTER TABLE peersync.change ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.change_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.complete_syncs (
    complete_id uuid NOT NULL,
    database_name text NOT NULL,
    node_name text NOT NULL,
    sync_type text NOT NULL,
    status text DEFAULT 'running'::text NOT NULL,
    requested_by text NOT NULL,
    bulk_id uuid,
    retry_of uuid,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    completed_at timestamp with time zone,
    duration_s double precision,
    peers_total integer DEFAULT 0 NOT NULL,
    peers_successful integer DEFAULT 0 NOT NULL,
    peers_failed integer DEFAULT 0 NOT NULL,
    peers_skipped integer DEFAULT 0 NOT NULL,
    rows_total bigint DEFAULT 0 NOT NULL,
    raw_bytes bigint DEFAULT 0 NOT NULL,
    wire_bytes bigint DEFAULT 0 NOT NULL,
    cost numeric(20,6) DEFAULT 0 NOT NULL,
    cost_by_peer jsonb DEFAULT '{}'::jsonb NOT NULL,
    rows_by_peer jsonb DEFAULT '{}'::jsonb NOT NULL,
    errors jsonb DEFAULT '{}'::jsonb NOT NULL,
    configuration jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT complete_syncs_status_check CHECK ((status = ANY (ARRAY['running'::text, 'success'::text, 'partial'::text, 'error'::text, 'interrupted'::text]))),
    CONSTRAINT complete_syncs_sync_type_check CHECK ((sync_type = ANY (ARRAY['manual'::text, 'scheduled'::text, 'api'::text])))
);

COMMENT ON TABLE peersync.complete_syncs IS 'One row for each time that this database was brought up to date with all its peers';

COMMENT ON COLUMN peersync.complete_syncs.status IS 'partial: some peers failed; error: all did; interrupted: the agent ended meanwhile';

COMMENT ON COLUMN peersync.complete_syncs.errors IS '{peer: {code, message, detail, hint}}';

COMMENT ON COLUMN peersync.complete_syncs.configuration IS 'What it was asked for, and what was set then';

CREATE TABLE peersync.conflict (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tbl integer NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key text,
    kind text NOT NULL,
    strategy text NOT NULL,
    winner text NOT NULL,
    reason text NOT NULL,
    state text DEFAULT 'resolved'::text NOT NULL,
    kept_origin bigint NOT NULL,
    kept_position bigint,
    kept_hlc bigint,
    kept_op "char",
    kept_shape bigint,
    kept_image text,
    in_origin bigint NOT NULL,
    in_position bigint NOT NULL,
    in_ordinal bigint NOT NULL,
    in_hlc bigint NOT NULL,
    in_op "char" NOT NULL,
    in_shape bigint NOT NULL,
    in_image text,
    settled_at timestamp with time zone,
    settled_by text,
    settled_how text,
    CONSTRAINT conflict_state_check CHECK ((state = ANY (ARRAY['resolved'::text, 'open'::text, 'restored'::text]))),
    CONSTRAINT conflict_winner_check CHECK ((winner = ANY (ARRAY['kept'::text, 'incoming'::text, 'merged'::text])))
);

COMMENT ON TABLE peersync.conflict IS 'Two changes of one row, neither of which had seen the other: which one the row has now, and why';

COMMENT ON COLUMN peersync.conflict.kind IS 'insert_exists, update_origin_differs, update_missing, delete_origin_differs and so on: PostgreSQL 18''s names';

ALTER TABLE peersync.conflict ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.conflict_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.relayed (
    origin bigint NOT NULL,
    "position" bigint NOT NULL,
    ordinal bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    tbl integer NOT NULL,
    shape bigint NOT NULL,
    op "char" NOT NULL,
    key text,
    image text,
    old text
);

COMMENT ON TABLE peersync.relayed IS 'Changes of other origins that some member may still need, or that may still be in conflict';

CREATE TABLE peersync.transaction (
    origin bigint NOT NULL,
    "position" bigint NOT NULL,
    hlc bigint NOT NULL,
    kind "char" DEFAULT 'd'::"char" NOT NULL,
    xid xid8,
    changes integer DEFAULT 0 NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    seen jsonb DEFAULT '{}'::jsonb NOT NULL,
    info jsonb
)
WITH (autovacuum_vacuum_scale_factor='0.05');

COMMENT ON TABLE peersync.transaction IS 'The log in order: own transactions, and those of others that are kept to be relayed';

COMMENT ON COLUMN peersync.transaction.kind IS 'd data, b heartbeat, j join, l leave, e expire, w word for an expiry, c conflict decided; only d has changes';

COMMENT ON COLUMN peersync.transaction.xid IS 'Of an own transaction: its changes are those of this xid';

COMMENT ON COLUMN peersync.transaction.seen IS 'What its origin had applied of the other origins when it published it';

CREATE VIEW peersync.entry AS
 SELECT t.origin,
    t."position",
    c.id AS ordinal,
    t.hlc,
    c.at,
    c.tbl,
    c.shape,
    c.op,
    c.key,
    c.image,
    c.old
   FROM (peersync.transaction t
     JOIN peersync.change c ON ((c.xid = t.xid)))
UNION ALL
 SELECT t.origin,
    t."position",
    r.ordinal,
    t.hlc,
    r.at,
    r.tbl,
    r.shape,
    r.op,
    r.key,
    r.image,
    r.old
   FROM (peersync.transaction t
     JOIN peersync.relayed r USING (origin, "position"));

COMMENT ON VIEW peersync.entry IS 'Every change that the log holds, with its version (hlc, origin)';

CREATE TABLE peersync.full_sync_sessions (
    session_id uuid NOT NULL,
    role text NOT NULL,
    action text NOT NULL,
    method text DEFAULT 'backup'::text NOT NULL,
    sync_type text DEFAULT 'manual'::text NOT NULL,
    database_name text NOT NULL,
    peer_id text NOT NULL,
    peer_name text NOT NULL,
    requested_by text NOT NULL,
    state text NOT NULL,
    phase text NOT NULL,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    plan jsonb,
    progress jsonb,
    tables jsonb DEFAULT '[]'::jsonb NOT NULL,
    created_objects jsonb DEFAULT '[]'::jsonb NOT NULL,
    raw_bytes bigint DEFAULT 0 NOT NULL,
    wire_bytes bigint DEFAULT 0 NOT NULL,
    saved_bytes bigint DEFAULT 0 NOT NULL,
    rows_total bigint DEFAULT 0 NOT NULL,
    transfer_speed bigint,
    estimated_completion timestamp with time zone,
    resumable boolean DEFAULT false NOT NULL,
    resumed integer DEFAULT 0 NOT NULL,
    error jsonb,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    committed_at timestamp with time zone,
    completed_at timestamp with time zone,
    undo jsonb,
    CONSTRAINT full_sync_sessions_action_check CHECK ((action = ANY (ARRAY['pull'::text, 'push'::text]))),
    CONSTRAINT full_sync_sessions_phase_check CHECK ((phase = ANY (ARRAY['backup'::text, 'transfer'::text, 'convert'::text, 'restore'::text, 'verify'::text]))),
    CONSTRAINT full_sync_sessions_role_check CHECK ((role = ANY (ARRAY['target'::text, 'source'::text]))),
    CONSTRAINT full_sync_sessions_state_check CHECK ((state = ANY (ARRAY['planned'::text, 'running'::text, 'cancelling'::text, 'cancelled'::text, 'failed'::text, 'partly'::text, 'done'::text]))),
    CONSTRAINT full_sync_sessions_sync_type_check CHECK ((sync_type = ANY (ARRAY['manual'::text, 'scheduled'::text, 'api'::text])))
);

COMMENT ON TABLE peersync.full_sync_sessions IS 'One row for each full sync that this database gave (source) or took (target)';

COMMENT ON COLUMN peersync.full_sync_sessions.created_objects IS 'What this session created here, to be dropped again if it fails';

COMMENT ON COLUMN peersync.full_sync_sessions.transfer_speed IS 'Uncompressed bytes a second over the last 20 seconds';

COMMENT ON COLUMN peersync.full_sync_sessions.committed_at IS 'Written by the transaction that changed the tables: after a lost COMMIT it says what happened';

COMMENT ON COLUMN peersync.full_sync_sessions.undo IS 'Whether this session can be undone, and which tables its journal has';

CREATE TABLE peersync.functions_version (
    only_one boolean DEFAULT true NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    by_version text NOT NULL,
    CONSTRAINT functions_version_only_one_check CHECK (only_one)
);

COMMENT ON TABLE peersync.functions_version IS 'The hash over all function files: where it differs from the code''s, they are created again';

CREATE TABLE peersync.leases (
    name text NOT NULL,
    fence bigint NOT NULL,
    holder jsonb NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE peersync.link (
    node_id text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    paused_by text,
    paused_at timestamp with time zone
);

COMMENT ON TABLE peersync.link IS 'What an operator has set for a peer of this database';

CREATE TABLE peersync.link_samples (
    peer_id text NOT NULL,
    span_s integer NOT NULL,
    at timestamp with time zone NOT NULL,
    peer_name text NOT NULL,
    transactions bigint DEFAULT 0 NOT NULL,
    changes bigint DEFAULT 0 NOT NULL,
    raw_bytes bigint DEFAULT 0 NOT NULL,
    wire_bytes bigint DEFAULT 0 NOT NULL,
    conflicts bigint DEFAULT 0 NOT NULL,
    quarantined bigint DEFAULT 0 NOT NULL,
    errors integer DEFAULT 0 NOT NULL,
    lag_p50_s double precision,
    lag_p95_s double precision,
    behind_s double precision DEFAULT 0 NOT NULL
);

COMMENT ON TABLE peersync.link_samples IS 'What came from each peer by periodic sync, in spans of a minute that become hours and days';

COMMENT ON COLUMN peersync.link_samples.lag_p50_s IS 'From commit there to commit here, of the transactions of the span; null: there was none';

COMMENT ON COLUMN peersync.link_samples.behind_s IS 'How long the link was not in sync, of the span';

CREATE TABLE peersync.member (
    origin bigint NOT NULL,
    node_id text NOT NULL,
    node_name text NOT NULL,
    state text DEFAULT 'member'::text NOT NULL,
    applied bigint DEFAULT 0 NOT NULL,
    applied_hlc bigint DEFAULT 0 NOT NULL,
    floor bigint DEFAULT 0 NOT NULL,
    seen jsonb DEFAULT '{}'::jsonb NOT NULL,
    sponsor bigint,
    joined_at bigint,
    info jsonb DEFAULT '{}'::jsonb NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT member_origin_check CHECK ((origin > 0)),
    CONSTRAINT member_state_check CHECK ((state = ANY (ARRAY['member'::text, 'joining'::text, 'left'::text, 'expired'::text])))
);

COMMENT ON TABLE peersync.member IS 'Every origin of the group, this database''s own too: how far it is applied here, what it has seen';

COMMENT ON COLUMN peersync.member.floor IS 'Up to this position its transactions have left our log';

COMMENT ON COLUMN peersync.member.seen IS 'The vector of its highest transaction here: for this database, of the last that it published';

COMMENT ON COLUMN peersync.member.joined_at IS 'The sponsor''s position that made it a member';

CREATE TABLE peersync.migration (
    number integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    breaking boolean NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    by_version text NOT NULL
);

COMMENT ON TABLE peersync.migration IS 'The migrations that this schema has; code that does not know a breaking one refuses to run';

CREATE TABLE peersync.peer_sync_references (
    complete_id uuid NOT NULL,
    place integer NOT NULL,
    peer_id text NOT NULL,
    peer_name text NOT NULL,
    way text NOT NULL,
    status text DEFAULT 'waiting'::text NOT NULL,
    reason text,
    error jsonb,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    duration_s double precision,
    rows_total bigint DEFAULT 0 NOT NULL,
    raw_bytes bigint DEFAULT 0 NOT NULL,
    wire_bytes bigint DEFAULT 0 NOT NULL,
    cost numeric(20,6) DEFAULT 0 NOT NULL,
    session_id uuid,
    positions jsonb,
    tries integer DEFAULT 0 NOT NULL,
    CONSTRAINT peer_sync_references_status_check CHECK ((status = ANY (ARRAY['waiting'::text, 'running'::text, 'success'::text, 'partial'::text, 'error'::text, 'skipped'::text, 'not_run'::text]))),
    CONSTRAINT peer_sync_references_way_check CHECK ((way = ANY (ARRAY['periodic'::text, 'full-pull'::text, 'full-push'::text])))
);

COMMENT ON TABLE peersync.peer_sync_references IS 'What a complete sync did for each peer: it refers to the full sync or to the proof, and copies neither';

COMMENT ON COLUMN peersync.peer_sync_references.session_id IS 'Its full sync in full_sync_sessions (of the peer, for a push)';

COMMENT ON COLUMN peersync.peer_sync_references.positions IS 'Periodic: {"ours": vector, "theirs": vector}, what each side had when it was proved';

CREATE TABLE peersync.proof_block (
    list bigint NOT NULL,
    place numeric NOT NULL,
    low text[],
    rows bigint,
    digest bigint,
    read_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE peersync.proof_block IS 'The blocks of a list in the order of their keys: each ends where the next begins';

COMMENT ON COLUMN peersync.proof_block.low IS 'The key where it begins; null in front of all keys';

COMMENT ON COLUMN peersync.proof_block.rows IS 'Null: these keys were never read';

COMMENT ON COLUMN peersync.proof_block.digest IS 'Null: a row of it has changed since it was read';

CREATE TABLE peersync.proof_list (
    list bigint NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    form text NOT NULL,
    shape jsonb NOT NULL,
    asked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    armed boolean DEFAULT false NOT NULL,
    stamp text,
    origin bigint,
    "position" bigint,
    snapshot pg_snapshot,
    advanced_at timestamp with time zone,
    tbl integer
);

COMMENT ON TABLE peersync.proof_list IS 'Tables whose digests are kept, each in the form in which a verification hashes it';

COMMENT ON COLUMN peersync.proof_list.armed IS 'Every session that applies changes has seen that this list is there';

COMMENT ON COLUMN peersync.proof_list.stamp IS 'The relation, its columns, types, capture and so on when the list was begun; null: it was not';

COMMENT ON COLUMN peersync.proof_list."position" IS 'How far this database had published then: the log is needed from there';

COMMENT ON COLUMN peersync.proof_list.snapshot IS 'What is visible in it is in the digests, or its block is marked; the rest is in the log';

ALTER TABLE peersync.proof_list ALTER COLUMN list ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.proof_list_list_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.proof_mark (
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    table_schema text,
    table_name text,
    shape bigint,
    key text
);

COMMENT ON TABLE peersync.proof_mark IS 'Rows that peersync itself has written, which no trigger of ours sees; no key: any row; no table: of any table';

CREATE TABLE peersync.quarantine (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    cause text NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    origin bigint NOT NULL,
    "position" bigint NOT NULL,
    ordinal bigint NOT NULL,
    hlc bigint NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    tbl integer NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    shape bigint NOT NULL,
    op "char" NOT NULL,
    key text,
    image text,
    old text,
    sqlstate text,
    reason text NOT NULL,
    tries integer DEFAULT 1 NOT NULL,
    tried_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    settled_at timestamp with time zone,
    settled_by text,
    CONSTRAINT quarantine_cause_check CHECK ((cause = ANY (ARRAY['row'::text, 'table'::text]))),
    CONSTRAINT quarantine_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'applied'::text, 'skipped'::text, 'superseded'::text])))
);

COMMENT ON TABLE peersync.quarantine IS 'Changes that arrived and could not be applied: one refused row, or all of a parked table';

ALTER TABLE peersync.quarantine ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.repairs (
    repair_id uuid NOT NULL,
    peer_id text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended boolean NOT NULL,
    view jsonb NOT NULL
);

COMMENT ON TABLE peersync.repairs IS 'The newest repairs with each peer, and those that are under way';

COMMENT ON COLUMN peersync.repairs.view IS 'How far it is, and what was found, with keys and without values';

CREATE TABLE peersync.replica (
    only_one boolean DEFAULT true NOT NULL,
    group_id uuid NOT NULL,
    origin bigint NOT NULL,
    node_id text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    reason text,
    direction text DEFAULT 'both'::text NOT NULL,
    "position" bigint DEFAULT 0 NOT NULL,
    hlc bigint DEFAULT 0 NOT NULL,
    published pg_snapshot NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT replica_direction_check CHECK ((direction = ANY (ARRAY['both'::text, 'receive'::text, 'give'::text]))),
    CONSTRAINT replica_only_one_check CHECK (only_one),
    CONSTRAINT replica_origin_check CHECK ((origin > 0)),
    CONSTRAINT replica_state_check CHECK ((state = ANY (ARRAY['joining'::text, 'active'::text, 'held'::text, 'expired'::text])))
);

COMMENT ON TABLE peersync.replica IS 'This database as a member of its group; no row: no periodic sync';

COMMENT ON COLUMN peersync.replica.direction IS 'receive: its own changes are given to nobody; give: the changes of others are not applied';

COMMENT ON COLUMN peersync.replica.hlc IS 'Hybrid logical clock in microseconds since 1970: nothing published or applied here is newer';

COMMENT ON COLUMN peersync.replica.published IS 'The changes of every transaction that is visible in it have a position';

CREATE TABLE peersync.row_base (
    tbl integer NOT NULL,
    key text NOT NULL,
    shape bigint NOT NULL,
    image text,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE peersync.row_base IS 'The state of a row that was in conflict, before the entries of it that the log still holds';

CREATE TABLE peersync.set_runs (
    run_id bigint NOT NULL,
    set_name text NOT NULL,
    method text NOT NULL,
    sync_type text NOT NULL,
    peer_id text NOT NULL,
    peer_name text NOT NULL,
    direction text NOT NULL,
    status text DEFAULT 'running'::text NOT NULL,
    reason text,
    error jsonb,
    requested_by text NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    completed_at timestamp with time zone,
    rows_total bigint DEFAULT 0 NOT NULL,
    raw_bytes bigint DEFAULT 0 NOT NULL,
    wire_bytes bigint DEFAULT 0 NOT NULL,
    session_id uuid,
    CONSTRAINT set_runs_direction_check CHECK ((direction = ANY (ARRAY['pull'::text, 'push'::text]))),
    CONSTRAINT set_runs_method_check CHECK ((method = ANY (ARRAY['incremental'::text, 'full'::text, 'window'::text]))),
    CONSTRAINT set_runs_status_check CHECK ((status = ANY (ARRAY['running'::text, 'success'::text, 'partial'::text, 'error'::text, 'skipped'::text, 'interrupted'::text]))),
    CONSTRAINT set_runs_sync_type_check CHECK ((sync_type = ANY (ARRAY['manual'::text, 'scheduled'::text, 'api'::text])))
);

COMMENT ON TABLE peersync.set_runs IS 'One row for each run of a table set with one peer';

ALTER TABLE peersync.set_runs ALTER COLUMN run_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.set_runs_run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.shape (
    shape bigint NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    columns text[] NOT NULL,
    types text[] NOT NULL,
    key text[] NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE peersync.shape IS 'Column lists of images; a shape may be here more than once';

CREATE TABLE peersync.synced_table (
    tbl integer NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    relation oid,
    home text,
    shape bigint,
    state text DEFAULT 'captured'::text NOT NULL,
    reason text,
    parked text,
    parked_at timestamp with time zone,
    parked_relation oid,
    parked_shape bigint,
    strategy text DEFAULT 'newer_wins'::text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT synced_table_state_check CHECK ((state = ANY (ARRAY['captured'::text, 'excluded'::text, 'refused'::text, 'gone'::text, 'unknown'::text])))
);

COMMENT ON TABLE peersync.synced_table IS 'Every table that periodic sync knows of: captured here, left out and why, or known from a peer';

COMMENT ON COLUMN peersync.synced_table.home IS 'The database in which `relation` is that table: in one that a dump was restored into, it is not';

COMMENT ON COLUMN peersync.synced_table.parked IS 'Why incoming changes of this table wait (its shape differs, it is missing); null: they do not';

COMMENT ON COLUMN peersync.synced_table.parked_relation IS 'The table that was here when the oldest waiting change came; 0: it had been dropped';

COMMENT ON COLUMN peersync.synced_table.parked_shape IS 'The shape that this table had';

ALTER TABLE peersync.synced_table ALTER COLUMN tbl ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.synced_table_tbl_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.table_proofs (
    peer_id text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    peer_name text NOT NULL,
    result text NOT NULL,
    intended boolean DEFAULT false NOT NULL,
    reason text,
    checked_at timestamp with time zone NOT NULL,
    proved_at timestamp with time zone,
    differs_since timestamp with time zone,
    different bigint DEFAULT 0 NOT NULL,
    missing bigint DEFAULT 0 NOT NULL,
    extra bigint DEFAULT 0 NOT NULL,
    CONSTRAINT table_proofs_result_check CHECK ((result = ANY (ARRAY['equal'::text, 'partly'::text, 'differs'::text, 'in flight'::text, 'not compared'::text, 'failed'::text])))
);

COMMENT ON TABLE peersync.table_proofs IS 'What is known of each table with each peer: when it was last compared, and last proved identical';

COMMENT ON COLUMN peersync.table_proofs.intended IS 'It is not compared because somebody configured it so';

CREATE TABLE peersync.verifications (
    verify_id uuid NOT NULL,
    peer_id text NOT NULL,
    peer_name text NOT NULL,
    result text,
    requested_by text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    completed_at timestamp with time zone NOT NULL,
    view jsonb NOT NULL
);

COMMENT ON TABLE peersync.verifications IS 'The newest verifications with each peer';

COMMENT ON COLUMN peersync.verifications.view IS 'All that was found, with keys and without values';

CREATE TABLE peersync.withheld (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    tbl integer NOT NULL,
    shape bigint NOT NULL,
    op "char" NOT NULL,
    key text,
    image text,
    old text
);

COMMENT ON TABLE peersync.withheld IS 'Changes of a database that only receives, until one that comes in takes their place';

ALTER TABLE ONLY peersync.baselines
    ADD CONSTRAINT baselines_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY peersync.complete_syncs
    ADD CONSTRAINT complete_syncs_pkey PRIMARY KEY (complete_id);

ALTER TABLE ONLY peersync.conflict
    ADD CONSTRAINT conflict_pkey PRIMARY KEY (id);

ALTER TABLE ONLY peersync.full_sync_sessions
    ADD CONSTRAINT full_sync_sessions_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY peersync.functions_version
    ADD CONSTRAINT functions_version_pkey PRIMARY KEY (only_one);

ALTER TABLE ONLY peersync.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);

ALTER TABLE ONLY peersync.link
    ADD CONSTRAINT link_pkey PRIMARY KEY (node_id);

ALTER TABLE ONLY peersync.link_samples
    ADD CONSTRAINT link_samples_pkey PRIMARY KEY (peer_id, span_s, at);

ALTER TABLE ONLY peersync.member
    ADD CONSTRAINT member_pkey PRIMARY KEY (origin);

ALTER TABLE ONLY peersync.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (number);

ALTER TABLE ONLY peersync.peer_sync_references
    ADD CONSTRAINT peer_sync_references_pkey PRIMARY KEY (complete_id, place);

ALTER TABLE ONLY peersync.proof_block
    ADD CONSTRAINT proof_block_pkey PRIMARY KEY (list, place);

ALTER TABLE ONLY peersync.proof_list
    ADD CONSTRAINT proof_list_pkey PRIMARY KEY (list);

ALTER TABLE ONLY peersync.proof_list
    ADD CONSTRAINT proof_list_table_schema_table_name_form_key UNIQUE (table_schema, table_name, form);

ALTER TABLE ONLY peersync.quarantine
    ADD CONSTRAINT quarantine_origin_position_ordinal_key UNIQUE (origin, "position", ordinal);

ALTER TABLE ONLY peersync.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);

ALTER TABLE ONLY peersync.relayed
    ADD CONSTRAINT relayed_pkey PRIMARY KEY (origin, "position", ordinal);

ALTER TABLE ONLY peersync.repairs
    ADD CONSTRAINT repairs_pkey PRIMARY KEY (repair_id);

ALTER TABLE ONLY peersync.replica
    ADD CONSTRAINT replica_pkey PRIMARY KEY (only_one);

ALTER TABLE ONLY peersync.set_runs
    ADD CONSTRAINT set_runs_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY peersync.synced_table
    ADD CONSTRAINT synced_table_pkey PRIMARY KEY (tbl);

ALTER TABLE ONLY peersync.synced_table
    ADD CONSTRAINT synced_table_schema_name_table_name_key UNIQUE (schema_name, table_name);

ALTER TABLE ONLY peersync.table_proofs
    ADD CONSTRAINT table_proofs_pkey PRIMARY KEY (peer_id, table_schema, table_name);

ALTER TABLE ONLY peersync.transaction
    ADD CONSTRAINT transaction_pkey PRIMARY KEY (origin, "position");

ALTER TABLE ONLY peersync.verifications
    ADD CONSTRAINT verifications_pkey PRIMARY KEY (verify_id);

ALTER TABLE ONLY peersync.withheld
    ADD CONSTRAINT withheld_pkey PRIMARY KEY (id);

CREATE INDEX change_xid_id ON peersync.change USING btree (xid, id);

CREATE UNIQUE INDEX complete_syncs_running ON peersync.complete_syncs USING btree ((true)) WHERE (status = 'running'::text);

CREATE INDEX complete_syncs_started_at ON peersync.complete_syncs USING btree (started_at DESC);

CREATE INDEX conflict_at ON peersync.conflict USING btree (at DESC);

CREATE INDEX conflict_row ON peersync.conflict USING btree (tbl, hashtextextended(key, (0)::bigint));

CREATE INDEX full_sync_sessions_started_at ON peersync.full_sync_sessions USING btree (started_at DESC);

CREATE INDEX link_samples_at ON peersync.link_samples USING btree (at);

CREATE INDEX peer_sync_references_peer ON peersync.peer_sync_references USING btree (peer_id, completed_at DESC);

CREATE INDEX proof_block_unread ON peersync.proof_block USING btree (list, place) WHERE (digest IS NULL);

CREATE INDEX proof_mark_xid ON peersync.proof_mark USING btree (xid);

CREATE INDEX quarantine_waiting ON peersync.quarantine USING btree (tbl, hashtextextended(key, (0)::bigint)) WHERE (state = 'waiting'::text);

CREATE UNIQUE INDEX row_base_row ON peersync.row_base USING btree (tbl, hashtextextended(key, (0)::bigint), hashtextextended(key, (1)::bigint));

CREATE UNIQUE INDEX set_runs_running ON peersync.set_runs USING btree (set_name, peer_id) WHERE (status = 'running'::text);

CREATE INDEX set_runs_set ON peersync.set_runs USING btree (set_name, started_at DESC);

CREATE INDEX shape_shape ON peersync.shape USING btree (shape);

CREATE INDEX transaction_hlc ON peersync.transaction USING btree (hlc);

CREATE INDEX transaction_xid ON peersync.transaction USING btree (xid) WHERE (xid IS NOT NULL);

CREATE INDEX verifications_started_at ON peersync.verifications USING btree (peer_id, started_at DESC);

CREATE INDEX withheld_row ON peersync.withheld USING btree (tbl, hashtextextended(key, (0)::bigint));

ALTER TABLE ONLY peersync.complete_syncs
    ADD CONSTRAINT complete_syncs_retry_of_fkey FOREIGN KEY (retry_of) REFERENCES peersync.complete_syncs(complete_id) ON DELETE SET NULL;

ALTER TABLE ONLY peersync.peer_sync_references
    ADD CONSTRAINT peer_sync_references_complete_id_fkey FOREIGN KEY (complete_id) REFERENCES peersync.complete_syncs(complete_id) ON DELETE CASCADE;
