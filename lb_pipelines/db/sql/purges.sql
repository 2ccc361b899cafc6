-- Purges: what stands where, what may go, and the ledger of what went. {relation} is a tree or a
-- table that stands alone, filled in by repositories/purges.py.

-- name: partitions(institution_id)
-- Every partition that holds archived originals, by what the live table alone says.
SELECT type, date_trunc('month', snapshot_date)::date AS month, count(*),
       sum(pg_column_size(entries) + pg_column_size(metadata) + pg_column_size(distribution))
           ::bigint,
       count(*) FILTER (WHERE status = 'ACTIVE')
FROM lb.leaderboard_snapshots
WHERE institution_id = :institution_id
GROUP BY 1, 2
HAVING bool_or(status = 'ARCHIVED')
ORDER BY 2, 1;

-- name: tally(institution_id, type, first, last, years)^
-- A partition's originals held against their copies, and what they are together.
SELECT count(*),
       coalesce(sum(pg_column_size(s.entries) + pg_column_size(s.metadata)
                    + pg_column_size(s.distribution)), 0)::bigint,
       count(*) FILTER (WHERE s.status = 'ACTIVE'),
       count(*) FILTER (WHERE s.status = 'ARCHIVED'
                          AND a.content_hash IS DISTINCT FROM s.content_hash),
       max(a.archived_at),
       coalesce(bit_xor(lb.digest_high(s.id, s.content_hash)), 0),
       coalesce(bit_xor(lb.digest_low(s.id, s.content_hash)), 0)
FROM {relation} s
LEFT JOIN (
    SELECT original_id, content_hash, archived_at
    FROM lb.archived_leaderboard_snapshots
    WHERE institution_id = :institution_id AND type = :type
      AND snapshot_date BETWEEN :first AND :last AND academic_year = ANY (:years)
) AS a ON a.original_id = s.id
WHERE s.institution_id = :institution_id AND s.type = :type
  AND s.snapshot_date BETWEEN :first AND :last;

-- name: unaccounted(institution_id, institution_key, type, first, last, years, detached_at)$
-- Originals set aside that nothing stands for: no equal copy in the archive, none that has come
-- there since (made live from the copy, materialized again, archived again), no snapshot that is
-- live now, no entry that says that the copy was renewed on purpose.
SELECT count(*)
FROM {relation} s
LEFT JOIN (
    SELECT original_id, content_hash, archived_at
    FROM lb.archived_leaderboard_snapshots
    WHERE institution_id = :institution_id AND type = :type
      AND snapshot_date BETWEEN :first AND :last AND academic_year = ANY (:years)
) AS a ON a.original_id = s.id
WHERE s.institution_id = :institution_id AND s.type = :type
  AND s.snapshot_date BETWEEN :first AND :last
  AND a.content_hash IS DISTINCT FROM s.content_hash
  AND a.archived_at > :detached_at IS NOT TRUE
  AND NOT EXISTS (
      SELECT FROM lb.archive_revisions r
      WHERE r.institution_key = :institution_key AND r.original_id = s.id
        AND r.old_hash = s.content_hash
        -- The archive has the later content, or nothing where no board was left.
        AND (a.original_id IS NOT NULL OR EXISTS (
            SELECT FROM lb.archive_revisions v
            WHERE v.institution_key = :institution_key AND v.original_id = s.id
              AND v.new_hash IS NULL)))
  AND NOT EXISTS (
      SELECT FROM lb.leaderboard_snapshots l
      WHERE l.institution_id = :institution_id AND l.type = :type
        AND l.reference_id = s.reference_id AND l.time_granularity = s.time_granularity
        AND l.snapshot_date = s.snapshot_date AND l.snapshot_date BETWEEN :first AND :last);

-- name: catch_up(institution_id, institution_key, type, first, last, years)!
-- Originals that stand outside the tree, whose copies were renewed meanwhile, as the ledger says.
-- One that differs without an entry is damage, and left for whoever weighs it to tell of.
UPDATE {relation} s
SET period_start = a.period_start, entries = a.entries, metadata = a.metadata,
    distribution = a.distribution, content_hash = a.content_hash, created_at = a.created_at
