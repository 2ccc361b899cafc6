-- Which days of whom are there: what freshness is told by.

-- name: made_days(assets, first, last)
SELECT i.id, m.asset, array_agg(m.day)
FROM lb.materialized_days m
JOIN lb.institutions i USING (institution_key)
WHERE m.day BETWEEN :first AND :last AND m.asset = ANY (CAST(:assets AS text[]))
GROUP BY i.id, m.asset;

-- name: since()
-- An instant beyond Python's would end the statement for all.
SELECT id, least(greatest(created_at, '0001-01-02 00:00+00'), now())
FROM lb.institutions WHERE status = 'ACTIVE';
