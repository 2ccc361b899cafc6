-- Snapshots on their way into the archive and back, and the archive as it is read.

-- name: sweep(institution_id, institution_key, type, granularity, first, last, cutoff, today, academic_year, archive_run, batch_rows)^
-- One batch: archived and marked in one statement, so that a row is in one place whatever happens.
-- Type and days (of one month) are constants, so one leaf is touched and a ctid means one row in
-- it: what is archived already costs nothing. What somebody else is writing is left to a later
-- batch. A legal hold is asked for here again, whatever the plan said.
WITH due AS MATERIALIZED (
    SELECT s.ctid
    FROM lb.leaderboard_snapshots s
    WHERE s.institution_id = :institution_id AND s.type = :type
      AND s.time_granularity = :granularity AND s.status = 'ACTIVE'
      AND s.snapshot_date BETWEEN :first AND :last AND s.snapshot_date < :cutoff
      AND (s.active_until IS NULL OR s.active_until < :today)
      AND NOT EXISTS (
          SELECT FROM lb.legal_holds h
          WHERE h.institution_key = :institution_key AND h.released_at IS NULL
            AND (h.until IS NULL OR h.until >= :today)
            AND (h.type IS NULL OR h.type = s.type)
            AND (h.first_month IS NULL OR h.first_month <= s.snapshot_date)
            AND (h.last_month IS NULL OR s.snapshot_date < h.last_month + interval '1 month'))
    LIMIT :batch_rows
    FOR NO KEY UPDATE OF s SKIP LOCKED
), marked AS (
    -- time_granularity is set to itself because id is generated from it: an UPDATE that no
    -- generated column depends on makes PostgreSQL 16 to 18 parse the generation expressions again
    -- for every row (25 us of 65).
    UPDATE lb.leaderboard_snapshots s SET status = 'ARCHIVED', active_until = NULL, time_granularity = s.time_granularity
    WHERE s.ctid = ANY (ARRAY(SELECT due.ctid FROM due))
      AND s.institution_id = :institution_id AND s.type = :type
      AND s.time_granularity = :granularity AND s.status = 'ACTIVE'
      AND s.snapshot_date BETWEEN :first AND :last AND s.snapshot_date < :cutoff
    RETURNING s.*
), board_terms AS (
    -- The terms that the batch needs, made once: as a lookup in JSON they cost a row nothing, and
    -- no plan over rows without statistics can go wrong. Keys: of a class its id, of a subject the
    -- day and its id, of a campus the day. Where several terms hold the day the choice is that of
    -- core.periods.institution_term.
    SELECT CASE :type
        WHEN 'CLASS' THEN (
            SELECT jsonb_object_agg(c.id, t.id)
            FROM lb.classes c
            JOIN lb.terms t USING (institution_key, term_key)
            WHERE c.institution_key = :institution_key)
        WHEN 'SUBJECT' THEN (
            SELECT jsonb_object_agg(day || ':' || subject, term)
            FROM (
                SELECT DISTINCT ON (day, j.id) day::date AS day, j.id AS subject, t.id AS term
                FROM lb.classes c
                JOIN lb.subjects j USING (institution_key, subject_key)
                JOIN lb.terms t USING (institution_key, term_key)
                CROSS JOIN generate_series(
                    greatest(t.starts_on, :first), least(t.ends_on, :last), interval '1 day'
                ) AS day
                WHERE c.institution_key = :institution_key
                ORDER BY day, j.id, t.starts_on DESC, t.ends_on DESC, t.id
            ) AS held)
        ELSE (
            SELECT jsonb_object_agg(day, term)
            FROM (
                SELECT DISTINCT ON (day) day::date AS day, t.id AS term
                FROM lb.terms t
                CROSS JOIN generate_series(
                    greatest(t.starts_on, :first), least(t.ends_on, :last), interval '1 day'
                ) AS day
                WHERE t.institution_key = :institution_key
                ORDER BY day, t.starts_on DESC, t.ends_on DESC, t.id
            ) AS held)
    END AS by_board
), moved AS (
    SELECT count(*) AS rows,
           coalesce(sum(pg_column_size(entries) + pg_column_size(metadata)
                        + pg_column_size(distribution)), 0) AS bytes,
           bit_xor(lb.digest(id, content_hash)) AS digest
    FROM marked
), entered AS (
    -- Before the copies here, so after them when it runs (PostgreSQL completes what writes from the
    -- last to the first): a sweep's other batch waits for this row for no longer than a commit.
    UPDATE lb.archive_runs r
    SET rows = r.rows + m.rows, bytes = r.bytes + m.bytes,
        digest_high = r.digest_high # CAST(substring(m.digest FOR 64) AS bigint),
        digest_low = r.digest_low # CAST(substring(m.digest FROM 65) AS bigint)
    FROM moved m
    WHERE r.archive_run = :archive_run AND m.rows > 0
), archived AS (
    INSERT INTO lb.archived_leaderboard_snapshots (
        archive_run, created_at, snapshot_date, period_start, revision, institution_id, type,
        reference_id, time_granularity, academic_year, term_id, content_hash, entries, metadata,
        distribution)
    SELECT :archive_run, m.created_at, m.snapshot_date, m.period_start,
           CASE
               WHEN EXISTS (SELECT FROM lb.archive_revisions r
                            WHERE r.institution_key = :institution_key)
               THEN coalesce((SELECT max(r.revision) FROM lb.archive_revisions r
                              WHERE r.institution_key = :institution_key
                                AND r.original_id = m.id), 1)
               ELSE 1
           END,
           m.institution_id, m.type, m.reference_id, m.time_granularity, :academic_year,
           (SELECT by_board FROM board_terms) ->> CASE :type
               WHEN 'CLASS' THEN m.reference_id
               WHEN 'SUBJECT' THEN m.snapshot_date || ':' || m.reference_id
               ELSE m.snapshot_date::text
           END,
           m.content_hash, m.entries, m.metadata, m.distribution
    FROM marked m
)
SELECT rows, bytes FROM moved;

