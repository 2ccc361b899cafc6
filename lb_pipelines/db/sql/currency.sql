-- Whether what was materialized says what its inputs say now.

-- name: latest_current_day(institution_key, asset, last)$
SELECT m.day
FROM lb.materialized_days m
WHERE m.institution_key = :institution_key AND m.asset = :asset AND m.day <= :last
  AND NOT EXISTS (
      SELECT FROM lb.input_changes c
      WHERE c.institution_key = :institution_key AND c.settled_at IS NULL
        AND c.version > m.through_version AND :asset = ANY (c.assets)
        AND m.day BETWEEN coalesce(c.first_day, '-infinity') AND coalesce(c.last_day, 'infinity')
        AND (c.first_at IS NULL OR m.ends_at > c.first_at))
ORDER BY m.day DESC
LIMIT 1;
