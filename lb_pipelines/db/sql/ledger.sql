-- What has been materialized, and from which state of the events.

-- name: claim(institution_key, asset, day, through_revision, through_version, begins_at, ends_at, boards, run_id, code_version)$
-- Locks the day for this transaction. No row comes back where a later state already stands. Changes
-- that the day's inputs do not hold are open again: they were settled when this day was not there.
WITH reopened AS (
    UPDATE lb.input_changes SET settled_at = NULL
    WHERE institution_key = :institution_key AND version > :through_version
      AND settled_at IS NOT NULL
)
INSERT INTO lb.materialized_days AS m (
    institution_key, asset, day, through_revision, through_version, begins_at, ends_at, boards,
    run_id, code_version)
VALUES (:institution_key, :asset, :day, :through_revision, :through_version, :begins_at, :ends_at,
        :boards, :run_id, :code_version)
ON CONFLICT (institution_key, asset, day) DO UPDATE SET
    through_revision = excluded.through_revision, through_version = excluded.through_version,
    begins_at = excluded.begins_at, ends_at = excluded.ends_at, boards = excluded.boards,
    archived_differing = 0,
    run_id = excluded.run_id, code_version = excluded.code_version, materialized_at = now()
WHERE m.through_revision <= excluded.through_revision
  AND m.through_version <= excluded.through_version
RETURNING true;

-- name: materialized(institution_key, asset, first, last)
SELECT day, through_revision, boards, run_id
FROM lb.materialized_days
WHERE institution_key = :institution_key AND asset = :asset AND day BETWEEN :first AND :last
ORDER BY day;

-- name: note_archived_differing(institution_key, asset, day, archived_differing)!
UPDATE lb.materialized_days SET archived_differing = :archived_differing
WHERE institution_key = :institution_key AND asset = :asset AND day = :day;

-- name: archived_differing(institution_key, first, last)
-- Days that the archive says something else of than their inputs, by asset.
SELECT asset, range_agg(daterange(day, day, '[]'))
FROM lb.materialized_days
WHERE institution_key = :institution_key AND archived_differing > 0
  AND day BETWEEN :first AND :last
GROUP BY asset;
