-- What must be true of snapshots, whoever wrote them.

-- name: wrong_boards(institution_id, type, first, last, method, limits)
-- Per day: boards, how many of them contradict themselves, and one of those. Archived boards keep
-- the settings of their time and are left out.
SELECT s.snapshot_date, count(*), count(*) FILTER (WHERE NOT coalesce(right_, false)),
       min(s.reference_id || ' ' || s.time_granularity) FILTER (WHERE NOT coalesce(right_, false))
FROM lb.leaderboard_snapshots s
CROSS JOIN LATERAL (
    SELECT count(*) = least((s.metadata ->> 'ranked')::bigint,
                            (:limits::jsonb ->> s.time_granularity)::bigint)
           AND count(*) = count(DISTINCT student)
           AND bool_and(follows)
           AND (count(*) < (s.metadata ->> 'ranked')::bigint
                OR sum(points) = (s.metadata ->> 'sum')::bigint) AS right_
    FROM (
        SELECT student, points,
               CASE
                   WHEN place = 1 THEN rank = 1
                   WHEN points > lag(points) OVER placed THEN false
                   WHEN :method = 'ordinal' THEN rank = place
                   WHEN points = lag(points) OVER placed THEN rank = lag(rank) OVER placed
                   WHEN :method = 'dense' THEN rank = lag(rank) OVER placed + 1
                   ELSE rank = place
               END AS follows
        FROM ROWS FROM (
            jsonb_to_recordset(s.entries) AS (rank integer, "studentId" text, points bigint)
        ) WITH ORDINALITY AS e (rank, student, points, place)
        WINDOW placed AS (ORDER BY place)
    ) AS entries
) AS verdict
WHERE s.institution_id = :institution_id AND s.type = :type
  AND s.snapshot_date BETWEEN :first AND :last AND s.status = 'ACTIVE'
GROUP BY s.snapshot_date
ORDER BY s.snapshot_date;
