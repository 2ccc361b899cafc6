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

-- name: any_of_day(institution_id, type, day)$
SELECT EXISTS (
    SELECT FROM lb.leaderboard_snapshots
    WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day);
