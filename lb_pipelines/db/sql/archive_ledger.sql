-- Who moved what into the archive and back. Counts and digests grow with the rows, in archive.sql.

-- name: begin(institution_key, kind, granularity, today, cutoff, until, selection, started_by, run_id)$
INSERT INTO lb.archive_runs (
    institution_key, kind, time_granularity, today, cutoff, active_until, selection, started_by,
    run_id)
VALUES (:institution_key, :kind, :granularity, :today, :cutoff, :until, :selection, :started_by,
        :run_id)
RETURNING archive_run;

-- name: finish(archive_run)!
UPDATE lb.archive_runs SET finished_at = clock_timestamp() WHERE archive_run = :archive_run;

-- name: find(archive_run)^
SELECT archive_run, kind, time_granularity, today, cutoff, active_until, selection, rows, bytes,
       digest_high, digest_low, started_at, finished_at, started_by, run_id
FROM lb.archive_runs
WHERE archive_run = :archive_run;

-- name: latest(institution_key, at_most)
SELECT archive_run, kind, time_granularity, today, cutoff, active_until, selection, rows, bytes,
       digest_high, digest_low, started_at, finished_at, started_by, run_id
FROM lb.archive_runs
WHERE institution_key = :institution_key
ORDER BY archive_run DESC
LIMIT :at_most;

-- name: totals(institution_key, today)
-- What all sweeps as of one day have moved, by granularity.
SELECT time_granularity, max(cutoff), count(*), sum(rows)::bigint, sum(bytes)::bigint,
       bit_xor(digest_high), bit_xor(digest_low)
FROM lb.archive_runs
WHERE institution_key = :institution_key AND today = :today AND kind = 'SWEEP'
GROUP BY time_granularity;