FROM lb.archived_leaderboard_snapshots a
WHERE s.institution_id = :institution_id AND s.status = 'ARCHIVED'
  AND a.institution_id = :institution_id AND a.type = :type
  AND a.snapshot_date BETWEEN :first AND :last AND a.academic_year = ANY (:years)
  AND a.original_id = s.id AND a.content_hash <> s.content_hash
  AND EXISTS (
      SELECT FROM lb.archive_revisions r
      WHERE r.institution_key = :institution_key AND r.original_id = s.id
        AND r.old_hash = s.content_hash);

-- name: remove_gone(institution_id, institution_key, type, first, last, years)!
-- The same of boards that have no ranked student any more, and no copy.
DELETE FROM {relation} s
WHERE s.institution_id = :institution_id AND s.status = 'ARCHIVED'
  AND EXISTS (
      SELECT FROM lb.archive_revisions r
      WHERE r.institution_key = :institution_key AND r.original_id = s.id
        AND r.old_hash = s.content_hash)
  AND EXISTS (
      SELECT FROM lb.archive_revisions r
      WHERE r.institution_key = :institution_key AND r.original_id = s.id
        AND r.new_hash IS NULL)
  AND NOT EXISTS (
      SELECT FROM lb.archived_leaderboard_snapshots a
      WHERE a.institution_id = :institution_id AND a.type = :type
        AND a.snapshot_date BETWEEN :first AND :last AND a.academic_year = ANY (:years)
        AND a.original_id = s.id);

-- name: set_aside(institution_id, type, first, last)!
-- Out of the shared subtree; what has become ACTIVE would have stopped the purge before.
WITH gone AS (
    DELETE FROM lb.leaderboard_snapshots
    WHERE institution_id = :institution_id AND type = :type
      AND snapshot_date BETWEEN :first AND :last
    RETURNING *
)
INSERT INTO {relation} ({columns}) SELECT {columns} FROM gone;

-- name: put_back()!
-- Into whichever tree the institution has now; a snapshot that was made again is the later one.
INSERT INTO lb.leaderboard_snapshots ({columns}) SELECT {columns} FROM {relation}
ON CONFLICT (institution_id, type, reference_id, time_granularity, snapshot_date) DO NOTHING;

-- name: enter(institution_key, type, month, relation, rows, bytes, high, low, drop_after, started_by, run_id)$
INSERT INTO lb.purges (
    institution_key, type, month, state, relation, rows, bytes, digest_high, digest_low,
    drop_after, started_by, run_id)
VALUES (:institution_key, :type, :month, 'DETACHING', :relation, :rows, :bytes, :high, :low,
        :drop_after, :started_by, :run_id)
RETURNING purge;

-- name: set_detached(purge, rows, bytes, high, low, drop_after)!
UPDATE lb.purges
SET state = 'DETACHED', rows = :rows, bytes = :bytes, digest_high = :high, digest_low = :low,
    drop_after = :drop_after, detached_at = now()
WHERE purge = :purge AND state = 'DETACHING';

-- name: set_export(purge, export)!
UPDATE lb.purges SET export = :export WHERE purge = :purge AND state = 'DETACHED';

-- name: set_kept(purge)!
UPDATE lb.purges SET state = 'KEPT' WHERE purge = :purge AND state IN ('DETACHING', 'DETACHED');

-- name: set_dropped(purge)!
UPDATE lb.purges SET state = 'DROPPED', dropped_at = now()
WHERE purge = :purge AND state = 'DETACHED';

-- name: retally(purge)!
-- After the rows set aside were changed on purpose.
UPDATE lb.purges p SET rows = t.rows, digest_high = t.high, digest_low = t.low
FROM (
    SELECT count(*) AS rows, coalesce(bit_xor(lb.digest_high(id, content_hash)), 0) AS high,
           coalesce(bit_xor(lb.digest_low(id, content_hash)), 0) AS low
    FROM {relation}
) AS t
WHERE p.purge = :purge;

-- name: of_institution(institution_key, under_way)
SELECT p.purge, p.type, p.month, p.state, p.relation, p.rows, p.bytes, p.digest_high, p.digest_low,
       p.drop_after, p.export, e.directory, e.manifest_sha256, p.started_at, p.detached_at,
       p.dropped_at, p.started_by, p.run_id
FROM lb.purges p
LEFT JOIN lb.exports e USING (export)
WHERE p.institution_key = :institution_key
  AND (NOT :under_way OR p.state IN ('DETACHING', 'DETACHED'))
ORDER BY p.purge;
