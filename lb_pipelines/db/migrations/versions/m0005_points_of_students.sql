-- One student's points without reading everybody's: what an exact rank below the top N is made from.

-- Derived: made again when next needed, with what is new.
DELETE FROM lb.point_totals;
ALTER TABLE lb.point_totals
    ADD block_students integer[],
    ADD blocks bytea,
    ADD CHECK ((blocks IS NULL) = (block_students IS NULL));
-- Not compressed, so that a few blocks can be read without the rest.
ALTER TABLE lb.point_totals
    ALTER block_students SET STORAGE EXTERNAL, ALTER blocks SET STORAGE EXTERNAL;
COMMENT ON COLUMN lb.point_totals.blocks IS 'The same pairs by student, in blocks of 64 (lb_pipelines.core.blocks), where the total is kept for good';
COMMENT ON COLUMN lb.point_totals.block_students IS 'The student of the first pair of each block';

-- Which days have changed since a state of the aggregates: few entries, whatever the past.
CREATE INDEX point_aggregates_by_revision ON lb.point_aggregates (institution_key, revision, day);
