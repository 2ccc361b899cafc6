-- What has been materialized, and from which state of the events.

-- name: claim(institution_key, asset, day, through_revision, boards, run_id, code_version)$
-- Locks the day for this transaction. No row comes back where a later state already stands.
INSERT INTO lb.materialized_days AS m (
    institution_key, asset, day, through_revision, boards, run_id, code_version)
VALUES (:institution_key, :asset, :day, :through_revision, :boards, :run_id, :code_version)
ON CONFLICT (institution_key, asset, day) DO UPDATE SET
    through_revision = excluded.through_revision, boards = excluded.boards,
    run_id = excluded.run_id, code_version = excluded.code_version, materialized_at = now()
WHERE m.through_revision <= excluded.through_revision
RETURNING true;

-- name: materialized(institution_key, asset, first, last)
SELECT day, through_revision, boards, run_id
FROM lb.materialized_days
WHERE institution_key = :institution_key AND asset = :asset AND day BETWEEN :first AND :last
ORDER BY day;

-- name: outdated_days(institution_key)
-- Days of which some asset was made from an older state than the aggregates now have.
SELECT DISTINCT day
FROM (
    SELECT day, through_revision, max(revision) OVER (ORDER BY day) AS newest_revision
    FROM (
        SELECT day, revision, NULL::bigint AS through_revision
        FROM lb.point_aggregates
        WHERE institution_key = :institution_key
        UNION ALL
        SELECT day, NULL, through_revision
        FROM lb.materialized_days
        WHERE institution_key = :institution_key AND asset <> 'point_aggregates'
    ) AS states
) AS history
WHERE through_revision < newest_revision
ORDER BY day;

-- name: materialized_days_since(institution_key, day)
SELECT DISTINCT day FROM lb.materialized_days
WHERE institution_key = :institution_key AND day >= :day
ORDER BY day;

-- name: possibly_stale(institution_keys, zones, updated_since, earliest)
-- Those of many institutions of which anything has happened since (each has its own) that can make
-- a day stale: an event of a day that is aggregated, something made, an event moved away. One look
-- at what is new since the earliest of them, whosever it is, instead of one an institution.
WITH asked AS MATERIALIZED (
    SELECT a.*, (SELECT max(p.day) FROM lb.point_aggregates p
                 WHERE p.institution_key = a.institution_key) AS last_day
    FROM unnest(CAST(:institution_keys AS integer[]), CAST(:zones AS text[]),
                CAST(:updated_since AS timestamptz[])) AS a (institution_key, zone, updated_since)
)
SELECT a.institution_key
FROM lb.student_points p JOIN asked a USING (institution_key)
WHERE p.updated_at >= :earliest AND p.updated_at >= a.updated_since
  AND (p.occurred_at AT TIME ZONE a.zone)::date <= a.last_day
UNION
-- Aggregates too: what writes one enters it here.
SELECT a.institution_key
FROM lb.materialized_days m JOIN asked a USING (institution_key)
WHERE m.materialized_at >= :earliest AND m.materialized_at >= a.updated_since
UNION
SELECT p.institution_key FROM lb.point_aggregates p WHERE p.source_checksum = -1;

-- name: changed_days(institution_key, zone, updated_since)
-- Local days whose events are no longer those that their aggregate was made from, up to the last
-- day that anything was made for. Only days with an event updated since then are looked at: now,
-- or when they were aggregated (it may have gone), or that an event was moved away from
-- (source_checksum -1).
WITH touched AS (
    SELECT (occurred_at AT TIME ZONE :zone)::date AS day
    FROM lb.student_points
    WHERE institution_key = :institution_key AND updated_at >= :updated_since
    UNION
    SELECT day FROM lb.point_aggregates
    WHERE institution_key = :institution_key
      AND (watermark >= :updated_since OR source_checksum = -1)
), present AS (
    SELECT t.day, count(p.event_id) AS source_rows,
           coalesce(sum((extract(epoch FROM p.updated_at) * 1000000)::bigint & 2147483647), 0)::bigint
               AS source_checksum
    FROM touched t
    LEFT JOIN lb.student_points p
      ON p.institution_key = :institution_key
     AND p.occurred_at >= (t.day - 1)::timestamp AT TIME ZONE :zone
     AND p.occurred_at < (t.day + 2)::timestamp AT TIME ZONE :zone
     AND (p.occurred_at AT TIME ZONE :zone)::date = t.day
    GROUP BY t.day
)
SELECT p.day
FROM present p
LEFT JOIN lb.point_aggregates a ON a.institution_key = :institution_key AND a.day = p.day
WHERE (a.source_rows, a.source_checksum) IS DISTINCT FROM (p.source_rows, p.source_checksum)
  AND p.day <= greatest(
      (SELECT max(day) FROM lb.point_aggregates WHERE institution_key = :institution_key),
      (SELECT max(day) FROM lb.materialized_days WHERE institution_key = :institution_key))
ORDER BY p.day;
