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

-- name: count_leaves()$
-- Leaves below the two roots that count against the budget (months of events do not).
WITH RECURSIVE below AS (
    SELECT i.inhrelid, c.relkind
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('lb.leaderboard_snapshots'::regclass, 'lb.leaderboard_trends'::regclass)
  UNION ALL
    SELECT i.inhrelid, c.relkind
    FROM below
    JOIN pg_catalog.pg_inherits i ON i.inhparent = below.inhrelid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE below.relkind = 'p'
)
SELECT count(*) FROM below WHERE relkind = 'r';

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
