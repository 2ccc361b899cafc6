-- Whether what was materialized says what its inputs say now.

-- name: latest_current_day(institution_key, asset, last)$
SELECT max(day)
FROM (
    SELECT day, through_revision, max(revision) OVER (ORDER BY day) AS newest_revision
    FROM (
        SELECT day, revision, NULL::bigint AS through_revision
        FROM lb.point_aggregates
        WHERE institution_key = :institution_key AND day <= :last
        UNION ALL
        SELECT day, NULL, through_revision
        FROM lb.materialized_days
        WHERE institution_key = :institution_key AND asset = :asset AND day <= :last
    ) AS states
) AS history
WHERE through_revision >= coalesce(newest_revision, 0);
