-- Erasure of a student: who it is and whose neighbour, the rows that name them, and the ledger, which
-- does not. {relation} is the live tree or a table of a purge, filled in by repositories/erasures.py.

-- name: student_of_id(institution_key, id)^
SELECT student_key, id, name, order_key FROM lb.students
WHERE institution_key = :institution_key AND id = :id;

-- name: student_of_key(institution_key, student_key)^
SELECT student_key, id, name, order_key FROM lb.students
WHERE institution_key = :institution_key AND student_key = :student_key;

-- name: is_suppressed(institution_key, id)$
SELECT EXISTS (
    SELECT FROM lb.erasures e JOIN lb.institutions i USING (institution_key)
    WHERE i.institution_key = :institution_key
      AND e.suppression = sha256(i.erasure_salt || convert_to(:id, 'UTF8')));

-- name: neighbours(institution_key, student_key)^
-- What stands right before and right after a student in the order that breaks ties; null: nothing.
WITH placed AS (
    SELECT student_key, coalesce(order_key, id) AS place FROM lb.students
    WHERE institution_key = :institution_key
), self AS (
    SELECT place, student_key FROM placed WHERE student_key = :student_key
)
SELECT (SELECT max(p.place) FROM placed p, self s
        WHERE (p.place, p.student_key) < (s.place, s.student_key)),
       (SELECT min(p.place) FROM placed p, self s
        WHERE (p.place, p.student_key) > (s.place, s.student_key));

-- name: rename_student(institution_key, student_key, pseudonym, order_key)!
UPDATE lb.students SET id = :pseudonym, name = NULL, order_key = :order_key
WHERE institution_key = :institution_key AND student_key = :student_key;

-- name: count_events(institution_key, student_key)$
SELECT count(*) FROM lb.student_points
WHERE institution_key = :institution_key AND student_key = :student_key;

-- name: rename_events(institution_key, student_key)!
-- An event's id may hold the student's. All else stays, updated_at too: no day becomes stale.
UPDATE lb.student_points SET event_id = 'erased-' || gen_random_uuid()
WHERE institution_key = :institution_key AND student_key = :student_key;

-- name: days_of_snapshots(institution_id)^
SELECT min(snapshot_date), max(snapshot_date) FROM lb.leaderboard_snapshots
WHERE institution_id = :institution_id;

-- name: days_of_trends(institution_id)^
SELECT min(snapshot_date), max(snapshot_date) FROM lb.leaderboard_trends
WHERE institution_id = :institution_id;

-- name: days_of_archive(institution_id)^
SELECT min(snapshot_date), max(snapshot_date) FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id;

-- name: snapshots_naming(institution_id, type, first, last, entry)
SELECT type, snapshot_date, id, content_hash, reference_id, time_granularity, period_start,
       entries, metadata, distribution
FROM {relation}
WHERE institution_id = :institution_id AND type = :type
  AND snapshot_date BETWEEN :first AND :last AND entries @> :entry::jsonb;

-- name: archive_naming(institution_id, years, first, last, entry)
SELECT type, snapshot_date, original_id, content_hash, academic_year, time_granularity,
       period_start, entries, metadata, distribution
FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id AND academic_year = ANY (:years)
  AND snapshot_date BETWEEN :first AND :last AND entries @> :entry::jsonb;

-- name: trends_naming(institution_id, type, first, last, id, entry, movements)
SELECT type, snapshot_date, institution_id || ':' || type || ':' || reference_id || ':'
           || time_granularity || ':' || snapshot_date,
       content_hash, reference_id, time_granularity,
       ARRAY[ranked, ranked_change, mean, mean_change, median, median_change, retained_share,
             rank_correlation, spearman_rho], leader_id, movement, students
FROM lb.leaderboard_trends
WHERE institution_id = :institution_id AND type = :type
  AND snapshot_date BETWEEN :first AND :last
  AND (leader_id = :id OR students @> :entry::jsonb OR movement @> ANY (:movements::jsonb[]));

-- name: rewrite_snapshots(institution_id, type, first, last, references, granularities, dates, entries, hashes)!
-- The bounds of the month let the plan see one leaf alone.
UPDATE {relation} s
SET entries = n.entries::jsonb, content_hash = n.content_hash
FROM unnest(:references::text[], :granularities::text[], :dates::date[], :entries::text[],
            :hashes::bytea[])
    AS n (reference_id, time_granularity, snapshot_date, entries, content_hash)
