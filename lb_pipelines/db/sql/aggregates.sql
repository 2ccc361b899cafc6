-- Point events read by local day, aggregates of a day.

-- name: first_event(institution_key)$
SELECT min(occurred_at) FROM lb.student_points WHERE institution_key = :institution_key;

-- name: events_of_days(institution_key, instants, offsets, low, high)
-- The day of an event by the instants at which days begin (core.day_starts).
SELECT local.day, student_key, coalesce(class_key, 0),
       coalesce(subject_key, 0), coalesce(campus_key, 0), amount,
       (status = 'ACTIVE')::integer, updated_at
FROM lb.student_points
CROSS JOIN LATERAL (
    SELECT (CAST(:offsets AS integer[]))[
        width_bucket(occurred_at, CAST(:instants AS timestamptz[]))] AS day
) AS local
WHERE institution_key = :institution_key
  AND occurred_at >= :low AND occurred_at < :high
  AND local.day IS NOT NULL;

-- name: lock(institution_key)$
SELECT pg_advisory_lock(x'6c62'::integer, :institution_key);

-- name: unlock(institution_key)$
SELECT pg_advisory_unlock(x'6c62'::integer, :institution_key);

-- name: stored(institution_key, day)^
-- The hash of the stored aggregate of a day, and up to which version its inputs were read.
SELECT a.content_hash, coalesce(m.through_version, 0)
FROM lb.point_aggregates a
LEFT JOIN lb.materialized_days m
  ON m.institution_key = a.institution_key AND m.asset = 'point_aggregates' AND m.day = a.day
WHERE a.institution_key = :institution_key AND a.day = :day;

-- name: touch(institution_key, day, source_rows, watermark, run_id)!
UPDATE lb.point_aggregates
SET source_rows = :source_rows, watermark = :watermark, run_id = :run_id, materialized_at = now()
WHERE institution_key = :institution_key AND day = :day;

-- name: replace(institution_key, day, source_rows, watermark, run_id, content_hash, cells, students, classes, subjects, campuses, points, events)$
-- A day without events has the same sums before and after it is first aggregated: revision 0, so
-- that nothing made before becomes stale.
INSERT INTO lb.point_aggregates AS a (
    institution_key, day, revision, source_rows, watermark, run_id,
    content_hash, cells, students, classes, subjects, campuses, points, events)
VALUES (
    :institution_key, :day,
    CASE WHEN :cells > 0 THEN nextval('lb.aggregate_revisions') ELSE 0 END,
    :source_rows, :watermark, :run_id, :content_hash, :cells, :students, :classes, :subjects,
    :campuses, :points, :events)
ON CONFLICT (institution_key, day) DO UPDATE SET
    revision = CASE WHEN excluded.revision > 0 THEN excluded.revision
                    ELSE nextval('lb.aggregate_revisions') END,
    source_rows = excluded.source_rows, watermark = excluded.watermark,
    run_id = excluded.run_id, content_hash = excluded.content_hash, cells = excluded.cells,
    students = excluded.students, classes = excluded.classes, subjects = excluded.subjects,
    campuses = excluded.campuses, points = excluded.points, events = excluded.events,
    materialized_at = now()
RETURNING revision;

-- name: states(institution_key, last)
SELECT day, revision, watermark, cells
FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day <= :last
ORDER BY day;

-- name: missing_days(institution_key, first, last)
SELECT d.day::date
FROM generate_series(:first::timestamp, :last::timestamp, interval '1 day') AS d (day)
WHERE NOT EXISTS (
    SELECT FROM lb.point_aggregates a
    WHERE a.institution_key = :institution_key AND a.day = d.day::date)
ORDER BY 1;

-- name: cells_of_class(institution_key, first, last)
SELECT day, classes, students, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;

-- name: cells_of_subject(institution_key, first, last)
SELECT day, subjects, students, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;

-- name: cells_of_campus(institution_key, first, last)
SELECT day, campuses, students, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;

-- name: cells(institution_key, first, last)
SELECT day, students, classes, subjects, campuses, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;
