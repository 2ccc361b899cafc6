-- Archived snapshots of one (institution, type, day) made anew on purpose, from the rows staged in
-- snapshots.sql. Run while nobody else writes the institution, in the order that they have here:
-- an original is touched only while its copy stands.

-- name: renew_originals(institution_id, type, day, academic_years)!
UPDATE lb.leaderboard_snapshots s
SET period_start = g.period_start, entries = g.entries, metadata = g.metadata,
    distribution = g.distribution, content_hash = g.content_hash, created_at = now()
FROM staged_snapshots g
WHERE s.institution_id = :institution_id AND s.type = :type AND s.snapshot_date = :day
  AND s.status = 'ARCHIVED'
  AND g.reference_id = s.reference_id AND g.time_granularity = s.time_granularity
  AND g.content_hash <> s.content_hash
  AND EXISTS (
      SELECT FROM lb.archived_leaderboard_snapshots a
      WHERE a.institution_id = :institution_id AND a.type = :type AND a.snapshot_date = :day
        AND a.academic_year = ANY (:academic_years) AND a.original_id = s.id);

-- name: remove_originals(institution_id, type, day, academic_years)!
-- Of boards that have no ranked student any more.
DELETE FROM lb.leaderboard_snapshots s
WHERE s.institution_id = :institution_id AND s.type = :type AND s.snapshot_date = :day
  AND s.status = 'ARCHIVED'
  AND NOT EXISTS (
      SELECT FROM staged_snapshots g
      WHERE g.reference_id = s.reference_id AND g.time_granularity = s.time_granularity)
  AND EXISTS (
      SELECT FROM lb.archived_leaderboard_snapshots a
      WHERE a.institution_id = :institution_id AND a.type = :type AND a.snapshot_date = :day
        AND a.academic_year = ANY (:academic_years) AND a.original_id = s.id);

-- name: renew_copies(institution_id, institution_key, type, day, academic_years, run_id)!
-- Rewritten, or gone with their boards; the ledger keeps what they said. A revision is a number
-- that this snapshot never had, whatever was restored, archived again or imported in between.
WITH changing AS (
    SELECT a.original_id, a.content_hash AS old_hash,
           1 + greatest(a.revision, (
               SELECT max(r.revision) FROM lb.archive_revisions r
               WHERE r.institution_key = :institution_key AND r.original_id = a.original_id
           )) AS revision,
           g.period_start, g.entries, g.metadata, g.distribution, g.content_hash
    FROM lb.archived_leaderboard_snapshots a
    LEFT JOIN staged_snapshots g
      ON g.reference_id = a.reference_id AND g.time_granularity = a.time_granularity
    WHERE a.institution_id = :institution_id AND a.type = :type AND a.snapshot_date = :day
      AND a.academic_year = ANY (:academic_years)
      AND g.content_hash IS DISTINCT FROM a.content_hash
), renewed AS (
    UPDATE lb.archived_leaderboard_snapshots a
    SET period_start = c.period_start, entries = c.entries, metadata = c.metadata,
        distribution = c.distribution, content_hash = c.content_hash, created_at = now(),
        revision = c.revision
    FROM changing c
    WHERE a.institution_id = :institution_id AND a.type = :type AND a.snapshot_date = :day
      AND a.academic_year = ANY (:academic_years) AND a.original_id = c.original_id
      AND c.content_hash IS NOT NULL
), gone AS (
    DELETE FROM lb.archived_leaderboard_snapshots a
    USING changing c
    WHERE a.institution_id = :institution_id AND a.type = :type AND a.snapshot_date = :day
      AND a.academic_year = ANY (:academic_years) AND a.original_id = c.original_id
      AND c.content_hash IS NULL
)
INSERT INTO lb.archive_revisions (
    institution_key, original_id, revision, old_hash, new_hash, run_id)
SELECT :institution_key, original_id, revision, old_hash, content_hash, :run_id
FROM changing;
