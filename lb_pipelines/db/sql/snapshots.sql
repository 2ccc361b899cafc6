-- Writing the snapshots of one (institution, type, day).

-- name: copy_in()!
COPY lb.leaderboard_snapshots (
    institution_id, type, reference_id, time_granularity, snapshot_date, period_start,
    entries, metadata, distribution, content_hash)
FROM STDIN (FORMAT BINARY);

-- name: prepare_stage()#
CREATE TEMPORARY TABLE IF NOT EXISTS staged_snapshots (
    institution_id text COLLATE "C", type text COLLATE "C", reference_id text COLLATE "C",
    time_granularity text COLLATE "C", snapshot_date date, period_start date, entries jsonb,
    metadata jsonb, distribution bytea, content_hash bytea)
ON COMMIT DELETE ROWS;

-- name: copy_to_stage()!
COPY staged_snapshots FROM STDIN (FORMAT BINARY);

-- name: upsert(institution_id, type, day)!
-- An archived row is not touched, an equal one not written again.
INSERT INTO lb.leaderboard_snapshots AS s (
    institution_id, type, reference_id, time_granularity, snapshot_date, period_start,
    entries, metadata, distribution, content_hash)
SELECT institution_id, type, reference_id, time_granularity, snapshot_date, period_start,
       entries, metadata, distribution, content_hash
FROM staged_snapshots
WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day
ON CONFLICT (institution_id, type, reference_id, time_granularity, snapshot_date) DO UPDATE SET
    period_start = excluded.period_start, entries = excluded.entries,
    metadata = excluded.metadata, distribution = excluded.distribution,
    content_hash = excluded.content_hash, created_at = excluded.created_at
WHERE s.status = 'ACTIVE' AND s.content_hash <> excluded.content_hash;

-- name: remove_vanished(institution_id, type, day)!
-- Boards that have no ranked student any more.
DELETE FROM lb.leaderboard_snapshots s
WHERE s.institution_id = :institution_id AND s.type = :type AND s.snapshot_date = :day
  AND s.status = 'ACTIVE'
  AND NOT EXISTS (
      SELECT FROM staged_snapshots g
      WHERE g.institution_id = s.institution_id AND g.type = s.type
        AND g.reference_id = s.reference_id AND g.time_granularity = s.time_granularity
        AND g.snapshot_date = s.snapshot_date);

-- name: any_of_day(institution_id, type, day, academic_years)^
-- Whether the day has rows in the table, and whether in the archive, be it only there. Also where
-- policies hold this user: under them PostgreSQL refuses COPY straight into the table.
SELECT row_security_active('lb.leaderboard_snapshots') OR EXISTS (
           SELECT FROM lb.leaderboard_snapshots
           WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day),
       EXISTS (
           SELECT FROM lb.archived_leaderboard_snapshots
           WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day
             AND academic_year = ANY (:academic_years));

-- name: archived_of_day(institution_id, type, day, academic_years)^
-- Rows in the archive, and how many of them, or of their originals, do not say what is staged.
SELECT count(*),
       count(*) FILTER (WHERE g.content_hash IS DISTINCT FROM a.content_hash
                           OR s.content_hash <> a.content_hash)
FROM lb.archived_leaderboard_snapshots a
LEFT JOIN staged_snapshots g
  ON g.reference_id = a.reference_id AND g.time_granularity = a.time_granularity
LEFT JOIN lb.leaderboard_snapshots s
  ON s.institution_id = :institution_id AND s.type = :type AND s.snapshot_date = :day
 AND s.reference_id = a.reference_id AND s.time_granularity = a.time_granularity
 AND s.status = 'ARCHIVED'
WHERE a.institution_id = :institution_id AND a.type = :type AND a.snapshot_date = :day
  AND a.academic_year = ANY (:academic_years);

-- name: leave_archived(institution_id, type, day, academic_years)!
-- What is in the archive does not come into the table: its original stands there, or was purged,
-- or it was imported and never had one.
DELETE FROM staged_snapshots g
USING lb.archived_leaderboard_snapshots a
WHERE a.institution_id = :institution_id AND a.type = :type AND a.snapshot_date = :day
  AND a.academic_year = ANY (:academic_years)
  AND g.reference_id = a.reference_id AND g.time_granularity = a.time_granularity;
