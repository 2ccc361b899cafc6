-- Totals by slot: what a pass loads of the past in one read, without a key for each number.

DROP TABLE lb.point_totals;

CREATE TABLE lb.point_pairs (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    type text COLLATE "C" NOT NULL CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    first_slot integer NOT NULL CHECK (first_slot >= 0),
    pairs integer NOT NULL CHECK (pairs > 0),
    boards bytea NOT NULL,
    students bytea NOT NULL,
    PRIMARY KEY (institution_key, type, first_slot)
);
ALTER TABLE lb.point_pairs ALTER boards SET STORAGE EXTERNAL, ALTER students SET STORAGE EXTERNAL;
COMMENT ON TABLE lb.point_pairs IS 'The pairs (board, student) that ever had an event, in the order in which they were met; a pair keeps its slot for good. Rows are only ever added.';
COMMENT ON COLUMN lb.point_pairs.boards IS 'Keys of classes, subjects or campuses, packed (lb_pipelines.core.packed)';

CREATE TABLE lb.point_totals (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    type text COLLATE "C" NOT NULL CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    before date NOT NULL,
    through_revision bigint NOT NULL,
    materialized_at timestamptz NOT NULL DEFAULT now(),
    points bytea NOT NULL,
    events bytea NOT NULL,
    PRIMARY KEY (institution_key, type, before)
);
ALTER TABLE lb.point_totals ALTER points SET STORAGE EXTERNAL, ALTER events SET STORAGE EXTERNAL;
COMMENT ON TABLE lb.point_totals IS 'Sum of point_aggregates over all days before a day, by the slots of point_pairs: at the beginning of months and terms for good, of the last days for the next ones. Derived: dropped with any earlier change, made again when needed.';
COMMENT ON COLUMN lb.point_totals.through_revision IS 'Highest revision among the days summed; a total whose days have a higher one is not used';
COMMENT ON COLUMN lb.point_totals.points IS 'Points by slot, packed (lb_pipelines.core.packed); slots beyond the end have none';

-- As all tables of institutions (m0003_reading.sql).
DO $policies$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['point_pairs', 'point_totals'] LOOP
        EXECUTE 'ALTER TABLE lb.' || relation || ' ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY';
        EXECUTE 'CREATE POLICY one_institution ON lb.' || relation
            || ' FOR SELECT TO lb_reader USING (institution_key = (SELECT institution_key'
               ' FROM lb.institutions WHERE id = current_setting(''app.institution_id'', true)))';
        EXECUTE 'CREATE POLICY all_institutions ON lb.' || relation
            || ' TO lb_worker USING (true) WITH CHECK (true)';
        EXECUTE 'GRANT SELECT ON lb.' || relation || ' TO lb_reader';
    END LOOP;
END
$policies$;
