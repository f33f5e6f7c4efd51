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
-- make SERIALIZABLE transactions fail that touch different rows.
--
-- A user's statement must never fail because of us, also when somebody has just altered the
-- table. So each generated function begins with a guard: `table_stamp('<oid>')` is labelled
-- IMMUTABLE although it reads the catalog. It is folded into a constant when the expression is
-- planned, and an oid constant makes the plan depend on that relation: after any ALTER the
-- expression is planned, and the function evaluated, again. Where the stamp is not the one that
-- the function was made for, its statement is built anew from the catalog as it is now.

CREATE OR REPLACE FUNCTION peersync.shape_hash(
    schema_name text, table_name text, columns text[], types text[], key text[])
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ('x' || substr(md5(jsonb_build_array(schema_name, table_name, to_jsonb(columns),
                                                to_jsonb(types), to_jsonb(key))::text), 1, 16)
           )::bit(64)::bigint
$$;

-- The settings that the texts of a relation's values depend on, as name and value. Setting one
-- costs each of the user's statements some of a microsecond, so the others are left alone.
CREATE OR REPLACE FUNCTION peersync.output_settings(relation oid)
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
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
        ('lc_monetary', 'C', '{money}')) AS s (name, value, types)
 WHERE EXISTS (SELECT FROM parts WHERE parts.oid = ANY (s.types))
    OR EXISTS (SELECT FROM parts JOIN pg_type AS t ON t.oid = parts.oid  -- an extension's: who knows
                WHERE t.typtype = 'b' AND t.typelem = 0 AND t.oid >= 16384)
$$;

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

-- How a key's column is written so that equal values have one text: 'text' as it is, the name of
-- a type that peersync.key_field can normalise, or null where nothing does. Rows are matched by
-- the key's operator, conflicts are found by its text: the two have to agree. PostgreSQL itself
-- says which types have equal values of different images (support function 4: deduplication).
CREATE OR REPLACE FUNCTION peersync.key_form(opclass oid, type oid, coll oid)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
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

CREATE OR REPLACE FUNCTION peersync.key_field(expression text, form text)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(CASE form WHEN 'numeric' THEN 'pg_catalog.trim_scale(%s)'
                            WHEN 'float4' THEN '(%s OPERATOR(pg_catalog.+) ''0''::pg_catalog.float4)'
                            WHEN 'float8' THEN '(%s OPERATOR(pg_catalog.+) ''0''::pg_catalog.float8)'
                            WHEN 'bpchar' THEN '%s::pg_catalog.text'  -- without blanks at its end
                            WHEN 'citext' THEN 'pg_catalog.lower(%s::pg_catalog.text'
                                               ' COLLATE pg_catalog."default")'
                            ELSE '%s' END, expression)
$$;

-- SQL of a key's text, from the fields of a table alias, or from k1, k2, ... for a null alias; null
-- for a table without key.
CREATE OR REPLACE FUNCTION peersync.key_sql(facts jsonb, a text)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'ROW(' || string_agg(peersync.key_field(
               CASE WHEN a IS NULL THEN format('k%s', n) ELSE format('%s.%I', a, k ->> 0) END,
               k ->> 2), ', ' ORDER BY n) || ')::pg_catalog.text'
      FROM jsonb_array_elements(facts -> 'key') WITH ORDINALITY AS u (k, n)
$$;

-- Everything that the capture of a relation depends on, from the catalog as it is now. Partitions
-- are described by their root, under whose name, columns and key they are logged.
--   columns: name, type, readable (not virtual), how its size is known (text, any, null: small)
--   key: name, equality operator, form (peersync.key_form); empty: the whole row
--   bad_key: a column that makes the only keys useless, because equal values have many texts
--   mode: statement, row (in an inheritance tree); current: whether rows may be read back
--   direct: the operations after which a transition table has the rows as they are
--   settings: those that the texts of its values depend on
--   triggers: pg_trigger.tgtype of those that belong to it
CREATE OR REPLACE FUNCTION peersync.capture_facts(relation oid)
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
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
                        AND peersync.key_form(u.opclass, ka.atttypid, u.coll) IS NULL),
                   i.indisprimary DESC, i.indnkeyatts, ic.relname LIMIT 1) AS i
     CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
                        WITH ORDINALITY AS k (attnum, opclass, coll, n)
      JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = k.attnum
     CROSS JOIN LATERAL (SELECT peersync.key_form(k.opclass, a.atttypid, k.coll) AS name) AS form
      JOIN pg_opclass AS oc ON oc.oid = k.opclass
      JOIN pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
      JOIN pg_operator AS op ON op.oid = ao.amopopr
      JOIN pg_namespace AS opn ON opn.oid = op.oprnamespace
     WHERE k.n <= i.indnkeyatts) AS keys ON true
 WHERE c.oid = relation
$$;

CREATE OR REPLACE FUNCTION peersync.facts_shape(facts jsonb)
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT peersync.shape_hash(facts ->> 'schema', facts ->> 'table',
        ARRAY(SELECT c ->> 0 FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)
               ORDER BY n),
        ARRAY(SELECT c ->> 1 FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)
               ORDER BY n),
        ARRAY(SELECT k ->> 0 FROM jsonb_array_elements(facts -> 'key') WITH ORDINALITY AS u (k, n)
               ORDER BY n))
