-- What the service reads, as lb_reader and under row level security. Every statement names the
-- institution all the same. Few and wide: an answer is worth two or three round trips, not ten.
--
-- Planning was half of an answer's time (1.3 ms where a board of 12 months has 12 leaves), so every
-- plan is made once a connection. Such a plan holds every leaf that its constants leave: in what
-- reads boards, `repositories/reading.py` writes out institution, type, months and years
-- (`queries.with_constants`), so that it holds the leaves of these and no others.

-- name: opening(institution_id, type, reference_id, student_ids)^
-- An institution, one of its boards with a class's own term, and keys of students by id.
SELECT i.institution_key, i.id, i.name, i.status, i.time_zone, i.academic_year_start_month,
       i.metadata, b.board_key, b.name, t.id, t.starts_on, t.ends_on,
       ARRAY(SELECT s.student_key
             FROM unnest(CAST(:student_ids AS text[])) WITH ORDINALITY AS wanted (id, place)
             LEFT JOIN lb.students s
               ON s.institution_key = i.institution_key AND s.id = wanted.id
             ORDER BY wanted.place)
FROM lb.institutions i
LEFT JOIN LATERAL (
    SELECT class_key AS board_key, name, term_key FROM lb.classes c
    WHERE :type = 'CLASS' AND c.institution_key = i.institution_key AND c.id = :reference_id
    UNION ALL
    SELECT subject_key, name, NULL FROM lb.subjects j
    WHERE :type = 'SUBJECT' AND j.institution_key = i.institution_key AND j.id = :reference_id
    UNION ALL
    SELECT campus_key, name, NULL FROM lb.campuses p
    WHERE :type = 'CAMPUS' AND p.institution_key = i.institution_key AND p.id = :reference_id
) AS b ON true
LEFT JOIN lb.terms t ON t.institution_key = i.institution_key AND t.term_key = b.term_key
WHERE i.id = :institution_id;

-- name: names(institution_key, student_ids)
SELECT id, name FROM lb.students
WHERE institution_key = :institution_key AND id = ANY (:student_ids) AND name IS NOT NULL;

-- name: last_materialized(institution_key, asset)$
SELECT max(day) FROM lb.materialized_days
WHERE institution_key = :institution_key AND asset = :asset;

-- name: any_materialized(institution_key, assets, day)$
SELECT EXISTS (
    SELECT FROM lb.materialized_days
    WHERE institution_key = :institution_key AND asset = ANY (:assets) AND day = :day);

