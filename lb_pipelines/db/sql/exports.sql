-- Reading the archive out for an export, bringing one back, and the ledger of exports. {relation}
-- is a table of a purge, filled in by repositories/exports.py.

-- name: archived_parts(institution_id, types, granularities, references, first_day, last_day, first_year, last_year, years, terms)
-- The academic years and types that a selection has rows of.
SELECT academic_year, type
FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id
  AND academic_year BETWEEN :first_year AND :last_year
  AND (CAST(:years AS text[]) IS NULL OR academic_year = ANY (:years))
  AND (CAST(:types AS text[]) IS NULL OR type = ANY (:types))
  AND (CAST(:granularities AS text[]) IS NULL OR time_granularity = ANY (:granularities))
  AND (CAST(:references AS text[]) IS NULL OR reference_id = ANY (:references))
  AND (CAST(:first_day AS date) IS NULL OR snapshot_date >= :first_day)
  AND (CAST(:last_day AS date) IS NULL OR snapshot_date <= :last_day)
  AND (CAST(:terms AS text[]) IS NULL OR term_id = ANY (:terms))
GROUP BY academic_year, type
ORDER BY academic_year, type;

-- name: archived(institution_id, type, academic_year, granularities, references, first_day, last_day, terms)
-- The rows of one part, in the order of retention.export_files.SCHEMA.
SELECT institution_id, type, reference_id, time_granularity, snapshot_date, period_start,
       academic_year, term_id, revision, created_at, archived_at, content_hash, entries::text,
       metadata::text, distribution
FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id AND academic_year = :academic_year AND type = :type
  AND (CAST(:granularities AS text[]) IS NULL OR time_granularity = ANY (:granularities))
  AND (CAST(:references AS text[]) IS NULL OR reference_id = ANY (:references))
  AND (CAST(:first_day AS date) IS NULL OR snapshot_date >= :first_day)
  AND (CAST(:last_day AS date) IS NULL OR snapshot_date <= :last_day)
  AND (CAST(:terms AS text[]) IS NULL OR term_id = ANY (:terms));

-- name: set_aside(institution_id, type, first, last, years, academic_year)
-- The rows of a purge: their own content; where and when they were archived says the copy, if it
-- is still there.
SELECT s.institution_id, s.type, s.reference_id, s.time_granularity, s.snapshot_date,
       s.period_start, CAST(:academic_year AS text), a.term_id, coalesce(a.revision, 1), s.created_at,
       coalesce(a.archived_at, now()), s.content_hash, s.entries::text, s.metadata::text,
       s.distribution
FROM {relation} s
LEFT JOIN (
    SELECT original_id, term_id, revision, archived_at
    FROM lb.archived_leaderboard_snapshots
    WHERE institution_id = :institution_id AND type = :type
      AND snapshot_date BETWEEN :first AND :last AND academic_year = ANY (:years)
) AS a ON a.original_id = s.id;

-- name: enter(institution_key, directory, selection, rows, manifest_sha256, started_by, run_id)$
INSERT INTO lb.exports (
    institution_key, directory, selection, rows, manifest_sha256, started_by, run_id)
VALUES (:institution_key, :directory, :selection, :rows, :manifest_sha256, :started_by, :run_id)
RETURNING export;

-- name: of_institution(institution_key)
SELECT export, directory, selection, rows, manifest_sha256, exported_at, started_by, run_id
FROM lb.exports WHERE institution_key = :institution_key ORDER BY export;

-- name: now()$
SELECT now();

-- name: prepare_stage()#
CREATE TEMPORARY TABLE staged_export (
    institution_id text COLLATE "C", type text COLLATE "C", reference_id text COLLATE "C",
    time_granularity text COLLATE "C", snapshot_date date, period_start date,
    academic_year text COLLATE "C", term_id text COLLATE "C", revision integer,
    created_at timestamptz, archived_at timestamptz, content_hash bytea, entries jsonb,
    metadata jsonb, distribution bytea,
    id text COLLATE "C" GENERATED ALWAYS AS (
        institution_id || ':' || type || ':' || reference_id || ':' || time_granularity || ':'
        || lpad(extract(year FROM snapshot_date)::integer::text, 4, '0') || '-'
        || lpad(extract(month FROM snapshot_date)::integer::text, 2, '0') || '-'
        || lpad(extract(day FROM snapshot_date)::integer::text, 2, '0')) STORED
) ON COMMIT DROP;

-- name: copy_to_stage()!
COPY staged_export (
    institution_id, type, reference_id, time_granularity, snapshot_date, period_start,
    academic_year, term_id, revision, created_at, archived_at, content_hash, entries, metadata,
    distribution)
FROM STDIN;

-- name: analyze_stage()#
ANALYZE staged_export;

-- name: doubled()
SELECT id FROM staged_export GROUP BY id HAVING count(*) > 1 ORDER BY id;

-- name: differing(institution_id)
-- Snapshots of the stage that the archive holds with other content.
SELECT g.id
FROM staged_export g
JOIN lb.archived_leaderboard_snapshots a
  ON a.institution_id = :institution_id AND a.original_id = g.id
WHERE a.content_hash <> g.content_hash
ORDER BY g.id;

-- name: in_the_way(institution_id)
-- Snapshots of the stage that are live: ACTIVE ones have no place in the archive, and the copy of
-- an ARCHIVED one must be equal to it.
SELECT g.id
FROM staged_export g
JOIN lb.leaderboard_snapshots s
  ON s.institution_id = :institution_id AND s.type = g.type AND s.reference_id = g.reference_id
 AND s.time_granularity = g.time_granularity AND s.snapshot_date = g.snapshot_date
WHERE s.status = 'ACTIVE' OR s.content_hash <> g.content_hash
ORDER BY g.id;

-- name: staged_months()
SELECT DISTINCT type, date_trunc('month', snapshot_date)::date FROM staged_export;

-- name: merge(institution_id, archive_run)!
WITH brought AS (
    INSERT INTO lb.archived_leaderboard_snapshots (
        archive_run, archived_at, created_at, snapshot_date, period_start, revision,
        institution_id, type, reference_id, time_granularity, academic_year, term_id,
        content_hash, entries, metadata, distribution)
    SELECT :archive_run, g.archived_at, g.created_at, g.snapshot_date, g.period_start, g.revision,
           g.institution_id, g.type, g.reference_id, g.time_granularity, g.academic_year,
           g.term_id, g.content_hash, g.entries, g.metadata, g.distribution
    FROM staged_export g
    WHERE NOT EXISTS (
        SELECT FROM lb.archived_leaderboard_snapshots a
        WHERE a.institution_id = :institution_id AND a.original_id = g.id)
    RETURNING original_id, content_hash, entries, metadata, distribution
), moved AS (
    SELECT count(*) AS rows,
           coalesce(sum(pg_column_size(entries) + pg_column_size(metadata)
                        + pg_column_size(distribution)), 0)::bigint AS bytes,
           coalesce(bit_xor(lb.digest_high(original_id, content_hash)), 0) AS high,
           coalesce(bit_xor(lb.digest_low(original_id, content_hash)), 0) AS low
    FROM brought
)
UPDATE lb.archive_runs r
SET rows = m.rows, bytes = m.bytes, digest_high = m.high, digest_low = m.low
FROM moved m
WHERE r.archive_run = :archive_run;

-- name: suppressions(institution_key)
-- Whom no import may bring back.
SELECT e.suppression FROM lb.erasures e WHERE e.institution_key = :institution_key;

-- name: erasure_salt(institution_key)$
SELECT erasure_salt FROM lb.institutions WHERE institution_key = :institution_key;
