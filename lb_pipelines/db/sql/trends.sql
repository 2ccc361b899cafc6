-- Writing the trends of one (institution, type, day).

-- name: copy_in()!
COPY lb.leaderboard_trends (
    institution_id, type, reference_id, time_granularity, snapshot_date, baseline_date,
    leader_since, ranked, ranked_change, mean, mean_change, median, median_change,
    retained_share, rank_correlation, spearman_rho, leader_id, content_hash, movement, students, metadata)
FROM STDIN (FORMAT BINARY);

-- name: prepare_stage()#
CREATE TEMPORARY TABLE IF NOT EXISTS staged_trends (
    institution_id text COLLATE "C", type text COLLATE "C", reference_id text COLLATE "C",
    time_granularity text COLLATE "C", snapshot_date date, baseline_date date, leader_since date,
    ranked integer, ranked_change integer, mean double precision, mean_change double precision,
    median double precision, median_change double precision, retained_share double precision,
    rank_correlation double precision, spearman_rho double precision, leader_id text COLLATE "C", content_hash bytea,
    movement jsonb, students jsonb, metadata jsonb)
ON COMMIT DELETE ROWS;

-- name: copy_to_stage()!
COPY staged_trends FROM STDIN (FORMAT BINARY);

-- name: upsert(institution_id, type, day)!
INSERT INTO lb.leaderboard_trends AS t (
    institution_id, type, reference_id, time_granularity, snapshot_date, baseline_date,
    leader_since, ranked, ranked_change, mean, mean_change, median, median_change,
    retained_share, rank_correlation, spearman_rho, leader_id, content_hash, movement, students, metadata)
SELECT institution_id, type, reference_id, time_granularity, snapshot_date, baseline_date,
       leader_since, ranked, ranked_change, mean, mean_change, median, median_change,
       retained_share, rank_correlation, spearman_rho, leader_id, content_hash, movement, students, metadata
FROM staged_trends
WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day
ON CONFLICT (institution_id, type, reference_id, time_granularity, snapshot_date) DO UPDATE SET
    baseline_date = excluded.baseline_date, leader_since = excluded.leader_since,
    ranked = excluded.ranked, ranked_change = excluded.ranked_change, mean = excluded.mean,
    mean_change = excluded.mean_change, median = excluded.median,
    median_change = excluded.median_change, retained_share = excluded.retained_share,
    rank_correlation = excluded.rank_correlation, spearman_rho = excluded.spearman_rho,
    leader_id = excluded.leader_id,
    content_hash = excluded.content_hash, movement = excluded.movement,
    students = excluded.students, metadata = excluded.metadata, created_at = excluded.created_at
-- The hash does not hold since when the leader leads; and a way back over the migration that brought
-- rho, and forth, leaves it null under the hash of a row that had one.
WHERE t.content_hash <> excluded.content_hash OR t.leader_since <> excluded.leader_since
   OR t.spearman_rho IS DISTINCT FROM excluded.spearman_rho;

-- name: remove_vanished(institution_id, type, day)!
DELETE FROM lb.leaderboard_trends t
WHERE t.institution_id = :institution_id AND t.type = :type AND t.snapshot_date = :day
  AND NOT EXISTS (
      SELECT FROM staged_trends g
      WHERE g.institution_id = t.institution_id AND g.type = t.type
        AND g.reference_id = t.reference_id AND g.time_granularity = t.time_granularity
        AND g.snapshot_date = t.snapshot_date);

-- name: any_of_day(institution_id, type, day)$
-- Also where policies hold this user: under them PostgreSQL refuses COPY straight into the table.
SELECT row_security_active('lb.leaderboard_trends') OR EXISTS (
    SELECT FROM lb.leaderboard_trends
    WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day);

-- name: leaders(institution_id, type, day)
SELECT reference_id, time_granularity, leader_id, leader_since
FROM lb.leaderboard_trends
WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day;