-- name: snapshots_of_days(institution_id, institution_key, asset, type, reference_id, granularity, days, first, last, whole, student_ids)
-- The snapshots of these very days that stand in the live table. Entries and metadata only if
-- `whole`; the entries of some students only if not (one by one: 0.1 ms in 500 entries, where
-- `$ids[*]` takes 0.5); the last entry and what vouches for the row always. first and last are the
-- ends of the months.
SELECT s.snapshot_date, s.period_start, s.status, NULL::text,
       CASE WHEN :whole THEN s.entries END, CASE WHEN :whole THEN s.metadata END,
       (s.metadata ->> 'ranked')::integer, s.distribution,
       jsonb_array_length(s.entries), s.entries -> -1,
       CASE WHEN NOT :whole THEN (
           SELECT coalesce(jsonb_agg(own), '[]')
           FROM unnest(CAST(:student_ids AS text[])) AS student (id)
           CROSS JOIN LATERAL jsonb_path_query(s.entries, '$[*] ? (@.studentId == $id)',
                                               jsonb_build_object('id', student.id)) AS own) END,
       (s.metadata #>> '{provenance,throughRevision}')::bigint,
       m.through_revision, s.status = 'ACTIVE' AND s.active_until IS NULL
FROM lb.leaderboard_snapshots s
LEFT JOIN lb.materialized_days m
  ON m.institution_key = :institution_key AND m.asset = :asset AND m.day = s.snapshot_date
WHERE s.institution_id = :institution_id AND s.type = :type AND s.reference_id = :reference_id
  AND s.time_granularity = :granularity AND s.snapshot_date BETWEEN :first AND :last
  AND s.snapshot_date = ANY (CAST(:days AS date[]));

-- name: closing_snapshots(institution_id, institution_key, asset, type, reference_id, granularity, years, first, last, firsts, lasts, first_ids, last_ids, at_most, whole, student_ids)
-- The same of the last snapshot of each period, from the live table or, where the original is gone,
-- from the archive. Ids come as texts: a cast of a date here would keep them out of the index under
-- row level security.
SELECT s.snapshot_date, s.period_start, s.status, s.academic_year,
       CASE WHEN :whole THEN s.entries END, CASE WHEN :whole THEN s.metadata END,
       (s.metadata ->> 'ranked')::integer, s.distribution,
       jsonb_array_length(s.entries), s.entries -> -1,
       CASE WHEN NOT :whole THEN (
           SELECT coalesce(jsonb_agg(own), '[]')
           FROM unnest(CAST(:student_ids AS text[])) AS student (id)
           CROSS JOIN LATERAL jsonb_path_query(s.entries, '$[*] ? (@.studentId == $id)',
                                               jsonb_build_object('id', student.id)) AS own) END,
       (s.metadata #>> '{provenance,throughRevision}')::bigint,
       m.through_revision, s.status = 'ACTIVE' AND NOT s.restored
FROM unnest(CAST(:firsts AS date[]), CAST(:lasts AS date[]), CAST(:first_ids AS text[]),
            CAST(:last_ids AS text[]))
    WITH ORDINALITY AS p (first, last, first_id, last_id, place)
CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT snapshot_date, period_start, metadata, distribution, status, NULL::text AS academic_year,
                active_until IS NOT NULL AS restored, entries
         FROM lb.leaderboard_snapshots
         WHERE institution_id = :institution_id AND type = :type AND reference_id = :reference_id
           AND time_granularity = :granularity
           AND snapshot_date BETWEEN :first AND :last
           AND snapshot_date BETWEEN p.first AND p.last
         ORDER BY snapshot_date DESC LIMIT 1)
        UNION ALL
        (SELECT snapshot_date, period_start, metadata, distribution, 'ARCHIVED', academic_year, false,
                entries
         FROM lb.archived_leaderboard_snapshots
         WHERE institution_id = :institution_id AND academic_year = ANY (:years)
           AND original_id BETWEEN p.first_id AND p.last_id
         ORDER BY original_id DESC LIMIT 1)
    ) AS both_tables
    ORDER BY snapshot_date DESC, academic_year NULLS FIRST
    LIMIT 1
) AS s
LEFT JOIN lb.materialized_days m
  ON m.institution_key = :institution_key AND m.asset = :asset AND m.day = s.snapshot_date
ORDER BY p.place
LIMIT :at_most;