WHERE s.institution_id = :institution_id AND s.type = :type
  AND s.snapshot_date BETWEEN :first AND :last AND s.reference_id = n.reference_id
  AND s.time_granularity = n.time_granularity AND s.snapshot_date = n.snapshot_date;

-- name: rewrite_archive(institution_id, years, ids, academic_years, entries, hashes)!
UPDATE lb.archived_leaderboard_snapshots a
SET entries = n.entries::jsonb, content_hash = n.content_hash
FROM unnest(:ids::text[], :academic_years::text[], :entries::text[], :hashes::bytea[])
    AS n (original_id, academic_year, entries, content_hash)
WHERE a.institution_id = :institution_id AND a.academic_year = ANY (:years)
  AND a.original_id = n.original_id AND a.academic_year = n.academic_year;

-- name: rewrite_trends(institution_id, type, first, last, references, granularities, dates, leaders, movements, students, hashes)!
UPDATE lb.leaderboard_trends t
SET leader_id = n.leader_id, movement = n.movement::jsonb, students = n.students::jsonb,
    content_hash = n.content_hash
FROM unnest(:references::text[], :granularities::text[], :dates::date[], :leaders::text[],
            :movements::text[], :students::text[], :hashes::bytea[])
    AS n (reference_id, time_granularity, snapshot_date, leader_id, movement, students,
          content_hash)
WHERE t.institution_id = :institution_id AND t.type = :type
  AND t.snapshot_date BETWEEN :first AND :last AND t.reference_id = n.reference_id
  AND t.time_granularity = n.time_granularity AND t.snapshot_date = n.snapshot_date;

-- name: follow_in_revisions(institution_key, ids, old, new)!
-- A renewal's hashes are held against rows: they go on to be those of the same content.
UPDATE lb.archive_revisions r
SET old_hash = CASE WHEN r.old_hash = n.old THEN n.new ELSE r.old_hash END,
    new_hash = CASE WHEN r.new_hash = n.old THEN n.new ELSE r.new_hash END
FROM unnest(:ids::text[], :old::bytea[], :new::bytea[]) AS n (original_id, old, new)
WHERE r.institution_key = :institution_key AND r.original_id = n.original_id
  AND n.old IN (r.old_hash, r.new_hash);

-- name: stands(relation)$
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'lb_part' AND c.relname = :relation);

-- name: enter(institution_key, id, counts, requested_by, reason, run_id)$
INSERT INTO lb.erasures (institution_key, suppression, counts, requested_by, reason, run_id)
SELECT institution_key, sha256(erasure_salt || convert_to(:id, 'UTF8')), :counts, :requested_by,
       :reason, :run_id
FROM lb.institutions WHERE institution_key = :institution_key
RETURNING erasure;

-- name: raise_epoch(institution_key)!
UPDATE lb.institutions SET erasures = erasures + 1 WHERE institution_key = :institution_key;

-- name: exports_of(institution_key)
SELECT export FROM lb.exports WHERE institution_key = :institution_key ORDER BY export;

-- name: enter_tasks(institution_key, erasure, id, pseudonym)!
INSERT INTO lb.erasure_tasks (erasure, export, student_id, pseudonym)
SELECT :erasure, export, :id, :pseudonym FROM lb.exports WHERE institution_key = :institution_key;

-- name: tasks(institution_key)
-- Oldest first; null: of all institutions.
SELECT t.export, i.id, x.directory, t.erasure, t.student_id, t.pseudonym
FROM lb.erasure_tasks t
JOIN lb.exports x USING (export)
JOIN lb.institutions i USING (institution_key)
WHERE coalesce(x.institution_key = :institution_key, :institution_key::integer IS NULL)
ORDER BY t.export, t.erasure;

-- name: seal_export(export, manifest_sha256)!
UPDATE lb.exports SET manifest_sha256 = :manifest_sha256 WHERE export = :export;

-- name: end_tasks(export, erasures)!
DELETE FROM lb.erasure_tasks WHERE export = :export AND erasure = ANY (:erasures);
