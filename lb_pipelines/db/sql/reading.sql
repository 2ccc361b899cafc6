-- What the service reads, as lb_reader and under row level security. Every statement names the
-- institution all the same.

-- name: board_named(institution_key, type, reference_id)^
SELECT class_key, name, term_key FROM lb.classes
WHERE :type = 'CLASS' AND institution_key = :institution_key AND id = :reference_id
UNION ALL
SELECT subject_key, name, NULL FROM lb.subjects
WHERE :type = 'SUBJECT' AND institution_key = :institution_key AND id = :reference_id
UNION ALL
SELECT campus_key, name, NULL FROM lb.campuses
WHERE :type = 'CAMPUS' AND institution_key = :institution_key AND id = :reference_id;

-- name: term_of_class(institution_key, class_key)^
SELECT t.id, t.starts_on, t.ends_on
FROM lb.classes c JOIN lb.terms t USING (institution_key, term_key)
WHERE c.institution_key = :institution_key AND c.class_key = :class_key;

-- name: student(institution_key, student_id)^
SELECT student_key, name FROM lb.students
WHERE institution_key = :institution_key AND id = :student_id;

-- name: names(institution_key, student_ids)
SELECT id, name FROM lb.students
WHERE institution_key = :institution_key AND id = ANY (:student_ids) AND name IS NOT NULL;

-- name: last_materialized(institution_key, asset)$
SELECT max(day) FROM lb.materialized_days
WHERE institution_key = :institution_key AND asset = :asset;

-- name: is_materialized(institution_key, asset, day)$
SELECT EXISTS (
    SELECT FROM lb.materialized_days
    WHERE institution_key = :institution_key AND asset = :asset AND day = :day);

-- name: closing_snapshots(institution_id, type, reference_id, granularity, id_prefix, years, first, last, firsts, lasts, at_most)
-- The last snapshot of each period, from the live table or, where the original is gone, from the
-- archive. The outer bounds let the planner prune, the inner ones each period.
SELECT s.*
FROM unnest(CAST(:firsts AS date[]), CAST(:lasts AS date[])) WITH ORDINALITY AS p (first, last, place)
CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT snapshot_date, period_start, entries, metadata, distribution, status, created_at,
                NULL::text AS academic_year
         FROM lb.leaderboard_snapshots
         WHERE institution_id = :institution_id AND type = :type AND reference_id = :reference_id
           AND time_granularity = :granularity
           AND snapshot_date BETWEEN :first AND :last
           AND snapshot_date BETWEEN p.first AND p.last
         ORDER BY snapshot_date DESC LIMIT 1)
        UNION ALL
        (SELECT snapshot_date, period_start, entries, metadata, distribution, 'ARCHIVED', created_at,
                academic_year
         FROM lb.archived_leaderboard_snapshots
         WHERE institution_id = :institution_id AND academic_year = ANY (:years)
           AND original_id BETWEEN :id_prefix || p.first::text AND :id_prefix || p.last::text
           AND type = :type AND reference_id = :reference_id AND time_granularity = :granularity
         ORDER BY original_id DESC LIMIT 1)
    ) AS both_tables
    ORDER BY snapshot_date DESC, academic_year NULLS FIRST
    LIMIT 1
) AS s
ORDER BY p.place
LIMIT :at_most;

-- name: snapshots_of_boards(institution_id, types, references, day, years, ids)
-- All granularities of some boards on one day.
SELECT type, reference_id, time_granularity, period_start, metadata, distribution, entries
FROM lb.leaderboard_snapshots
WHERE institution_id = :institution_id AND snapshot_date = :day
  AND (type, reference_id) IN (
      SELECT * FROM unnest(CAST(:types AS text[]), CAST(:references AS text[])))
UNION ALL
SELECT type, reference_id, time_granularity, period_start, metadata, distribution, entries
FROM lb.archived_leaderboard_snapshots a
WHERE institution_id = :institution_id AND academic_year = ANY (:years)
  AND original_id = ANY (:ids)
  AND NOT EXISTS (
      SELECT FROM lb.leaderboard_snapshots s
      WHERE s.institution_id = :institution_id AND s.type = a.type
        AND s.reference_id = a.reference_id AND s.time_granularity = a.time_granularity
        AND s.snapshot_date = :day);

-- name: closing_trends(institution_id, type, reference_id, granularity, first, last, firsts, lasts)
SELECT t.snapshot_date, t.baseline_date, t.ranked, t.ranked_change, t.mean, t.mean_change,
       t.median, t.median_change, t.retained_share, t.rank_correlation, t.leader_id,
       t.leader_since, t.movement
FROM unnest(CAST(:firsts AS date[]), CAST(:lasts AS date[])) WITH ORDINALITY AS p (first, last, place)
CROSS JOIN LATERAL (
    SELECT * FROM lb.leaderboard_trends
    WHERE institution_id = :institution_id AND type = :type AND reference_id = :reference_id
      AND time_granularity = :granularity
      AND snapshot_date BETWEEN :first AND :last
      AND snapshot_date BETWEEN p.first AND p.last
    ORDER BY snapshot_date DESC
    LIMIT 1
) AS t
ORDER BY p.place;

-- name: points_of_student(institution_key, student_key, zone, first, last, low, high)
-- By local day and board; low and high only let partitions be pruned.
SELECT local.day, class_key, subject_key, campus_key, sum(amount)::bigint, count(*)
FROM lb.student_points
CROSS JOIN LATERAL (SELECT (occurred_at AT TIME ZONE :zone)::date AS day) AS local
WHERE institution_key = :institution_key AND student_key = :student_key AND status = 'ACTIVE'
  AND occurred_at >= :low AND occurred_at < :high
  AND local.day BETWEEN :first::date AND :last::date
GROUP BY 1, 2, 3, 4;

-- name: boards_of_student(institution_key, student_key, zone, first, last, low, high)
-- Every class, subject and campus on which the student has a point event by then, or is enrolled.
WITH keys AS (
    SELECT DISTINCT class_key, subject_key, campus_key
    FROM lb.student_points
    WHERE institution_key = :institution_key AND student_key = :student_key AND status = 'ACTIVE'
      AND occurred_at >= :low AND occurred_at < :high
      AND (occurred_at AT TIME ZONE :zone)::date BETWEEN :first::date AND :last::date
)
SELECT 'CLASS', c.class_key, c.id, c.name FROM lb.classes c
WHERE c.institution_key = :institution_key AND c.class_key IN (SELECT class_key FROM keys)
UNION ALL
SELECT 'SUBJECT', j.subject_key, j.id, j.name FROM lb.subjects j
WHERE j.institution_key = :institution_key AND j.subject_key IN (SELECT subject_key FROM keys)
UNION ALL
SELECT 'CAMPUS', p.campus_key, p.id, p.name FROM lb.campuses p
WHERE p.institution_key = :institution_key AND p.campus_key IN (SELECT campus_key FROM keys);
