-- Until when institutions were active.

-- name: last_activity(institution_keys)
-- By institution its last event and the last day of its last term. The events are asked from the
-- latest month back, by probes of an index that end at the first row found: an aggregate over the
-- partitioned table would probe every month. Dates beyond Python's are cut, so that one
-- institution's cannot end the statement for the others.
SELECT i.institution_key, e.last_event_at, t.last_term_day
FROM unnest(CAST(:institution_keys AS integer[])) AS i (institution_key)
LEFT JOIN LATERAL (
    SELECT least(p.occurred_at, '9999-12-31 00:00+00') AS last_event_at FROM lb.student_points p
    WHERE p.institution_key = i.institution_key
    ORDER BY p.occurred_at DESC LIMIT 1
) AS e ON true
LEFT JOIN LATERAL (
    SELECT max(least(greatest(ends_on, '0001-01-01'), '9999-12-31')) AS last_term_day
    FROM lb.terms WHERE institution_key = i.institution_key
) AS t ON true;
