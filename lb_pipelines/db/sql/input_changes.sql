-- The ledger of changed inputs: up to which version inputs were read, and which materialized days are
-- older than a change that can touch them. Triggers write it (m0007_watched_inputs.sql).

-- name: version(institution_key)$
-- All changes up to here are visible to the snapshot of this statement.
SELECT coalesce(max(version), 0) FROM lb.input_changes WHERE institution_key = :institution_key;

-- name: institutions_with_open_changes(institution_keys)
-- Those of the institutions with a change that is not settled and can touch something materialized:
-- one probe of an index for each.
SELECT i.institution_key
FROM unnest(CAST(:institution_keys AS integer[])) AS i (institution_key)
WHERE EXISTS (
    SELECT FROM lb.input_changes c
    WHERE c.institution_key = i.institution_key AND c.settled_at IS NULL
      AND (c.first_at IS NULL OR c.first_at < (
          SELECT max(m.ends_at) FROM lb.materialized_days m
          WHERE m.institution_key = i.institution_key)));

-- name: stale_days(institution_keys)
-- By institution and asset the materialized days that are older than a change which can touch them.
WITH open_changes AS MATERIALIZED (
    SELECT c.institution_key, c.version, c.first_at, c.last_at, c.first_day, c.last_day,
           -- The day of the first event is the first of every all-time window, whatever boards that
           -- event is on.
           CASE WHEN c.input = 'events' AND c.first_at < coalesce(began.ends_at, 'infinity')
                THEN c.assets || ARRAY['class_snapshots', 'subject_snapshots', 'campus_snapshots']
                ELSE c.assets END AS assets
    FROM unnest(CAST(:institution_keys AS integer[])) AS i (institution_key)
    CROSS JOIN LATERAL (
        SELECT max(m.ends_at) AS ends_at FROM lb.materialized_days m
        WHERE m.institution_key = i.institution_key
    ) AS made
    LEFT JOIN LATERAL (
        SELECT m.ends_at
        FROM lb.point_aggregates a JOIN lb.materialized_days m
          ON m.institution_key = i.institution_key AND m.asset = 'point_aggregates'
         AND m.day = a.day
        WHERE a.institution_key = i.institution_key AND a.cells > 0
        ORDER BY a.day LIMIT 1
    ) AS began ON true
    JOIN lb.input_changes c ON c.institution_key = i.institution_key
    WHERE c.settled_at IS NULL AND c.version IS NOT NULL
      AND (c.first_at IS NULL OR c.first_at < made.ends_at)
), changes_of_boards AS MATERIALIZED (
    -- By events a board is older than the newest change before the end of its day: what is left are
    -- those changes that are newer than all before them.
    SELECT institution_key, asset, version, first_at
    FROM (
        SELECT institution_key, asset, version, first_at,
               max(version) OVER (
                   PARTITION BY institution_key, asset ORDER BY first_at, version DESC
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest_before
        FROM open_changes CROSS JOIN LATERAL unnest(assets) AS asset
        WHERE first_at IS NOT NULL AND asset <> 'point_aggregates'
    ) AS c
    WHERE newest_before IS NULL OR version > newest_before
), stale AS (
    SELECT m.institution_key, m.asset, m.day
    FROM open_changes c
    JOIN lb.materialized_days m
      ON m.institution_key = c.institution_key AND m.asset = 'point_aggregates'
     AND m.through_version < c.version
     -- No day is longer than that; the bound is there for the index.
     AND m.ends_at > c.first_at AND m.ends_at < c.last_at + interval '4 days'
     AND m.begins_at <= c.last_at
    WHERE c.first_at IS NOT NULL AND 'point_aggregates' = ANY (c.assets)
    UNION ALL
    SELECT m.institution_key, m.asset, m.day
    FROM changes_of_boards c
    JOIN lb.materialized_days m
      ON m.institution_key = c.institution_key AND m.asset = c.asset
     AND m.through_version < c.version AND m.ends_at > c.first_at
    UNION ALL
    SELECT m.institution_key, m.asset, m.day
    FROM open_changes c
    JOIN lb.materialized_days m
      ON m.institution_key = c.institution_key AND m.asset = ANY (c.assets)
     AND m.through_version < c.version
     AND m.day BETWEEN coalesce(c.first_day, '-infinity') AND coalesce(c.last_day, 'infinity')
    WHERE c.first_at IS NULL
)
SELECT institution_key, asset, range_agg(daterange(day, day, '[]'))
FROM (SELECT DISTINCT institution_key, asset, day FROM stale) AS days
GROUP BY institution_key, asset;

-- name: stale_aggregates(institution_key, last)
-- Aggregated days up to a last one that are older than a change of their events, and the first
-- version of such a change.
SELECT day, min(version)
FROM (
    SELECT m.day, c.version
    FROM lb.input_changes c
    JOIN lb.materialized_days m
      ON m.institution_key = :institution_key AND m.asset = 'point_aggregates'
     AND m.through_version < c.version
     AND m.ends_at > c.first_at AND m.ends_at < c.last_at + interval '4 days'
     AND m.begins_at <= c.last_at
    WHERE c.institution_key = :institution_key AND c.settled_at IS NULL
      AND c.version IS NOT NULL AND 'point_aggregates' = ANY (c.assets)
      AND c.first_at IS NOT NULL
    UNION ALL
    SELECT m.day, c.version
    FROM lb.input_changes c
    JOIN lb.materialized_days m
      ON m.institution_key = :institution_key AND m.asset = 'point_aggregates'
     AND m.through_version < c.version
     AND m.day BETWEEN coalesce(c.first_day, '-infinity') AND coalesce(c.last_day, 'infinity')
    WHERE c.institution_key = :institution_key AND c.settled_at IS NULL
      AND c.version IS NOT NULL AND 'point_aggregates' = ANY (c.assets)
      AND c.first_at IS NULL
) AS stale
WHERE day <= :last
GROUP BY day
ORDER BY day;

-- name: settle(institution_key, through_version)!
UPDATE lb.input_changes SET settled_at = now()
WHERE institution_key = :institution_key AND version <= :through_version AND settled_at IS NULL;

-- name: drop_settled_events(institution_key, before)!
-- The events themselves say what they are; of settings and the school model the ledger stays.
DELETE FROM lb.input_changes
WHERE institution_key = :institution_key AND input = 'events' AND settled_at < :before;

-- name: drop_without_effect(institution_key, after_version, through_version, begins_at, ends_at)!
-- A day was aggregated again and has the same sums: what was changed within it changed nothing.
DELETE FROM lb.input_changes
WHERE institution_key = :institution_key AND input = 'events'
  AND version > :after_version AND version <= :through_version
  AND first_at >= :begins_at AND last_at < :ends_at;

-- name: shorten(institution_key, after_version, through_version, begins_at, ends_at)!
-- The same of changes that concern a neighbouring day too.
UPDATE lb.input_changes
SET first_at = CASE WHEN first_at >= :begins_at THEN :ends_at ELSE first_at END,
    last_at = CASE WHEN first_at >= :begins_at THEN last_at
                   ELSE :begins_at::timestamptz - interval '1 microsecond' END
WHERE institution_key = :institution_key AND input = 'events'
  AND version > :after_version AND version <= :through_version
  AND ((first_at >= :begins_at AND first_at < :ends_at AND last_at >= :ends_at)
       OR (first_at < :begins_at AND last_at >= :begins_at AND last_at < :ends_at));

-- name: narrow(institution_key, after_version, through_version, begins_at, ends_at, unchanged)!
-- The sums of some types of boards are the same.
UPDATE lb.input_changes
SET assets = ARRAY(SELECT a FROM unnest(assets) AS a WHERE a <> ALL (CAST(:unchanged AS text[])))
WHERE institution_key = :institution_key AND input = 'events'
  AND version > :after_version AND version <= :through_version
  AND first_at >= :begins_at AND last_at < :ends_at
  AND assets && CAST(:unchanged AS text[]);

-- name: explains(institution_key, after_version, begins_at, ends_at)$
-- Whether a change says that the aggregate of a day may differ from that of an earlier version, or
-- no boards are there that it could have been in.
SELECT NOT EXISTS (
        SELECT FROM lb.materialized_days
        WHERE institution_key = :institution_key AND ends_at >= :ends_at
          AND asset <> 'point_aggregates')
    OR EXISTS (
        SELECT FROM lb.input_changes
        WHERE institution_key = :institution_key AND version > :after_version
          AND 'point_aggregates' = ANY (assets)
          AND (first_at IS NULL OR (first_at < :ends_at AND last_at >= :begins_at)));

-- name: enter_aggregates(institution_key, day)$
SELECT lb.enter_change(:institution_key, 'aggregates', ARRAY['CLASS', 'SUBJECT', 'CAMPUS'],
    ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'], CAST(:day AS date));