$$;

-- The shape under which a relation is logged. IMMUTABLE on purpose, as table_stamp is.
CREATE OR REPLACE FUNCTION peersync.table_shape(relation oid)
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT peersync.facts_shape(peersync.capture_facts(relation)) $$;

-- A number that changes with anything that the generated function of a relation relies on. A
-- transaction of an old snapshot sees the catalog as it was; pg_describe_object does not, so that
-- names which are wrong now are noticed there, too.
CREATE OR REPLACE FUNCTION peersync.facts_stamp(facts jsonb, relation oid)
RETURNS bigint LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ('x' || substr(md5(facts::text || coalesce(string_agg(d.name, ',' ORDER BY d.o, d.n), '')),
                          1, 16))::bit(64)::bigint
      FROM (SELECT o, n, pg_describe_object('pg_class'::regclass, o, n) AS name
              FROM (SELECT DISTINCT unnest(ARRAY[relation, (facts ->> 'root')::bigint::oid]) AS o) AS u
              JOIN pg_class AS c ON c.oid = o
             CROSS JOIN generate_series(0, c.relnatts + 1) AS n) AS d
     WHERE facts IS NOT NULL
$$;

-- The same for a relation as it is now; `root` is there only to be a constant in the calling plan.
CREATE OR REPLACE FUNCTION peersync.table_stamp(relation oid, root oid)
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT peersync.facts_stamp(peersync.capture_facts(relation), relation) $$;

-- The text of a row, or null where no server could build it: more than 1 GB, or a column whose
-- output fails. Half of the limit, because a log row has two images.
CREATE OR REPLACE FUNCTION peersync.try_image(r record)
RETURNS text LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    image text;
BEGIN
    image := textin(record_out(r));
    RETURN CASE WHEN octet_length(image) <= 500000000 THEN image END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

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

-- SQL of a row's image: alias `a` of the table itself (whole) or of something with its columns.
CREATE OR REPLACE FUNCTION peersync.image_sql(facts jsonb, a text, whole boolean)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN s.size IS NULL THEN format('pg_catalog.textin(pg_catalog.record_out(%s))', s.r)
           ELSE format('CASE WHEN %s < 200000000 THEN pg_catalog.textin(pg_catalog.record_out(%s))'
                       ' ELSE peersync.try_image(%s) END', s.size, s.r, s.r) END
      FROM (SELECT CASE WHEN whole AND bool_and((c ->> 2)::boolean) THEN a || '.*'
                        ELSE 'ROW(' || string_agg(CASE WHEN (c ->> 2)::boolean
                                                       THEN format('%s.%I', a, c ->> 0)
                                                       ELSE 'NULL' END, ', ' ORDER BY n) || ')'
                        END AS r,
                   string_agg(CASE c ->> 3
                       WHEN 'text' THEN format(
                           'coalesce(2 * pg_catalog.octet_length(%s.%I)::int8, 0)', a, c ->> 0)
                       ELSE format(
                           'coalesce(256 * pg_catalog.pg_column_size(%s.%I)::int8, 0)', a, c ->> 0)
                       END, ' + ' ORDER BY n)
                       FILTER (WHERE (c ->> 2)::boolean AND c ->> 3 IS NOT NULL) AS size
              FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)) AS s
$$;

-- The statement that logs what one of the user's did.
--   op: INSERT, UPDATE, DELETE; EXISTING logs all rows of the relation itself as inserts,
--       GONE as deletes (a partition that is truncated on its own)
--   source: what the old and the new rows are in: transition tables y and x, "row": the records
--       OLD and NEW, "text": the same as texts in $1 and $2
CREATE OR REPLACE FUNCTION peersync.capture_statement(
    facts jsonb, tbl integer, keep_old boolean, op text, source text)
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
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

    IF key_of IS NULL OR NOT (facts ->> 'current')::boolean OR op IN ('EXISTING', 'GONE')
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
END $$;

-- The rows as the statement left them: of tables without a key, of those that we may not read,
-- of those that nothing else changes, and of whole relations. A key that an update took away is
-- logged before the new one; it is found by sorting or hashing, whatever the plan was made for.
CREATE OR REPLACE FUNCTION peersync.plain_rows_sql(
    facts jsonb, tbl integer, keep_old boolean, op text, shape text,
    olds text, news text, old_alias text, new_alias text)
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    keyed   boolean := jsonb_array_length(facts -> 'key') > 0;
    old_key text := coalesce(peersync.key_sql(facts, old_alias), 'NULL::pg_catalog.text');
    new_key text := coalesce(peersync.key_sql(facts, new_alias), 'NULL::pg_catalog.text');
    old_row text := peersync.image_sql(facts, old_alias, false);
    new_row text := peersync.image_sql(facts, new_alias, false);
    gone    text;
    there   text;
