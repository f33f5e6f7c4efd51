-- Gives every committed change that has none yet its place in this database's order.
--
-- "id > the last one" loses whoever took an id early and commits late; "xid below the oldest
-- open one" waits for every long transaction. So the last look is remembered as a snapshot,
-- and what is new is what is visible now and was not then. Two transactions of one look are
-- ordered by their highest change id: whoever writes a row waits for its earlier writer to
-- commit, and only then takes an id, so for each row this is the order of commits.
--
-- The calling transaction's own xid is missing in its snapshot although it has not ended: it
-- is put there, or changes that it makes after this call would count as published.
--
-- Changes of a transaction that is still open are stepped over by ranges, not filtered out:
-- a load of a million rows must not be read again by each look.
CREATE OR REPLACE FUNCTION peersync.publish(
    OUT published integer, OUT "position" bigint, OUT hlc bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off  -- how much of the table a range of xids holds, the planner can only guess
SET jit = off
SET work_mem = '32MB'  -- a backlog is counted in memory
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

-- Keeps the changes of these ranges of xids to this database. They get no position: what nobody
-- is given must not be waited for, and must not look like something that others have seen.
CREATE OR REPLACE FUNCTION peersync.withhold(lows xid8[], highs xid8[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
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

-- A transaction without changes: heartbeat, join, leave, expire. What is pending goes first.
-- Null where this database takes no part now.
CREATE OR REPLACE FUNCTION peersync.announce(
    kind "char", info jsonb, OUT "position" bigint, OUT hlc bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- What is committed now, to this transaction; itself is not.
CREATE OR REPLACE FUNCTION peersync.snapshot_without_self() RETURNS pg_snapshot
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- The xids that are visible in `later` and not in `earlier`, as ranges that leave out the others.
CREATE OR REPLACE FUNCTION peersync.ended_between(earlier pg_snapshot, later pg_snapshot)
RETURNS TABLE (low xid8, high xid8)
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
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

-- {"origin": position} of what is applied here of the others.
CREATE OR REPLACE FUNCTION peersync.vector_without(own bigint) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(m.origin::text, m.applied), '{}')
      FROM peersync.member AS m WHERE m.origin <> own AND m.applied > 0
$$;

-- Microseconds since 1970.
CREATE OR REPLACE FUNCTION peersync.micros(at timestamptz) RETURNS bigint
LANGUAGE sql STABLE
RETURN (extract(epoch FROM at) * 1000000)::bigint;
