-- What stands in the tables, read to be compared with what must be true of it, whoever wrote it.

-- name: boards_of_days(institution_key, institution_id, type, first, last)
-- Every board with its figures, the leaf in which it lies, and the key of what it is about (null:
-- nothing of this institution has that id).
SELECT s.snapshot_date, s.reference_id, s.time_granularity, s.status = 'ACTIVE', s.metadata,
       s.tableoid, r.key
FROM lb.leaderboard_snapshots s
LEFT JOIN (
    SELECT id, class_key AS key FROM lb.classes
    WHERE institution_key = :institution_key AND :type = 'CLASS'
    UNION ALL
    SELECT id, subject_key FROM lb.subjects
    WHERE institution_key = :institution_key AND :type = 'SUBJECT'
    UNION ALL
    SELECT id, campus_key FROM lb.campuses
    WHERE institution_key = :institution_key AND :type = 'CAMPUS'
) AS r ON r.id = s.reference_id
WHERE s.institution_id = :institution_id AND s.type = :type
  AND s.snapshot_date BETWEEN :first AND :last;

-- name: leaf_names(oids)
SELECT oid, relname::text FROM pg_catalog.pg_class WHERE oid = ANY (CAST(:oids AS oid[]));

-- name: contents_of(institution_id, type, first, last, days, references, granularities)
-- The boards that are asked for, by their number in the question; first and last prune.
SELECT w.number::integer, s.status = 'ACTIVE', s.metadata, s.distribution
FROM unnest(CAST(:days AS date[]), CAST(:references AS text[]), CAST(:granularities AS text[]))
    WITH ORDINALITY AS w (day, reference_id, time_granularity, number)
JOIN lb.leaderboard_snapshots s
  ON s.institution_id = :institution_id AND s.type = :type
 AND s.snapshot_date BETWEEN :first AND :last AND s.snapshot_date = w.day
 AND s.reference_id = w.reference_id AND s.time_granularity = w.time_granularity;

-- name: entries_of(institution_key, institution_id, type, first, last, days, references, granularities)
-- Their entries; order: where the student stands by id among those who are listed anywhere here.
SELECT e.number::integer, e.place::integer, coalesce(e.rank, 0), coalesce(e.points, 0),
       coalesce(e.previous, 0), coalesce(t.student_key, 0),
       dense_rank() OVER (ORDER BY coalesce(t.order_key, t.id), t.student_key)
FROM (
    SELECT w.number, e.*
    FROM unnest(CAST(:days AS date[]), CAST(:references AS text[]), CAST(:granularities AS text[]))
        WITH ORDINALITY AS w (day, reference_id, time_granularity, number)
    JOIN lb.leaderboard_snapshots s
      ON s.institution_id = :institution_id AND s.type = :type
     AND s.snapshot_date BETWEEN :first AND :last AND s.snapshot_date = w.day
     AND s.reference_id = w.reference_id AND s.time_granularity = w.time_granularity
    CROSS JOIN LATERAL ROWS FROM (
        jsonb_to_recordset(CASE WHEN jsonb_typeof(s.entries) = 'array' THEN s.entries ELSE '[]' END)
            AS (rank bigint, points bigint, "previousRank" bigint, "studentId" text)
    ) WITH ORDINALITY AS e (rank, points, previous, student_id, place)
) AS e
LEFT JOIN lb.students t ON t.institution_key = :institution_key AND t.id = e.student_id;

-- name: enrolled_entries(institution_key, institution_id, type, first, last, days, references, granularities)
-- Of the boards asked for, how many entries are of students who were enrolled on the day.
WITH asked AS (
    SELECT w.number, w.day, w.reference_id, e.student_id
    FROM unnest(CAST(:days AS date[]), CAST(:references AS text[]), CAST(:granularities AS text[]))
        WITH ORDINALITY AS w (day, reference_id, time_granularity, number)
    JOIN lb.leaderboard_snapshots s
      ON s.institution_id = :institution_id AND s.type = :type
     AND s.snapshot_date BETWEEN :first AND :last AND s.snapshot_date = w.day
     AND s.reference_id = w.reference_id AND s.time_granularity = w.time_granularity
    CROSS JOIN LATERAL (
        SELECT entry ->> 'studentId'
        FROM jsonb_array_elements(
            CASE WHEN jsonb_typeof(s.entries) = 'array' THEN s.entries ELSE '[]' END) AS entry
    ) AS e (student_id)
), enrolled AS (
    SELECT CASE :type WHEN 'CLASS' THEN c.id WHEN 'SUBJECT' THEN j.id ELSE p.id END AS reference_id,
           t.id AS student_id, n.enrolled_on, n.withdrawn_on
    FROM lb.enrollments n
    JOIN lb.classes c USING (institution_key, class_key)
    JOIN lb.students t USING (institution_key, student_key)
    JOIN lb.subjects j USING (institution_key, subject_key)
    LEFT JOIN lb.campuses p
      ON p.institution_key = n.institution_key
     AND p.campus_key = coalesce(n.campus_key, c.campus_key)
    WHERE n.institution_key = :institution_key
)
SELECT a.number::integer, count(*)
FROM asked a
WHERE EXISTS (
    SELECT FROM enrolled n
    WHERE n.reference_id = a.reference_id AND n.student_id = a.student_id
      AND (n.enrolled_on IS NULL OR n.enrolled_on <= a.day)
      AND (n.withdrawn_on IS NULL OR n.withdrawn_on > a.day))
