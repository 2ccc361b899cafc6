-- Which days of whom are there: what freshness is told by.

-- name: made_days(assets, first, last)
SELECT i.id, m.asset, array_agg(m.day)
FROM lb.materialized_days m
JOIN lb.institutions i USING (institution_key)
WHERE m.day BETWEEN :first AND :last AND m.asset = ANY (CAST(:assets AS text[]))
GROUP BY i.id, m.asset;

-- name: since()
SELECT id, created_at FROM lb.institutions WHERE status = 'ACTIVE';
