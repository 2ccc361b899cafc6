-- Reading: row level security for whoever only reads, and a version of every month of boards.

-- Raised in the transaction that changes a month's boards, trends or archive, so that whoever
-- keeps what was read (lb_pipelines/service/cache.py) sees at once that it is out of date.
CREATE TABLE lb.board_versions (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    type text COLLATE "C" NOT NULL CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    month date NOT NULL CHECK (extract(day FROM month) = 1),
    version bigint NOT NULL,
    PRIMARY KEY (institution_key, type, month)
) WITH (fillfactor = 50);
COMMENT ON TABLE lb.board_versions IS 'How often the boards, trends and archive of a month have changed; no row: never';
COMMENT ON COLUMN lb.board_versions.version IS 'Microseconds since 1970 when it was raised, one more than before at least: never the same again, not even in a database that was restored or made anew';

-- One student's events of any days: what an exact rank below the top N is made from.
CREATE INDEX student_points_by_student
    ON lb.student_points (institution_key, student_key, occurred_at);

-- Two roles of the whole cluster (made before this file runs). lb_reader sees the institution that
-- app.institution_id names, and nothing where that is unset or empty. lb_worker sees all: the
-- owner of the tables is a member, because FORCE holds for owners too. Leaves have no policies
-- and no grants: they are reached through their roots alone.
DO $policies$
DECLARE
    relation text;
    whose text;
BEGIN
    FOR relation, whose IN
        SELECT v.relation, CASE v.column_name
            WHEN 'id' THEN 'id = current_setting(''app.institution_id'', true)'
            WHEN 'institution_id' THEN
                'institution_id = current_setting(''app.institution_id'', true)'
            -- Uncorrelated, so it is looked up once a statement.
            ELSE 'institution_key = (SELECT institution_key FROM lb.institutions'
                 ' WHERE id = current_setting(''app.institution_id'', true))'
            END
        FROM (VALUES
            ('institutions', 'id'),
            ('campuses', 'institution_key'),
            ('subjects', 'institution_key'),
            ('terms', 'institution_key'),
            ('classes', 'institution_key'),
            ('students', 'institution_key'),
            ('enrollments', 'institution_key'),
            ('student_points', 'institution_key'),
            ('point_aggregates', 'institution_key'),
            ('point_totals', 'institution_key'),
            ('materialized_days', 'institution_key'),
            ('leaderboard_snapshots', 'institution_id'),
            ('leaderboard_trends', 'institution_id'),
            ('archived_leaderboard_snapshots', 'institution_id')
        ) AS v (relation, column_name)
    LOOP
        EXECUTE 'ALTER TABLE lb.' || relation || ' ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY';
        EXECUTE 'CREATE POLICY one_institution ON lb.' || relation
            || ' FOR SELECT TO lb_reader USING (' || whose || ')';
        EXECUTE 'CREATE POLICY all_institutions ON lb.' || relation
            || ' TO lb_worker USING (true) WITH CHECK (true)';
        -- Of an institution not the salt that keeps erased students unknown.
        EXECUTE 'GRANT SELECT'
            || CASE WHEN relation = 'institutions' THEN ' (institution_key, id, name, status,'
                ' time_zone, week_start, academic_year_start_month, metadata, created_at)'
                ELSE '' END
            || ' ON lb.' || relation || ' TO lb_reader';
    END LOOP;
END
$policies$;
GRANT USAGE ON SCHEMA lb TO lb_reader;