BEGIN
    gone := format('SELECT %s, %s, %L::pg_catalog."char", %s, %s, %s FROM %s', tbl, shape, 'D', old_key,
                   CASE WHEN keyed THEN 'NULL::pg_catalog.text' ELSE old_row END,
                   CASE WHEN keyed AND keep_old THEN old_row ELSE 'NULL::pg_catalog.text' END, olds);
    there := format('SELECT %s, %s, CASE WHEN r.image IS NULL THEN ''X'' ELSE %L END::pg_catalog."char",'
                    ' r.key, r.image, NULL::pg_catalog.text'
                    ' FROM (SELECT %s AS key, %s AS image FROM %s OFFSET 0) AS r',
                    tbl, shape, CASE WHEN keyed AND op = 'UPDATE' THEN 'U' ELSE 'I' END,
                    new_key, new_row, news);
    RETURN CASE
        WHEN op IN ('INSERT', 'EXISTING') THEN there
        WHEN op IN ('DELETE', 'GONE') THEN gone
        WHEN keyed AND keep_old
        THEN gone || format(' WHERE %s NOT IN (SELECT %s FROM %s)', old_key, new_key, news)
             || ' UNION ALL ' || there
        WHEN keyed THEN format(
             'SELECT %s, %s, %L::pg_catalog."char", g.key, NULL::pg_catalog.text, NULL::pg_catalog.text'
             ' FROM (SELECT %s AS key FROM %s EXCEPT SELECT %s FROM %s) AS g UNION ALL %s',
             tbl, shape, 'D', old_key, olds, new_key, news, there)
        ELSE gone || ' UNION ALL ' || there END;
END $$;

-- The statement for a relation as it is now, for when its function is out of date: registers the
-- shape, too. `tbl` is the number that the function has, used where the table has none yet.
CREATE OR REPLACE FUNCTION peersync.capture_anew(
    relation oid, tbl integer, keep_old boolean, op text, source text)
RETURNS text LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    facts jsonb := peersync.capture_facts(relation);
    known integer;
BEGIN
    PERFORM peersync.register_shape(facts);
    SELECT s.tbl INTO known FROM peersync.synced_table AS s
     WHERE s.schema_name = facts ->> 'schema' AND s.table_name = facts ->> 'table';
    RETURN peersync.capture_statement(facts, coalesce(known, capture_anew.tbl), keep_old, op, source);
END $$;

CREATE OR REPLACE FUNCTION peersync.register_shape(facts jsonb)
RETURNS bigint LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- Which generator made a function.
CREATE OR REPLACE FUNCTION peersync.capture_version()
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT md5(string_agg(p.prosrc, '' ORDER BY p.proname)) FROM pg_proc AS p
     WHERE p.pronamespace = 'peersync'::regnamespace
       AND p.proname IN ('capture_source', 'capture_statement', 'plain_rows_sql', 'image_sql',
                         'key_sql', 'key_field')
$$;

-- What is written at the head of a generated function; another one means: make it again.
CREATE OR REPLACE FUNCTION peersync.capture_marker(
    version text, stamp bigint, tbl integer, keep_old boolean)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT format('%s %s %s %s', version, stamp, tbl, keep_old) $$;

-- CREATE FUNCTION for the capture of one relation.
CREATE OR REPLACE FUNCTION peersync.capture_source(relation oid, tbl integer, keep_old boolean)
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    facts  jsonb := peersync.capture_facts(relation);
    root   bigint := facts ->> 'root';
    stamp  bigint := peersync.facts_stamp(facts, relation);
    source text := CASE facts ->> 'mode' WHEN 'row' THEN 'row' ELSE 'x' END;
    body   text;
BEGIN
    body := format($body$
/* peersync %1$s */
DECLARE
    before pg_catalog.jsonb;
BEGIN
    /* in a restored database, a trigger may call what was made for another table since */
    IF TG_RELID = '%2$s'::pg_catalog.oid
       AND peersync.table_stamp('%2$s'::pg_catalog.oid, '%3$s'::pg_catalog.oid) = '%4$s'::pg_catalog.int8 THEN
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
    END IF;
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(%11$s, %12$s) THEN
        PERFORM peersync.wake();
    END IF;
    RETURN NULL;
END $body$,
        peersync.capture_marker(peersync.capture_version(), stamp, tbl, keep_old), relation, root, stamp,
        peersync.capture_statement(facts, tbl, keep_old, 'UPDATE', source),
        peersync.capture_statement(facts, tbl, keep_old, 'INSERT', source),
        peersync.capture_statement(facts, tbl, keep_old, 'DELETE', source),
        CASE WHEN facts -> 'triggers' @> '34' OR (facts ->> 'mode' = 'statement'
                  AND NOT facts -> 'triggers' @> '32')
             THEN format('PERFORM peersync.capture_truncate(TG_RELID, %s, %L, TG_WHEN)', tbl, keep_old)
             ELSE format('INSERT INTO peersync.change (tbl, shape, op) VALUES (%s, %L::pg_catalog.int8, ''T'')',
                         tbl, peersync.facts_shape(facts)) END,
        tbl, keep_old, x'70737963'::int, hashtext('awake'));
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