-- name: let_a_batch_fit_in_memory()#
SET LOCAL work_mem = '64MB';

-- name: active_with_copy(institution_id, type, granularity, first, last, academic_years)$
-- A snapshot that is ACTIVE though it has a copy; such a thing must not be.
SELECT a.original_id
FROM lb.archived_leaderboard_snapshots a
JOIN lb.leaderboard_snapshots s
  ON s.institution_id = :institution_id AND s.type = :type
 AND s.time_granularity = a.time_granularity AND s.reference_id = a.reference_id
 AND s.snapshot_date = a.snapshot_date AND s.snapshot_date BETWEEN :first AND :last
 AND s.status = 'ACTIVE'
WHERE a.institution_id = :institution_id AND a.type = :type
  AND (CAST(:granularity AS text) IS NULL OR a.time_granularity = :granularity)
  AND a.snapshot_date BETWEEN :first AND :last AND a.academic_year = ANY (:academic_years)
LIMIT 1;

-- name: restore(institution_id, type, first, last, academic_year, granularities, references, term_ids, until, archive_run, batch_rows)^
-- One batch back: the copy goes, the original is ACTIVE again with the copy's content, or comes in
-- again where it was purged. The id of one that is ACTIVE already comes back as contradicted.
WITH chosen AS MATERIALIZED (
    SELECT a.ctid
    FROM lb.archived_leaderboard_snapshots a
    WHERE a.institution_id = :institution_id AND a.type = :type
      AND a.academic_year = :academic_year AND a.snapshot_date BETWEEN :first AND :last
      AND (CAST(:granularities AS text[]) IS NULL OR a.time_granularity = ANY (:granularities))
      AND (CAST(:references AS text[]) IS NULL OR a.reference_id = ANY (:references))
      AND (CAST(:term_ids AS text[]) IS NULL OR a.term_id = ANY (:term_ids))
    LIMIT :batch_rows
    FOR UPDATE
), taken AS (
    DELETE FROM lb.archived_leaderboard_snapshots a
    WHERE a.ctid = ANY (ARRAY(SELECT chosen.ctid FROM chosen))
      AND a.institution_id = :institution_id AND a.type = :type
      AND a.academic_year = :academic_year AND a.snapshot_date BETWEEN :first AND :last
    RETURNING a.*
), placed AS (
    INSERT INTO lb.leaderboard_snapshots AS s (
        snapshot_date, period_start, created_at, institution_id, type, reference_id,
        time_granularity, status, active_until, content_hash, entries, metadata, distribution)
    SELECT snapshot_date, period_start, created_at, institution_id, type, reference_id,
           time_granularity, 'ACTIVE', :until, content_hash, entries, metadata, distribution
    FROM taken
    ON CONFLICT (institution_id, type, reference_id, time_granularity, snapshot_date) DO UPDATE SET
        -- time_granularity for the same reason as in the sweep.
        time_granularity = excluded.time_granularity,
        status = 'ACTIVE', active_until = excluded.active_until, created_at = excluded.created_at,
        period_start = excluded.period_start, content_hash = excluded.content_hash,
        entries = excluded.entries, metadata = excluded.metadata,
        distribution = excluded.distribution
    WHERE s.status = 'ARCHIVED'
    RETURNING s.id
), moved AS (
    SELECT count(*) AS rows,
           coalesce(sum(pg_column_size(entries) + pg_column_size(metadata)
                        + pg_column_size(distribution)), 0) AS bytes,
           bit_xor(lb.digest(original_id, content_hash)) AS digest
    FROM taken
), entered AS (
    UPDATE lb.archive_runs r
    SET rows = r.rows + m.rows, bytes = r.bytes + m.bytes,
        digest_high = r.digest_high # CAST(substring(m.digest FOR 64) AS bigint),
        digest_low = r.digest_low # CAST(substring(m.digest FROM 65) AS bigint)
    FROM moved m
    WHERE r.archive_run = :archive_run AND m.rows > 0
)
SELECT rows, bytes,
       CASE WHEN rows <> (SELECT count(*) FROM placed)
            THEN (SELECT original_id FROM taken WHERE original_id NOT IN (SELECT id FROM placed)
                  LIMIT 1) END
