-- Totals of all days before a day, by the slots of pairs (board, student).

-- name: pairs(institution_key, type, first_slot)
SELECT first_slot, pairs, boards, students FROM lb.point_pairs
WHERE institution_key = :institution_key AND type = :type AND first_slot >= :first_slot
ORDER BY first_slot;

-- name: lock_pairs(institution_key, type)$
-- Until the transaction ends: slots are given by one at a time.
SELECT pg_advisory_xact_lock(hashtextextended('lb_pipelines:pairs:' || :type, :institution_key));

-- name: add_pairs(institution_key, type, first_slot, pairs, boards, students)!
INSERT INTO lb.point_pairs (institution_key, type, first_slot, pairs, boards, students)
VALUES (:institution_key, :type, :first_slot, :pairs, :boards, :students);

-- name: stored(institution_key, type)
SELECT before, through_revision FROM lb.point_totals
WHERE institution_key = :institution_key AND type = :type ORDER BY before;

-- name: total(institution_key, type, before, through_revision)^
SELECT points, events FROM lb.point_totals
WHERE institution_key = :institution_key AND type = :type AND before = :before
  AND through_revision = :through_revision;

-- name: store(institution_key, type, before, through_revision, points, events, block_students, blocks)!
-- A change of an earlier day that was committed meanwhile makes this total stale before it is
-- written; through_revision lets every reader see that.
INSERT INTO lb.point_totals AS t (
    institution_key, type, before, through_revision, points, events, block_students, blocks)
VALUES (:institution_key, :type, :before, :through_revision, :points, :events, :block_students,
        :blocks)
ON CONFLICT (institution_key, type, before) DO UPDATE SET
    through_revision = excluded.through_revision, points = excluded.points,
    events = excluded.events, block_students = excluded.block_students,
    blocks = excluded.blocks, materialized_at = now()
WHERE t.through_revision < excluded.through_revision;

-- name: drop(institution_key, type, cuts)!
DELETE FROM lb.point_totals
WHERE institution_key = :institution_key AND type = :type AND before = ANY (:cuts);

-- name: drop_after(institution_key, day)!
DELETE FROM lb.point_totals WHERE institution_key = :institution_key AND before > :day;
