-- Point events read by local day, aggregates of a day, totals before a cut.

-- name: first_event(institution_key)$
SELECT min(occurred_at) FROM lb.student_points WHERE institution_key = :institution_key;

-- name: events_of_days(zone, first, last, institution_key, low, high)
-- The local time decides the day; low and high only let partitions be pruned.
SELECT (local.day - :first::date)::integer, student_key, coalesce(class_key, 0),
       coalesce(subject_key, 0), coalesce(campus_key, 0), amount,
       (status = 'ACTIVE')::integer, updated_at
FROM lb.student_points
CROSS JOIN LATERAL (SELECT (occurred_at AT TIME ZONE :zone)::date AS day) AS local
WHERE institution_key = :institution_key
  AND occurred_at >= :low AND occurred_at < :high
  AND local.day BETWEEN :first::date AND :last::date;

-- name: lock(institution_key)$
SELECT pg_advisory_lock(x'6c62'::integer, :institution_key);

-- name: unlock(institution_key)$
SELECT pg_advisory_unlock(x'6c62'::integer, :institution_key);

-- name: content_hash(institution_key, day)$
SELECT content_hash FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day = :day;

-- name: touch(institution_key, day, source_rows, source_checksum, watermark, run_id)!
UPDATE lb.point_aggregates
SET source_rows = :source_rows, source_checksum = :source_checksum, watermark = :watermark,
    run_id = :run_id, materialized_at = now()
WHERE institution_key = :institution_key AND day = :day;

-- name: replace(institution_key, day, source_rows, source_checksum, watermark, run_id, content_hash, cells, students, classes, subjects, campuses, points, events)$
-- A day without events has the same sums before and after it is first aggregated: revision 0, so
-- that nothing made before becomes stale.
INSERT INTO lb.point_aggregates AS a (
    institution_key, day, revision, source_rows, source_checksum, watermark, run_id,
    content_hash, cells, students, classes, subjects, campuses, points, events)
VALUES (
    :institution_key, :day,
    CASE WHEN :cells > 0 THEN nextval('lb.aggregate_revisions') ELSE 0 END,
    :source_rows, :source_checksum, :watermark, :run_id, :content_hash, :cells, :students,
    :classes, :subjects, :campuses, :points, :events)
ON CONFLICT (institution_key, day) DO UPDATE SET
    revision = CASE WHEN excluded.revision > 0 THEN excluded.revision
                    ELSE nextval('lb.aggregate_revisions') END,
    source_rows = excluded.source_rows,
    source_checksum = excluded.source_checksum, watermark = excluded.watermark,
    run_id = excluded.run_id, content_hash = excluded.content_hash, cells = excluded.cells,
    students = excluded.students, classes = excluded.classes, subjects = excluded.subjects,
    campuses = excluded.campuses, points = excluded.points, events = excluded.events,
    materialized_at = now()
RETURNING revision;

-- name: drop_totals(institution_key, day)!
DELETE FROM lb.point_totals WHERE institution_key = :institution_key AND before > :day;

-- name: states(institution_key, last)
SELECT day, revision, watermark, cells
FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day <= :last
ORDER BY day;

-- name: cells_of_class(institution_key, first, last)
SELECT day, classes, students, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;

-- name: cells_of_subject(institution_key, first, last)
SELECT day, subjects, students, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;

-- name: cells_of_campus(institution_key, first, last)
SELECT day, campuses, students, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;

-- name: totals_of_class(institution_key, before, through_revision)^
SELECT classes, students, points, events FROM lb.point_totals
WHERE institution_key = :institution_key AND before = :before
  AND through_revision = :through_revision;

-- name: totals_of_subject(institution_key, before, through_revision)^
SELECT subjects, students, points, events FROM lb.point_totals
WHERE institution_key = :institution_key AND before = :before
  AND through_revision = :through_revision;

-- name: totals_of_campus(institution_key, before, through_revision)^
SELECT campuses, students, points, events FROM lb.point_totals
WHERE institution_key = :institution_key AND before = :before
  AND through_revision = :through_revision;

-- name: cells(institution_key, first, last)
SELECT students, classes, subjects, campuses, points, events FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last ORDER BY day;

-- name: totals(institution_key, before)^
SELECT students, classes, subjects, campuses, points, events FROM lb.point_totals
WHERE institution_key = :institution_key AND before = :before;

-- name: stored_totals(institution_key)
SELECT before, through_revision FROM lb.point_totals
WHERE institution_key = :institution_key ORDER BY before;

-- name: store_total(institution_key, before, through_revision, students, classes, subjects, campuses, points, events, block_students, blocks)!
-- A change of an earlier day that was committed meanwhile makes this total stale before it is
-- written; through_revision lets every reader see that.
INSERT INTO lb.point_totals AS t (
    institution_key, before, through_revision, students, classes, subjects, campuses, points,
    events, block_students, blocks)
VALUES (:institution_key, :before, :through_revision, :students, :classes, :subjects, :campuses,
        :points, :events, :block_students, :blocks)
ON CONFLICT (institution_key, before) DO UPDATE SET
    through_revision = excluded.through_revision, students = excluded.students,
    classes = excluded.classes, subjects = excluded.subjects, campuses = excluded.campuses,
    points = excluded.points, events = excluded.events,
    block_students = excluded.block_students, blocks = excluded.blocks, materialized_at = now()
WHERE t.through_revision < excluded.through_revision;
