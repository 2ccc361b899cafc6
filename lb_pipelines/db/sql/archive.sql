-- Snapshots on their way into the archive and back.

-- name: sweep(institution_id, institution_key, granularity, cutoff, today, start_month, archive_run, batch_rows)^
-- One batch: archived and marked in one statement, so that a row is in one place whatever happens.
-- What somebody else is writing is left to a later batch. A legal hold is asked for here again,
-- whatever the plan said.
WITH due AS (
    SELECT type, reference_id, snapshot_date
    FROM lb.leaderboard_snapshots s
    WHERE institution_id = :institution_id AND time_granularity = :granularity
      AND status = 'ACTIVE' AND snapshot_date < :cutoff
      AND (active_until IS NULL OR active_until < :today)
      AND NOT EXISTS (
          SELECT FROM lb.legal_holds h
          WHERE h.institution_key = :institution_key AND h.released_at IS NULL
            AND (h.until IS NULL OR h.until >= :today)
            AND (h.type IS NULL OR h.type = s.type)
            AND (h.first_month IS NULL OR h.first_month <= s.snapshot_date)
            AND (h.last_month IS NULL OR s.snapshot_date < h.last_month + interval '1 month'))
    LIMIT :batch_rows
    FOR NO KEY UPDATE SKIP LOCKED
), marked AS (
    UPDATE lb.leaderboard_snapshots s SET status = 'ARCHIVED', active_until = NULL
    FROM due
    WHERE s.institution_id = :institution_id AND s.time_granularity = :granularity
      AND s.type = due.type AND s.reference_id = due.reference_id
      AND s.snapshot_date = due.snapshot_date AND s.snapshot_date < :cutoff
    RETURNING s.*
), archived AS (
    INSERT INTO lb.archived_leaderboard_snapshots (
        archive_run, created_at, snapshot_date, period_start, revision, institution_id, type,
        reference_id, time_granularity, academic_year, term_id, content_hash, entries, metadata,
        distribution)
    SELECT :archive_run, m.created_at, m.snapshot_date, m.period_start,
           coalesce((SELECT max(r.revision) FROM lb.archive_revisions r
                     WHERE r.institution_key = :institution_key AND r.original_id = m.id), 1),
           m.institution_id, m.type, m.reference_id, m.time_granularity,
           year.first || '-' || year.first + 1, t.term_id, m.content_hash, m.entries, m.metadata,
           m.distribution
    FROM marked m
    LEFT JOIN LATERAL (
        SELECT t.id AS term_id FROM lb.terms t
        WHERE t.institution_key = :institution_key
          AND CASE m.type
              WHEN 'CLASS' THEN t.term_key = (
                  SELECT c.term_key FROM lb.classes c
                  WHERE c.institution_key = :institution_key AND c.id = m.reference_id)
              WHEN 'SUBJECT' THEN m.snapshot_date BETWEEN t.starts_on AND t.ends_on AND EXISTS (
                  SELECT FROM lb.classes c
                  JOIN lb.subjects j USING (institution_key, subject_key)
                  WHERE c.institution_key = :institution_key AND j.id = m.reference_id
                    AND c.term_key = t.term_key)
              ELSE m.snapshot_date BETWEEN t.starts_on AND t.ends_on
          END
        -- As core.periods.institution_term chooses where several hold the day.
        ORDER BY t.starts_on DESC, t.ends_on DESC, t.id
        LIMIT 1
    ) AS t ON true
    CROSS JOIN LATERAL (
        SELECT extract(year FROM m.snapshot_date)::integer
               - (extract(month FROM m.snapshot_date) < :start_month)::integer AS first
    ) AS year
    RETURNING original_id, content_hash, entries, metadata, distribution
), moved AS (
    SELECT count(*) AS rows,
           coalesce(sum(pg_column_size(entries) + pg_column_size(metadata)
                        + pg_column_size(distribution)), 0) AS bytes,
           coalesce(bit_xor(lb.digest_high(original_id, content_hash)), 0) AS high,
           coalesce(bit_xor(lb.digest_low(original_id, content_hash)), 0) AS low
    FROM archived
), entered AS (
    UPDATE lb.archive_runs r
    SET rows = r.rows + m.rows, bytes = r.bytes + m.bytes,
        digest_high = r.digest_high # m.high, digest_low = r.digest_low # m.low
    FROM moved m
    WHERE r.archive_run = :archive_run AND m.rows > 0
)
SELECT rows, bytes FROM moved;