GROUP BY a.number;

-- name: event_sums(institution_key, instants, offsets, low, high)
-- The events of each local day, once as a whole (kind 7) and once by class (3), subject (5) and
-- campus (6): how many, and of the ACTIVE ones their number, points, students and the product of
-- both. The last two are no figures of anything: equal events have equal ones.
SELECT local.day,
       grouping(class_key, subject_key, campus_key),
       coalesce(class_key, subject_key, campus_key, 0),
       count(*),
       count(*) FILTER (WHERE status = 'ACTIVE'),
       coalesce(sum(amount) FILTER (WHERE status = 'ACTIVE'), 0),
       coalesce(sum(student_key::bigint) FILTER (WHERE status = 'ACTIVE'), 0),
       coalesce(sum(amount::bigint * student_key) FILTER (WHERE status = 'ACTIVE'), 0)
FROM lb.student_points
CROSS JOIN LATERAL (
    SELECT (CAST(:offsets AS integer[]))[
        width_bucket(occurred_at, CAST(:instants AS timestamptz[]))] AS day
) AS local
WHERE institution_key = :institution_key
  AND occurred_at >= :low AND occurred_at < :high
  AND local.day IS NOT NULL
GROUP BY GROUPING SETS ((local.day), (local.day, class_key), (local.day, subject_key),
                        (local.day, campus_key));

-- name: cells_of_days(institution_key, first, last)
SELECT day, source_rows, students, classes, subjects, campuses, points, events
FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last;

-- name: outdated_aggregates(institution_key, days)
-- Which of the days were never aggregated, or before a change of their events.
SELECT d.day
FROM unnest(CAST(:days AS date[])) AS d (day)
LEFT JOIN lb.materialized_days m
  ON m.institution_key = :institution_key AND m.asset = 'point_aggregates' AND m.day = d.day
WHERE m.day IS NULL OR EXISTS (
    SELECT FROM lb.input_changes c
    WHERE c.institution_key = :institution_key AND c.settled_at IS NULL
      AND c.version > m.through_version AND 'point_aggregates' = ANY (c.assets)
      AND m.day BETWEEN coalesce(c.first_day, '-infinity')
         AND coalesce(c.last_day, 'infinity')
      AND (c.first_at IS NULL OR (m.ends_at > c.first_at AND m.begins_at <= c.last_at)));

-- name: revisions(institution_key, first, last)
-- The revision of each aggregated day, and under the day before the first the highest of all
-- before.
SELECT day, revision FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first::date AND :last::date
UNION ALL
SELECT :first::date - 1, coalesce(max(revision), 0) FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day < :first::date
ORDER BY day;

-- name: archived_boards(institution_id, type, first, last, academic_years)
SELECT snapshot_date, reference_id, time_granularity
FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id AND type = :type
  AND snapshot_date BETWEEN :first AND :last AND academic_year = ANY (:academic_years);

-- name: distrust_boards(institution_id, type, first, last, days, references, granularities)!
-- An equal hash is why a materialization leaves a row alone: without one it writes it anew.
UPDATE lb.leaderboard_snapshots s
SET content_hash = ''
FROM unnest(CAST(:days AS date[]), CAST(:references AS text[]), CAST(:granularities AS text[]))
    AS w (day, reference_id, time_granularity)
WHERE s.institution_id = :institution_id AND s.type = :type AND s.status = 'ACTIVE'
  AND s.snapshot_date BETWEEN :first AND :last AND s.snapshot_date = w.day
  AND s.reference_id = w.reference_id AND s.time_granularity = w.time_granularity;

-- name: distrust_aggregates(institution_key, days)!
UPDATE lb.point_aggregates SET content_hash = ''
WHERE institution_key = :institution_key AND day = ANY (CAST(:days AS date[]));

-- name: altered_copies(institution_id, first, last, academic_years)^
-- Copies that do not say what their original says, though both have the same hash.
SELECT count(*), min(a.original_id)
FROM lb.leaderboard_snapshots s
JOIN lb.archived_leaderboard_snapshots a
  ON a.institution_id = :institution_id AND a.academic_year = ANY (:academic_years)
 AND a.snapshot_date = s.snapshot_date AND a.original_id = s.id
 AND a.content_hash = s.content_hash
WHERE s.institution_id = :institution_id AND s.snapshot_date BETWEEN :first AND :last
  AND s.status = 'ARCHIVED'
  AND (a.entries, a.metadata, a.distribution, a.period_start)
      IS DISTINCT FROM (s.entries, s.metadata, s.distribution, s.period_start);