-- name: places_of_boards(institution_id, institution_key, types, references, day, first, last, years, ids, student_id)
-- All granularities of some boards on one day, as in closing_snapshots.
SELECT DISTINCT ON (s.type, s.reference_id, s.time_granularity)
       s.type, s.reference_id, s.time_granularity,
       :day::date, s.period_start, NULL, NULL, NULL, NULL,
       (s.metadata ->> 'ranked')::integer, s.distribution,
       jsonb_array_length(s.entries), s.entries -> -1,
       jsonb_path_query_array(s.entries, '$[*] ? (@.studentId == $id)',
                              jsonb_build_object('id', CAST(:student_id AS text))),
       (s.metadata #>> '{provenance,throughRevision}')::bigint,
       m.through_revision, s.vouched
FROM (
    SELECT type, reference_id, time_granularity, period_start, metadata, distribution, entries,
           status = 'ACTIVE' AND active_until IS NULL AS vouched, 0 AS place
    FROM lb.leaderboard_snapshots
    WHERE institution_id = :institution_id AND snapshot_date BETWEEN :first AND :last
      AND snapshot_date = :day AND type = ANY (:types)
      AND (type, reference_id) IN (
          SELECT * FROM unnest(CAST(:types AS text[]), CAST(:references AS text[])))
    UNION ALL
    SELECT type, reference_id, time_granularity, period_start, metadata, distribution, entries,
           false, 1
    FROM lb.archived_leaderboard_snapshots
    WHERE institution_id = :institution_id AND academic_year = ANY (:years)
      AND original_id = ANY (:ids)
) AS s
LEFT JOIN lb.materialized_days m
  ON m.institution_key = :institution_key AND m.asset = lower(s.type) || '_snapshots'
 AND m.day = :day
ORDER BY s.type, s.reference_id, s.time_granularity, s.place;

-- name: closing_trends(institution_id, type, reference_id, granularity, first, last, firsts, lasts)
SELECT t.snapshot_date, t.baseline_date, t.ranked, t.ranked_change, t.mean, t.mean_change,
       t.median, t.median_change, t.retained_share, t.rank_correlation, t.spearman_rho,
       t.leader_id, t.leader_since, t.movement
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

-- name: windows_of_student(institution_key, student_key, types, firsts, lasts, revisions, least_days, block_bytes)
-- For each window of days: whether one of them was aggregated anew since a revision, and a student's
-- blocks in the first and in the last stored total, of a type of boards, that begins in the window
-- or right after it. A total whose days have changed since, or that is not kept by student, is
-- passed over. The day is compared in a way that keeps the planner to the index by revision, which
-- holds few newer ones.
SELECT EXISTS (
           SELECT FROM lb.point_aggregates a
           WHERE a.institution_key = :institution_key AND a.revision > w.revision
             AND a.day - w.first BETWEEN 0 AND w.last - w.first),
       early.before, early.cells, late.before, late.cells
FROM unnest(CAST(:types AS text[]), CAST(:firsts AS date[]), CAST(:lasts AS date[]),
            CAST(:revisions AS bigint[]))
    WITH ORDINALITY AS w (type, first, last, revision, place)
LEFT JOIN LATERAL (
    SELECT t.before, substr(t.blocks,
               :block_bytes * (greatest(width_bucket(:student_key - 1, t.block_students), 1) - 1) + 1,
               :block_bytes * (width_bucket(:student_key, t.block_students) + 1
                   - greatest(width_bucket(:student_key - 1, t.block_students), 1))) AS cells
    FROM lb.point_totals t
    WHERE t.institution_key = :institution_key AND t.type = w.type AND t.blocks IS NOT NULL
      AND w.last - w.first + 1 >= :least_days AND t.before BETWEEN w.first AND w.last + 1
      AND NOT EXISTS (
          SELECT FROM lb.point_aggregates a
          WHERE a.institution_key = :institution_key AND a.revision > t.through_revision
            AND a.day < t.before)
    ORDER BY t.before LIMIT 1
) AS early ON true
LEFT JOIN LATERAL (
    SELECT t.before, substr(t.blocks,
               :block_bytes * (greatest(width_bucket(:student_key - 1, t.block_students), 1) - 1) + 1,
               :block_bytes * (width_bucket(:student_key, t.block_students) + 1
                   - greatest(width_bucket(:student_key - 1, t.block_students), 1))) AS cells
    FROM lb.point_totals t
    WHERE t.institution_key = :institution_key AND t.type = w.type AND t.blocks IS NOT NULL
      AND t.before > early.before AND t.before <= w.last + 1
      AND NOT EXISTS (
          SELECT FROM lb.point_aggregates a
          WHERE a.institution_key = :institution_key AND a.revision > t.through_revision
            AND a.day < t.before)
    ORDER BY t.before DESC LIMIT 1
) AS late ON true
ORDER BY w.place;

-- name: first_day(institution_key)$
SELECT min(day) FROM lb.point_aggregates WHERE institution_key = :institution_key;

-- name: totals_before(institution_key, type, last)
-- The stored totals of a type of boards whose days have not changed since.
SELECT t.before, t.through_revision FROM lb.point_totals t
WHERE t.institution_key = :institution_key AND t.type = :type AND t.before <= :last
  AND NOT EXISTS (
      SELECT FROM lb.point_aggregates a
      WHERE a.institution_key = :institution_key AND a.revision > t.through_revision
        AND a.day < t.before)
ORDER BY t.before;

-- name: points_of_student(institution_key, student_key, first, last, instants, offsets, low, high, edges)
-- Between edges: a student's sums. Apart from these the days on which the events may say something
-- else than the aggregates: not aggregated, or before a change of their events.
WITH days AS MATERIALIZED (
    SELECT :first::date + (CAST(:offsets AS integer[]))[
               width_bucket(occurred_at, CAST(:instants AS timestamptz[]))] AS day,
           class_key, subject_key, campus_key,
           sum(amount) FILTER (WHERE status = 'ACTIVE') AS points,
           count(*) FILTER (WHERE status = 'ACTIVE') AS events
    FROM lb.student_points
    WHERE institution_key = :institution_key AND student_key = :student_key
      AND occurred_at >= :low AND occurred_at < :high
    GROUP BY 1, 2, 3, 4
), changes AS MATERIALIZED (
    SELECT version, first_at, last_at, first_day, last_day FROM lb.input_changes
    WHERE institution_key = :institution_key AND settled_at IS NULL
      AND 'point_aggregates' = ANY (assets)
      AND (first_at IS NULL OR (first_at < :high AND last_at >= :low))
), doubted AS MATERIALIZED (
    SELECT d.day FROM days d
    WHERE NOT EXISTS (
        SELECT FROM lb.point_aggregates a
        WHERE a.institution_key = :institution_key AND a.day = d.day)
    UNION
    SELECT m.day FROM changes c JOIN lb.materialized_days m
      ON m.institution_key = :institution_key AND m.asset = 'point_aggregates'
     AND m.day BETWEEN :first AND :last AND m.through_version < c.version
     AND m.day BETWEEN coalesce(c.first_day, '-infinity')
         AND coalesce(c.last_day, 'infinity')
     AND (c.first_at IS NULL OR (m.ends_at > c.first_at AND m.begins_at <= c.last_at))
)
SELECT NULL::date, width_bucket(day, CAST(:edges AS date[])), class_key, subject_key, campus_key,
       sum(points)::bigint, sum(events)::bigint
FROM days
WHERE day IS NOT NULL AND day NOT IN (SELECT day FROM doubted) AND events > 0
GROUP BY 2, 3, 4, 5
UNION ALL
SELECT day, NULL, NULL, NULL, NULL, NULL, NULL FROM doubted WHERE day IS NOT NULL;

-- name: cells_of_student(institution_key, student_key, days)
-- The same of single days as they were aggregated. The arrays are sorted by student: a binary
-- search finds the place.
SELECT a.day, NULLIF(u.class_key, 0), NULLIF(u.subject_key, 0), NULLIF(u.campus_key, 0), u.points,
       u.events
FROM lb.point_aggregates a
CROSS JOIN LATERAL (
    SELECT width_bucket(:student_key - 1, a.students) AS before,
           width_bucket(:student_key, a.students) AS through
    OFFSET 0
) AS place
CROSS JOIN LATERAL unnest(
    a.classes[place.before + 1: (place.through)], a.subjects[place.before + 1: (place.through)],
    a.campuses[place.before + 1: (place.through)], a.points[place.before + 1: (place.through)],
    a.events[place.before + 1: (place.through)]
) AS u (class_key, subject_key, campus_key, points, events)
WHERE a.institution_key = :institution_key AND a.day = ANY (:days) AND place.through > place.before;

-- name: boards_of_student(institution_key, student_key, instants, offsets, low, high)
-- Every class, subject and campus for which the student has had an event by then.
WITH keys AS MATERIALIZED (
    SELECT DISTINCT class_key, subject_key, campus_key
    FROM lb.student_points
    WHERE institution_key = :institution_key AND student_key = :student_key
      AND occurred_at < :high
      AND (occurred_at < :low OR (CAST(:offsets AS integer[]))[
          width_bucket(occurred_at, CAST(:instants AS timestamptz[]))] IS NOT NULL)
)
SELECT 'CLASS', c.class_key, c.id, c.name FROM lb.classes c
WHERE c.institution_key = :institution_key AND c.class_key IN (SELECT class_key FROM keys)
UNION ALL
SELECT 'SUBJECT', j.subject_key, j.id, j.name FROM lb.subjects j
WHERE j.institution_key = :institution_key AND j.subject_key IN (SELECT subject_key FROM keys)
UNION ALL
SELECT 'CAMPUS', p.campus_key, p.id, p.name FROM lb.campuses p
WHERE p.institution_key = :institution_key AND p.campus_key IN (SELECT campus_key FROM keys);
