-- Writing the trends of one (institution, type, day).

-- name: copy_in()!
COPY lb.leaderboard_trends (
    institution_id, type, reference_id, time_granularity, snapshot_date, baseline_date,
    leader_since, ranked, ranked_change, mean, mean_change, median, median_change,
    retained_share, rank_correlation, leader_id, content_hash, movement, students, metadata)
FROM STDIN (FORMAT BINARY);

-- name: prepare_stage()#
CREATE TEMPORARY TABLE IF NOT EXISTS staged_trends (
    institution_id text COLLATE "C", type text COLLATE "C", reference_id text COLLATE "C",
    time_granularity text COLLATE "C", snapshot_date date, baseline_date date, leader_since date,
    ranked integer, ranked_change integer, mean double precision, mean_change double precision,
    median double precision, median_change double precision, retained_share double precision,
    rank_correlation double precision, leader_id text COLLATE "C", content_hash bytea,
    movement jsonb, students jsonb, metadata jsonb)
ON COMMIT DELETE ROWS;

-- name: copy_to_stage()!
COPY staged_trends FROM STDIN (FORMAT BINARY);

-- name: upsert(institution_id, type, day)!
INSERT INTO lb.leaderboard_trends AS t (
    institution_id, type, reference_id, time_granularity, snapshot_date, baseline_date,
    leader_since, ranked, ranked_change, mean, mean_change, median, median_change,
    retained_share, rank_correlation, leader_id, content_hash, movement, students, metadata)
SELECT institution_id, type, reference_id, time_granularity, snapshot_date, baseline_date,
       leader_since, ranked, ranked_change, mean, mean_change, median, median_change,
       retained_share, rank_correlation, leader_id, content_hash, movement, students, metadata
FROM staged_trends
WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day
ON CONFLICT (institution_id, type, reference_id, time_granularity, snapshot_date) DO UPDATE SET
    baseline_date = excluded.baseline_date, leader_since = excluded.leader_since,
    ranked = excluded.ranked, ranked_change = excluded.ranked_change, mean = excluded.mean,
    mean_change = excluded.mean_change, median = excluded.median,
    median_change = excluded.median_change, retained_share = excluded.retained_share,
    rank_correlation = excluded.rank_correlation, leader_id = excluded.leader_id,
    content_hash = excluded.content_hash, movement = excluded.movement,
    students = excluded.students, metadata = excluded.metadata, created_at = excluded.created_at
WHERE t.content_hash <> excluded.content_hash OR t.leader_since <> excluded.leader_since;

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

-- name: lock_leads(institution_key, type)$
-- Until the transaction ends: a lead runs over many days, so writers of any of them take turns.
SELECT pg_advisory_xact_lock(hashtextextended('lb_pipelines:leads:' || :type, :institution_key));

-- name: wrong_leads(institution_id, type, day, next_day)
-- Leads of the next day that do not say what follows from this day as it stands now: that of the
-- same student goes on, any other one begins.
SELECT next.reference_id, next.time_granularity, next.leader_id, next.leader_since, right_.since
FROM lb.leaderboard_trends next
LEFT JOIN lb.leaderboard_trends ours
  ON ours.institution_id = :institution_id AND ours.type = :type AND ours.snapshot_date = :day
 AND ours.reference_id = next.reference_id AND ours.time_granularity = next.time_granularity
CROSS JOIN LATERAL (
    SELECT CASE WHEN ours.leader_id = next.leader_id THEN ours.leader_since ELSE :next_day::date END
) AS right_ (since)
WHERE next.institution_id = :institution_id AND next.type = :type
  AND next.snapshot_date = :next_day AND next.leader_since <> right_.since;

-- name: correct_leads(institution_id, type, next_day, references, granularities, leaders, was, since)
-- On the next day and on all days to which the same lead reached; gives their months.
WITH corrected AS (
UPDATE lb.leaderboard_trends t
SET leader_since = wrong.since
FROM unnest(:references::text[], :granularities::text[], :leaders::text[], :was::date[],
            :since::date[]) AS wrong (reference_id, time_granularity, leader_id, was, since)
WHERE t.institution_id = :institution_id AND t.type = :type AND t.snapshot_date >= :next_day
  AND t.reference_id = wrong.reference_id AND t.time_granularity = wrong.time_granularity
  AND t.leader_id = wrong.leader_id AND t.leader_since = wrong.was
RETURNING t.snapshot_date
)
SELECT DISTINCT date_trunc('month', snapshot_date)::date FROM corrected;
