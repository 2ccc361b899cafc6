-- Dagster's own record of runs: what is old and nothing stands on any more, so that it may go. The
-- tables are dagster-postgres' (1.13), found by the connection's search_path.

-- name: old_runs(before, before_utc, after, at_most)
-- Runs that ended before an instant, by the order in which they were made. Not those of a backfill
-- that is at work, nor those that a run goes on from which is at work.
SELECT r.id, r.run_id
FROM runs r
WHERE r.id > :after AND r.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
  -- Timestamps of Dagster's have no zone and mean UTC.
  AND CASE WHEN r.end_time IS NULL THEN r.update_timestamp < :before_utc
           ELSE to_timestamp(r.end_time) < :before END
  AND NOT EXISTS (
      SELECT FROM run_tags t JOIN bulk_actions b ON b.key = t.value
      WHERE t.run_id = r.run_id AND t.key = 'dagster/backfill'
        AND b.status IN ('REQUESTED', 'CANCELING', 'FAILING'))
  AND NOT EXISTS (
      SELECT FROM runs u JOIN run_tags t ON t.run_id = u.run_id
      WHERE u.status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')
        AND t.key IN ('dagster/root_run_id', 'dagster/parent_run_id') AND t.value = r.run_id)
ORDER BY r.id
LIMIT :at_most;

-- name: superseded_events(run_ids)
-- Of the events of these runs those that nothing stands on. An asset's page and the colour of a
-- partition come from the last event of each kind of a partition: these stay. So does how a run and
-- its steps went. The rest is the log.
SELECT e.id, length(e.event)::bigint AS bytes
FROM event_logs e
WHERE e.run_id = ANY (:run_ids)
  AND CASE
      WHEN e.asset_key IS NULL THEN
          coalesce(e.dagster_event_type, '') <> ALL (ARRAY[
              'PIPELINE_ENQUEUED', 'PIPELINE_STARTING', 'PIPELINE_START', 'PIPELINE_SUCCESS',
              'PIPELINE_FAILURE', 'PIPELINE_CANCELED', 'STEP_START', 'STEP_SUCCESS',
              'STEP_FAILURE'])
      WHEN e.partition IS NULL THEN EXISTS (
          SELECT FROM event_logs l
          WHERE l.asset_key = e.asset_key AND l.dagster_event_type = e.dagster_event_type
            AND l.id > e.id AND l.partition IS NULL)
      ELSE EXISTS (
          SELECT FROM event_logs l
          WHERE l.asset_key = e.asset_key AND l.partition = e.partition AND l.id > e.id
            AND l.dagster_event_type = e.dagster_event_type)
        -- That it was planned, or failed, is over once it is there.
        OR e.dagster_event_type IN ('ASSET_MATERIALIZATION_PLANNED', 'ASSET_FAILED_TO_MATERIALIZE')
           AND EXISTS (
               SELECT FROM event_logs l
               WHERE l.asset_key = e.asset_key AND l.partition = e.partition AND l.id > e.id
                 AND l.dagster_event_type = 'ASSET_MATERIALIZATION')
      END;

-- name: superseded_checks(run_ids)
-- Verdicts of these runs on which a later one of the same check and partition follows.
SELECT c.id, coalesce(length(c.evaluation_event), 0)::bigint AS bytes
FROM asset_check_executions c
JOIN (
    SELECT asset_key, check_name, partition, max(id) AS id
    FROM asset_check_executions
    WHERE execution_status IN ('SUCCEEDED', 'FAILED')
    GROUP BY asset_key, check_name, partition
) AS latest USING (asset_key, check_name)
WHERE c.run_id = ANY (:run_ids) AND c.id < latest.id
  AND latest.partition IS NOT DISTINCT FROM c.partition;

-- name: runs_without_assets(run_ids, event_ids, check_ids)
-- Those that no asset's page leads to any more once these events and verdicts are gone.
SELECT r.run_id
FROM runs r
WHERE r.run_id = ANY (:run_ids)
  AND NOT EXISTS (
      SELECT FROM event_logs e
      WHERE e.run_id = r.run_id AND e.asset_key IS NOT NULL AND e.id <> ALL (:event_ids))
  AND r.run_id NOT IN (
      SELECT c.run_id FROM asset_check_executions c
      WHERE c.run_id = ANY (:run_ids) AND c.id <> ALL (:check_ids));

-- name: delete_events(event_ids)!
WITH tags AS (DELETE FROM asset_event_tags WHERE event_id = ANY (:event_ids))
DELETE FROM event_logs WHERE id = ANY (:event_ids);

-- name: delete_checks(check_ids)!
DELETE FROM asset_check_executions WHERE id = ANY (:check_ids);

-- name: delete_runs(run_ids)!
-- With their last events, and with their tags by the foreign key.
WITH events AS (DELETE FROM event_logs WHERE run_id = ANY (:run_ids))
DELETE FROM runs WHERE run_id = ANY (:run_ids);

-- name: old_ticks(before_utc, at_most)
-- Of schedules and sensors, also of those that are no more; the last of each stays.
SELECT t.id, coalesce(length(t.tick_body), 0)::bigint AS bytes
FROM job_ticks t
WHERE t.timestamp < :before_utc AND t.status <> 'STARTED'
  AND t.id <> ALL (
      SELECT max(l.id) FROM job_ticks l GROUP BY coalesce(l.selector_id, l.job_origin_id))
ORDER BY t.id
LIMIT :at_most;

-- name: delete_ticks(tick_ids)!
DELETE FROM job_ticks WHERE id = ANY (:tick_ids);
