-- What the catalog knows of leaves and subtrees (schema lb_part). The DDL itself is built in
-- lb_pipelines/db/partitions: names cannot be parameters.

-- name: attached(names)
-- Those of the names that are partitions of something now; one that is being detached is not.
SELECT c.relname::text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND NOT i.inhdetachpending
WHERE c.relnamespace = 'lb_part'::regnamespace
  AND c.relname = ANY (CAST(:names AS name[]));

-- name: relation_exists(name)$
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'lb_part'::regnamespace AND c.relname = CAST(:name AS name));

-- name: leaves()
-- Every leaf that counts against the budget (months of events do not), with the top of its subtree.
WITH RECURSIVE below AS (
    SELECT i.inhrelid, c.relkind, c.relname AS top, c.relname
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('lb.leaderboard_snapshots'::regclass, 'lb.leaderboard_trends'::regclass)
  UNION ALL
    SELECT i.inhrelid, c.relkind, below.top, c.relname
    FROM below
    JOIN pg_catalog.pg_inherits i ON i.inhparent = below.inhrelid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE below.relkind = 'p'
)
SELECT top::text, relname::text FROM below WHERE relkind = 'r' ORDER BY relname;

-- name: institutions_by_size()
-- Size is enrolments: known before the first snapshot, one count over one table, and steady, so
-- that nobody moves because of a long history.
SELECT i.id, i.status = 'ACTIVE', count(e.student_key)
FROM lb.institutions i
LEFT JOIN lb.enrollments e USING (institution_key)
GROUP BY i.id, i.status
ORDER BY i.id;

-- name: shared_months_with_rows(institution_ids, months)
-- One probe of an index per institution, month and tree, however many rows there are.
SELECT i.id, m.month
FROM unnest(CAST(:institution_ids AS text[])) AS i (id)
CROSS JOIN unnest(CAST(:months AS date[])) AS m (month)
WHERE EXISTS (
        SELECT FROM lb_part."shared:all" s
        WHERE s.institution_id = i.id
          AND s.snapshot_date >= m.month AND s.snapshot_date < m.month + interval '1 month')
   OR EXISTS (
        SELECT FROM lb_part."shared:all:trends" t
        WHERE t.institution_id = i.id
          AND t.snapshot_date >= m.month AND t.snapshot_date < m.month + interval '1 month')
ORDER BY i.id, m.month;

-- name: written_columns(root)
-- The columns of a root that a row brings itself (generated ones follow from them).
SELECT attname::text
FROM pg_catalog.pg_attribute
WHERE attrelid = CAST(:root AS regclass) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum;

-- name: offers_lz4()$
SELECT 'lz4' = ANY (enumvals) FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression';

-- name: has_rows(institution_id)$
SELECT EXISTS (SELECT FROM lb.leaderboard_snapshots WHERE institution_id = :institution_id)
    OR EXISTS (SELECT FROM lb.leaderboard_trends WHERE institution_id = :institution_id);

-- name: lock_for_transaction(key)$
SELECT pg_advisory_xact_lock(hashtextextended(:key, 27746));

-- name: lock(key)$
SELECT pg_advisory_lock(hashtextextended(:key, 27746));

-- name: try_lock(key)$
SELECT pg_try_advisory_lock(hashtextextended(:key, 27746));

-- name: unlock(key)$
SELECT pg_advisory_unlock(hashtextextended(:key, 27746));

-- name: standing(name)$
-- As lb_pipelines.db.partitions.detaching.Standing has it.
SELECT coalesce((
    SELECT CASE WHEN i.inhrelid IS NULL THEN 'alone' WHEN i.inhdetachpending THEN 'pending'
                ELSE 'attached' END
    FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
    WHERE c.relnamespace = 'lb_part'::regnamespace AND c.relname = CAST(:name AS name)), 'absent');

-- name: pending_below(parent)
-- Leaves of a branch whose detach was begun and not ended.
SELECT c.relname::text
FROM pg_catalog.pg_class p
JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid AND i.inhdetachpending
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE p.relnamespace = 'lb_part'::regnamespace AND p.relname = CAST(:parent AS name);

-- name: own_checks(name)
SELECT k.conname::text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype = 'c' AND k.coninhcount = 0
WHERE c.relnamespace = 'lb_part'::regnamespace AND c.relname = CAST(:name AS name);

-- name: watch_events(relation)$
-- A leaf of events enters its changes by itself: a statement that names it fires no trigger of the
-- root.
SELECT lb.watch_events(CAST(:relation AS regclass));
