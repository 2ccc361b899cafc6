-- How far each institution's materialized days have got.

-- name: complete_days(assets, first, last)
SELECT i.id, m.day
FROM lb.materialized_days m
JOIN lb.institutions i USING (institution_key)
WHERE m.day BETWEEN :first AND :last AND m.asset = ANY (:assets)
GROUP BY i.id, m.day
HAVING count(*) = cardinality(:assets::text[]);

-- name: last_written(institution_key, first, last)$
SELECT max(materialized_at)
FROM lb.materialized_days
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last;
