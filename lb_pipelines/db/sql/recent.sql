-- What `make run` asks before it materializes the last days.

-- name: last_event(institution_key, before)$
SELECT max(occurred_at)
FROM lb.student_points
WHERE institution_key = :institution_key AND occurred_at < :before;
