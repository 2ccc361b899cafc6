-- What has expired, and whether the archive and the originals agree.

-- name: holdings(institution_id, granularity, cutoff)
-- ACTIVE rows older than the cutoff, as the planner is told of them.
SELECT type, snapshot_date, active_until, count(*),
       sum(pg_column_size(entries) + pg_column_size(metadata) + pg_column_size(distribution))
FROM lb.leaderboard_snapshots
WHERE institution_id = :institution_id AND time_granularity = :granularity
  AND status = 'ACTIVE' AND snapshot_date < :cutoff
GROUP BY type, snapshot_date, active_until
ORDER BY type, snapshot_date, active_until;

-- name: due_days(institution_id, institution_key, granularity, cutoff, today)
-- Where a sweep has something to do; the sweep asks the same of each row again.
SELECT s.type, s.snapshot_date, count(*)
FROM lb.leaderboard_snapshots s
WHERE s.institution_id = :institution_id AND s.time_granularity = :granularity
  AND s.status = 'ACTIVE' AND s.snapshot_date < :cutoff
  AND (s.active_until IS NULL OR s.active_until < :today)
  AND NOT EXISTS (
      SELECT FROM lb.legal_holds h
      WHERE h.institution_key = :institution_key AND h.released_at IS NULL
        AND (h.until IS NULL OR h.until >= :today)
        AND (h.type IS NULL OR h.type = s.type)
        AND (h.first_month IS NULL OR h.first_month <= s.snapshot_date)
        AND (h.last_month IS NULL OR s.snapshot_date < h.last_month + interval '1 month'))
GROUP BY s.type, s.snapshot_date
ORDER BY s.type, s.snapshot_date;
