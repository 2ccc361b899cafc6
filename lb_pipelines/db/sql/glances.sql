-- A day's boards at a glance: numbers only. What is shown is kept by others, where no erasure of a
-- student reaches.

-- name: largest_snapshots(institution_id, type, day)
-- The statistics are read of all boards of the day, entries and distributions only of those chosen.
WITH largest AS (
    SELECT DISTINCT ON (time_granularity)
           time_granularity, reference_id, (metadata ->> 'ranked')::integer AS ranked
    FROM lb.leaderboard_snapshots
    WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day
    ORDER BY time_granularity, (metadata ->> 'ranked')::integer DESC, reference_id
)
SELECT time_granularity, coalesce(c.name, j.name, p.name, reference_id), l.ranked,
       jsonb_path_query_array(s.entries, '$[0 to 2].points'), s.distribution
FROM largest l
JOIN lb.leaderboard_snapshots s USING (time_granularity, reference_id)
JOIN lb.institutions i ON i.id = s.institution_id
LEFT JOIN lb.classes c
    ON s.type = 'CLASS' AND c.institution_key = i.institution_key AND c.id = reference_id
LEFT JOIN lb.subjects j
    ON s.type = 'SUBJECT' AND j.institution_key = i.institution_key AND j.id = reference_id
LEFT JOIN lb.campuses p
    ON s.type = 'CAMPUS' AND p.institution_key = i.institution_key AND p.id = reference_id
WHERE s.institution_id = :institution_id AND s.type = :type AND s.snapshot_date = :day
ORDER BY array_position(ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'], time_granularity);

-- name: largest_trends(institution_id, type, day)
WITH largest AS (
    SELECT DISTINCT ON (time_granularity)
           time_granularity, institution_id, type, reference_id, baseline_date, ranked,
           ranked_change, leader_days, movement, retained_share, students
    FROM lb.leaderboard_trends
    WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day
    ORDER BY time_granularity, ranked DESC, reference_id
)
SELECT time_granularity, coalesce(c.name, j.name, p.name, reference_id), baseline_date, ranked,
       ranked_change, leader_days, movement #> '{top3,0,points}', retained_share,
       jsonb_path_query_array(students, '$[0 to 9].previousRank'),
       jsonb_path_query_array(students, '$[0 to 9].rank')
FROM largest l
JOIN lb.institutions i ON i.id = l.institution_id
LEFT JOIN lb.classes c
    ON l.type = 'CLASS' AND c.institution_key = i.institution_key AND c.id = reference_id
LEFT JOIN lb.subjects j
    ON l.type = 'SUBJECT' AND j.institution_key = i.institution_key AND j.id = reference_id
LEFT JOIN lb.campuses p
    ON l.type = 'CAMPUS' AND p.institution_key = i.institution_key AND p.id = reference_id
ORDER BY array_position(ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'], time_granularity);

-- name: recent_aggregates(institution_key, first, last)
-- No array is touched, so that none is read.
SELECT day, source_rows, revision, watermark
FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last;

-- name: weekly_participation(institution_id, institution_key, type, days)
-- Of every board the ranked and the enrolled of the weeks that end on these days.
SELECT coalesce(c.name, j.name, p.name, reference_id), snapshot_date,
       (s.metadata ->> 'ranked')::integer, (s.metadata ->> 'enrolled')::integer
FROM lb.leaderboard_snapshots s
LEFT JOIN lb.classes c
    ON s.type = 'CLASS' AND c.institution_key = :institution_key AND c.id = reference_id
LEFT JOIN lb.subjects j
    ON s.type = 'SUBJECT' AND j.institution_key = :institution_key AND j.id = reference_id
LEFT JOIN lb.campuses p
    ON s.type = 'CAMPUS' AND p.institution_key = :institution_key AND p.id = reference_id
WHERE s.institution_id = :institution_id AND s.type = :type AND s.time_granularity = 'weekly'
  AND s.snapshot_date = ANY (:days);

-- name: largest_board(institution_id, type, day)$
-- The board of the widest window, of these the one with the most ranked students.
SELECT reference_id
FROM lb.leaderboard_snapshots
WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day
  AND time_granularity IN ('term', 'all-time')
ORDER BY time_granularity = 'term' DESC, (metadata ->> 'ranked')::integer DESC, reference_id
LIMIT 1;
