-- Totals as they were: one row for all types, an array a column.

DROP TABLE lb.point_totals, lb.point_pairs;

CREATE TABLE lb.point_totals (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    before date NOT NULL,
    through_revision bigint NOT NULL,
    materialized_at timestamptz NOT NULL DEFAULT now(),
    students integer[] NOT NULL,
    classes integer[] NOT NULL,
    subjects integer[] NOT NULL,
    campuses integer[] NOT NULL,
    points bigint[] NOT NULL,
    events integer[] NOT NULL,
    PRIMARY KEY (institution_key, before)
);
ALTER TABLE lb.point_totals
    ALTER students SET STORAGE EXTERNAL, ALTER classes SET STORAGE EXTERNAL,
    ALTER subjects SET STORAGE EXTERNAL, ALTER campuses SET STORAGE EXTERNAL,
    ALTER points SET STORAGE EXTERNAL, ALTER events SET STORAGE EXTERNAL;
COMMENT ON TABLE lb.point_totals IS 'Sum of point_aggregates over all days before a month or term begins. Derived: dropped with any earlier change, made again when needed.';
COMMENT ON COLUMN lb.point_totals.through_revision IS 'Highest revision among the days summed; a total whose days have a higher one is not used';

DO $policies$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['point_totals'] LOOP
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
