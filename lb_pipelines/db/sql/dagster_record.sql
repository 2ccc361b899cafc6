-- What Dagster's own record says of partitions `day|institution`. The tables are dagster-postgres'
-- (1.13), found by the connection's search_path.

-- name: is_there()$
SELECT to_regclass('event_logs') IS NOT NULL AND to_regclass('runs') IS NOT NULL;

-- name: green(asset_keys, first, last)
-- Materialized, and not wiped since: asset key, institution, days.
SELECT asset_key, institution_id, range_agg(daterange(day, day, '[]'))
FROM (
    SELECT DISTINCT e.asset_key, split_part(e.partition, '|', 2) AS institution_id,
           split_part(e.partition, '|', 1)::date AS day
    FROM event_logs e
    LEFT JOIN asset_keys k USING (asset_key)
    WHERE e.asset_key = ANY (:asset_keys) AND e.dagster_event_type = 'ASSET_MATERIALIZATION'
      AND e.partition >= :first AND e.partition < :last
      AND (k.wipe_timestamp IS NULL OR e.timestamp > k.wipe_timestamp)
) AS partitions
GROUP BY asset_key, institution_id;

-- name: failed(asset_keys, first, last)
-- Planned later than materialized, by a run that ended: asset key, institution, run, days.
SELECT asset_key, institution_id, run_id, range_agg(daterange(day, day, '[]'))
FROM (
    SELECT asset_key, split_part(partition, '|', 2) AS institution_id,
           split_part(partition, '|', 1)::date AS day,
           max(id) FILTER (WHERE dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED') AS planned,
           max(id) FILTER (WHERE dagster_event_type = 'ASSET_MATERIALIZATION') AS made
    FROM event_logs
    WHERE asset_key = ANY (:asset_keys)
      AND dagster_event_type IN ('ASSET_MATERIALIZATION_PLANNED', 'ASSET_MATERIALIZATION')
      AND partition >= :first AND partition < :last
    GROUP BY asset_key, partition
) AS attempts
JOIN (SELECT id AS planned, run_id FROM event_logs) AS events USING (planned)
JOIN runs USING (run_id)
WHERE (made IS NULL OR made < planned) AND status IN ('FAILURE', 'CANCELED')
GROUP BY asset_key, institution_id, run_id;

-- name: materializations(asset_key, partitions)
-- The last one of each partition, as Dagster has written it down.
SELECT DISTINCT ON (partition) split_part(partition, '|', 2), event
FROM event_logs
WHERE asset_key = :asset_key AND dagster_event_type = 'ASSET_MATERIALIZATION'
  AND partition = ANY (:partitions)
ORDER BY partition, id DESC;