FROM moved;

-- name: selected_days(institution_id, types, granularities, references, first_day, last_day, first_year, last_year, academic_years, term_ids)
-- How much of a selection lies where; only the years' leaves that can hold it are read.
SELECT academic_year, type, snapshot_date, count(*),
       sum(pg_column_size(entries) + pg_column_size(metadata) + pg_column_size(distribution))
FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id
  AND academic_year >= :first_year AND academic_year <= :last_year
  AND (CAST(:academic_years AS text[]) IS NULL OR academic_year = ANY (:academic_years))
  AND (CAST(:types AS text[]) IS NULL OR type = ANY (:types))
  AND (CAST(:granularities AS text[]) IS NULL OR time_granularity = ANY (:granularities))
  AND (CAST(:references AS text[]) IS NULL OR reference_id = ANY (:references))
  AND (CAST(:term_ids AS text[]) IS NULL OR term_id = ANY (:term_ids))
  AND (CAST(:first_day AS date) IS NULL OR snapshot_date >= :first_day)
  AND (CAST(:last_day AS date) IS NULL OR snapshot_date <= :last_day)
GROUP BY academic_year, type, snapshot_date
ORDER BY academic_year, type, snapshot_date;

-- name: page(institution_id, types, granularities, references, first_day, last_day, first_year, last_year, academic_years, term_ids, after_day, after_id, page_rows)
-- Newest first; a page begins after the last row of the one before.
SELECT original_id, type, reference_id, time_granularity, snapshot_date, period_start,
       academic_year, term_id, revision, archive_run, archived_at, created_at, content_hash,
       entries, metadata, distribution
FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id
  AND academic_year >= :first_year AND academic_year <= :last_year
  AND (CAST(:academic_years AS text[]) IS NULL OR academic_year = ANY (:academic_years))
  AND (CAST(:types AS text[]) IS NULL OR type = ANY (:types))
  AND (CAST(:granularities AS text[]) IS NULL OR time_granularity = ANY (:granularities))
  AND (CAST(:references AS text[]) IS NULL OR reference_id = ANY (:references))
  AND (CAST(:term_ids AS text[]) IS NULL OR term_id = ANY (:term_ids))
  AND (CAST(:first_day AS date) IS NULL OR snapshot_date >= :first_day)
  AND (CAST(:last_day AS date) IS NULL OR snapshot_date <= :last_day)
  AND (CAST(:after_day AS date) IS NULL OR (snapshot_date <= :after_day
       AND (snapshot_date, original_id) < (CAST(:after_day AS date), CAST(:after_id AS text))))
ORDER BY snapshot_date DESC, original_id DESC
LIMIT :page_rows;
