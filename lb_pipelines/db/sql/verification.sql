-- What must be true of snapshots, whoever wrote them.

-- name: wrong_boards(institution_id, type, first, last, method, limits, at_most)
-- Per day: boards, how many were looked at, how many of those contradict themselves, and one of
-- them. Which are looked at is drawn anew for every day. Archived boards keep the settings of their
-- time and are left out.
WITH drawn AS (
    SELECT snapshot_date, reference_id, time_granularity, metadata, entries,
           count(*) OVER (PARTITION BY snapshot_date) AS boards,
           row_number() OVER (
               PARTITION BY snapshot_date
               ORDER BY hashtextextended(reference_id || time_granularity || snapshot_date, 0)
           ) AS place
    FROM lb.leaderboard_snapshots
    WHERE institution_id = :institution_id AND type = :type
      AND snapshot_date BETWEEN :first AND :last AND status = 'ACTIVE'
)
SELECT snapshot_date, min(boards), count(*), count(*) FILTER (WHERE NOT coalesce(right_, false)),
       min(reference_id || ' ' || time_granularity) FILTER (WHERE NOT coalesce(right_, false))
FROM drawn s
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
WHERE s.place <= :at_most
GROUP BY snapshot_date
ORDER BY snapshot_date;
