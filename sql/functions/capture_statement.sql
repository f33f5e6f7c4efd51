-- The statements that log rows, built from the facts of a relation: for its generated function,
-- and for when that is out of date.

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

-- SQL of whether the text of a row, fields of alias `a`, is so short that any server can build it:
-- each column has its share of 200 MB. Null where that needs no asking.
CREATE OR REPLACE FUNCTION peersync.image_fits_sql(facts jsonb, a text)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
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

-- SQL of a row's image: alias `a` of the table itself (whole) or of something with its columns.
CREATE OR REPLACE FUNCTION peersync.image_sql(facts jsonb, a text, whole boolean)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
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

-- The statement that logs what one of the user's did.
--   op: INSERT, UPDATE, DELETE; EXISTING logs all rows of the relation itself as inserts,
--       GONE as deletes (a partition that is truncated on its own), SAME an update of one row
--       that has kept its key
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
END $$;

-- SQL of when the client's statement began, as a text that no setting has a say in.
CREATE OR REPLACE FUNCTION peersync.began_sql()
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT 'pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.statement_timestamp()), ''hex'')' $$;

-- The same as a piece of a generated function: it takes the rows as the statement left them only
-- while the client's statement has logged none. An update of one row that kept its key needs no
-- look for keys that are gone: it is tried first, and logs nothing where it was another update.
-- A variable `logged` is set, because PERFORM would cost a run of the executor.
CREATE OR REPLACE FUNCTION peersync.capture_choice(
    facts jsonb, tbl integer, keep_old boolean, op text, source text)
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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
END $$;

-- The statement for a relation as it is now, for when its function is out of date: looks the rows
-- up, and registers the shape, too. `tbl` is the number that the function has, used where the table has none yet.
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
    RETURN peersync.capture_statement(facts || '{"direct": []}', coalesce(known, capture_anew.tbl),
                                      keep_old, op, source);
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
