-- The tables that aggregates, snapshots and trends need.
-- Ids are text at the edges and integer keys inside; every foreign key carries the institution,
-- so that no row can point into another tenant.

CREATE SCHEMA lb;
CREATE SCHEMA lb_part;
COMMENT ON SCHEMA lb IS 'Leaderboards: roots and dimensions';
COMMENT ON SCHEMA lb_part IS 'Leaves of the partitioned tables of lb';

CREATE TABLE lb.institutions (
    institution_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE
        CHECK (id ~ '^[A-Za-z0-9_-]{1,40}$' AND id <> 'shared' AND id !~ '^archive_'),
    name text NOT NULL,
    status text NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'INACTIVE')),
    time_zone text NOT NULL DEFAULT 'UTC',
    week_start smallint NOT NULL DEFAULT 1 CHECK (week_start = 1),
    academic_year_start_month smallint NOT NULL DEFAULT 8
        CHECK (academic_year_start_month BETWEEN 1 AND 12),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN lb.institutions.week_start IS 'ISO: 1 = Monday, the only week the boards know';
COMMENT ON COLUMN lb.institutions.academic_year_start_month IS '8 = August';

CREATE TABLE lb.campuses (
    campus_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    UNIQUE (institution_key, id),
    UNIQUE (institution_key, campus_key)
);

CREATE TABLE lb.subjects (
    subject_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    UNIQUE (institution_key, id),
    UNIQUE (institution_key, subject_key)
);

CREATE TABLE lb.terms (
    term_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    starts_on date NOT NULL,
    ends_on date NOT NULL,
    CHECK (starts_on <= ends_on),
    UNIQUE (institution_key, id),
    UNIQUE (institution_key, term_key)
);

CREATE TABLE lb.classes (
    class_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    subject_key integer NOT NULL,
    campus_key integer,
    term_key integer NOT NULL,
    UNIQUE (institution_key, id),
    UNIQUE (institution_key, class_key),
    FOREIGN KEY (institution_key, subject_key) REFERENCES lb.subjects (institution_key, subject_key),
    FOREIGN KEY (institution_key, campus_key) REFERENCES lb.campuses (institution_key, campus_key),
    FOREIGN KEY (institution_key, term_key) REFERENCES lb.terms (institution_key, term_key)
);

CREATE TABLE lb.students (
    student_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    id text COLLATE "C" NOT NULL,
    name text,
    UNIQUE (institution_key, id),
    UNIQUE (institution_key, student_key)
);

CREATE TABLE lb.enrollments (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    class_key integer NOT NULL,
    student_key integer NOT NULL,
    campus_key integer,
    enrolled_on date,
    withdrawn_on date,
    PRIMARY KEY (institution_key, class_key, student_key),
    FOREIGN KEY (institution_key, class_key) REFERENCES lb.classes (institution_key, class_key),
    FOREIGN KEY (institution_key, student_key) REFERENCES lb.students (institution_key, student_key),
    FOREIGN KEY (institution_key, campus_key) REFERENCES lb.campuses (institution_key, campus_key)
);
COMMENT ON COLUMN lb.enrollments.campus_key IS 'Where the student takes the class; null: the campus of the class';
COMMENT ON COLUMN lb.enrollments.enrolled_on IS 'First day; null: since ever';
COMMENT ON COLUMN lb.enrollments.withdrawn_on IS 'First day on which the student is no longer enrolled; null: never';

-- No foreign keys here: four of them cost more than the load itself, and every loader resolves
-- ids to keys of the same institution by a join, so a key that does not exist cannot come in.
CREATE TABLE lb.student_points (
    occurred_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    institution_key integer NOT NULL,
    student_key integer NOT NULL,
    class_key integer,
    subject_key integer,
    campus_key integer,
    amount integer NOT NULL,
    status text COLLATE "C" NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'VOIDED')),
    event_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (institution_key, event_id, occurred_at)
) PARTITION BY RANGE (occurred_at);
COMMENT ON COLUMN lb.student_points.event_id IS 'The id in the source; unique in the institution, which makes an import idempotent';
CREATE INDEX student_points_by_time ON lb.student_points (institution_key, occurred_at);
-- A few pages a partition: late events are found by updated_at without slowing the load.
CREATE INDEX student_points_by_update ON lb.student_points USING brin (updated_at)
    WITH (pages_per_range = 32);

CREATE SEQUENCE lb.aggregate_revisions;

CREATE TABLE lb.point_aggregates (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    day date NOT NULL,
    revision bigint NOT NULL,
    source_rows bigint NOT NULL,
    source_checksum bigint NOT NULL,
    watermark timestamptz,
    materialized_at timestamptz NOT NULL DEFAULT now(),
    run_id text,
    content_hash bytea NOT NULL,
    cells integer NOT NULL,
    students integer[] NOT NULL,
    classes integer[] NOT NULL,
    subjects integer[] NOT NULL,
    campuses integer[] NOT NULL,
    points bigint[] NOT NULL,
    events integer[] NOT NULL,
    PRIMARY KEY (institution_key, day)
);
-- Read whole and often: not worth the time that compression takes.
ALTER TABLE lb.point_aggregates
    ALTER students SET STORAGE EXTERNAL, ALTER classes SET STORAGE EXTERNAL,
    ALTER subjects SET STORAGE EXTERNAL, ALTER campuses SET STORAGE EXTERNAL,
    ALTER points SET STORAGE EXTERNAL, ALTER events SET STORAGE EXTERNAL;
COMMENT ON TABLE lb.point_aggregates IS 'One row per institution and day: arrays of equal length, one element per (student, class, subject, campus) with an ACTIVE event; 0 stands for no class, subject or campus. lb.point_aggregate_cells unnests it.';
COMMENT ON COLUMN lb.point_aggregates.revision IS 'Raised whenever the content of the day changes; ascending within an institution; 0: no events, ever';
COMMENT ON COLUMN lb.point_aggregates.cells IS 'Length of each array';
COMMENT ON COLUMN lb.point_aggregates.source_rows IS 'Events of the day, VOIDED included';
COMMENT ON COLUMN lb.point_aggregates.source_checksum IS 'Sum over the events of (updated_at in microseconds mod 2^31)';
COMMENT ON COLUMN lb.point_aggregates.watermark IS 'Latest updated_at among the events read';

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

CREATE VIEW lb.point_aggregate_cells AS
SELECT i.id AS institution_id, a.day, s.id AS student_id, c.id AS class_id, j.id AS subject_id,
       p.id AS campus_id, u.points, u.events
FROM lb.point_aggregates a
JOIN lb.institutions i USING (institution_key)
CROSS JOIN LATERAL unnest(a.students, a.classes, a.subjects, a.campuses, a.points, a.events)
    AS u (student_key, class_key, subject_key, campus_key, points, events)
JOIN lb.students s ON s.institution_key = a.institution_key AND s.student_key = u.student_key
LEFT JOIN lb.classes c ON c.institution_key = a.institution_key AND c.class_key = u.class_key
LEFT JOIN lb.subjects j ON j.institution_key = a.institution_key AND j.subject_key = u.subject_key
LEFT JOIN lb.campuses p ON p.institution_key = a.institution_key AND p.campus_key = u.campus_key;

-- What has been materialized, from which state of the events. A day is stale when a revision
-- above through_revision exists on or before it.
CREATE TABLE lb.materialized_days (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    asset text NOT NULL,
    day date NOT NULL,
    through_revision bigint NOT NULL,
    boards integer NOT NULL,
    run_id text,
    code_version text NOT NULL,
    materialized_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (institution_key, asset, day)
);

-- Partitioned by real columns; the well-known key is a generated label beside them.
CREATE TABLE lb.leaderboard_snapshots (
    snapshot_date date NOT NULL,
    period_start date NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    institution_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    reference_id text COLLATE "C" NOT NULL,
    time_granularity text COLLATE "C" NOT NULL
        CHECK (time_granularity IN ('daily', 'weekly', 'monthly', 'term', 'all-time')),
    status text COLLATE "C" NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'ARCHIVED')),
    content_hash bytea NOT NULL,
    entries jsonb NOT NULL,
    metadata jsonb NOT NULL,
    distribution bytea NOT NULL,
    id text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        institution_id || ':' || type || ':' || reference_id || ':' || time_granularity || ':'
        || lpad(extract(year FROM snapshot_date)::integer::text, 4, '0') || '-'
        || lpad(extract(month FROM snapshot_date)::integer::text, 2, '0') || '-'
        || lpad(extract(day FROM snapshot_date)::integer::text, 2, '0')) STORED,
    partition_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        institution_id || '_' || type || '_'
        || lpad(extract(year FROM snapshot_date)::integer::text, 4, '0') || '-'
        || lpad(extract(month FROM snapshot_date)::integer::text, 2, '0')) STORED,
    PRIMARY KEY (institution_id, type, reference_id, time_granularity, snapshot_date)
) PARTITION BY LIST (institution_id);
-- A day is replaced, listed and swept by date; the primary key serves the history of one board.
CREATE INDEX leaderboard_snapshots_by_date
    ON lb.leaderboard_snapshots (institution_id, snapshot_date, time_granularity);
COMMENT ON TABLE lb.leaderboard_snapshots IS 'One row per board and day, closed: depends only on events of local days up to snapshot_date';
COMMENT ON COLUMN lb.leaderboard_snapshots.entries IS 'Top N: [{"rank", "studentId", "points", "previousRank"}, ...]';
COMMENT ON COLUMN lb.leaderboard_snapshots.distribution IS 'Distinct points and counts of all ranked students, packed (lb_pipelines.core.distribution)';
COMMENT ON COLUMN lb.leaderboard_snapshots.content_hash IS 'BLAKE2b-128 over entries, statistics and distribution; equal content, equal hash';

CREATE TABLE lb.leaderboard_trends (
    snapshot_date date NOT NULL,
    baseline_date date NOT NULL,
    leader_since date NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    ranked integer NOT NULL,
    ranked_change integer NOT NULL,
    mean double precision NOT NULL,
    mean_change double precision,
    median double precision NOT NULL,
    median_change double precision,
    retained_share double precision,
    rank_correlation double precision,
    institution_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    reference_id text COLLATE "C" NOT NULL,
    time_granularity text COLLATE "C" NOT NULL
        CHECK (time_granularity IN ('daily', 'weekly', 'monthly', 'term', 'all-time')),
    leader_id text COLLATE "C" NOT NULL,
    content_hash bytea NOT NULL,
    movement jsonb NOT NULL,
    students jsonb NOT NULL,
    metadata jsonb NOT NULL,
    leader_days integer NOT NULL GENERATED ALWAYS AS (snapshot_date - leader_since + 1) STORED,
    partition_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        institution_id || '_' || type || '_'
        || lpad(extract(year FROM snapshot_date)::integer::text, 4, '0') || '-'
        || lpad(extract(month FROM snapshot_date)::integer::text, 2, '0')) STORED,
    PRIMARY KEY (institution_id, type, reference_id, time_granularity, snapshot_date)
) PARTITION BY LIST (institution_id);
CREATE INDEX leaderboard_trends_by_date
    ON lb.leaderboard_trends (institution_id, snapshot_date, time_granularity);
COMMENT ON TABLE lb.leaderboard_trends IS 'One row per board and day: the board against its baseline';
COMMENT ON COLUMN lb.leaderboard_trends.movement IS '{"top3", "entrants", "leavers", "climbers", "fallers"}';
COMMENT ON COLUMN lb.leaderboard_trends.students IS 'For every entry [{"studentId", "rank", "previousRank", "rankChange", "points", "pointsChange"}, ...]';
COMMENT ON COLUMN lb.leaderboard_trends.leader_since IS 'First day of the unbroken row of materialized days on which this student led';

-- The shared subtree: all institutions without a subtree of their own. ':' cannot occur in an
-- institution id, so no name here can meet the name of a leaf.
CREATE TABLE lb_part."shared:all" PARTITION OF lb.leaderboard_snapshots DEFAULT PARTITION BY LIST (type);
CREATE TABLE lb_part."shared:CLASS" PARTITION OF lb_part."shared:all" FOR VALUES IN ('CLASS') PARTITION BY RANGE (snapshot_date);
CREATE TABLE lb_part."shared:SUBJECT" PARTITION OF lb_part."shared:all" FOR VALUES IN ('SUBJECT') PARTITION BY RANGE (snapshot_date);
CREATE TABLE lb_part."shared:CAMPUS" PARTITION OF lb_part."shared:all" FOR VALUES IN ('CAMPUS') PARTITION BY RANGE (snapshot_date);
CREATE TABLE lb_part."shared:all:trends" PARTITION OF lb.leaderboard_trends DEFAULT PARTITION BY LIST (type);
CREATE TABLE lb_part."shared:CLASS:trends" PARTITION OF lb_part."shared:all:trends" FOR VALUES IN ('CLASS') PARTITION BY RANGE (snapshot_date);
CREATE TABLE lb_part."shared:SUBJECT:trends" PARTITION OF lb_part."shared:all:trends" FOR VALUES IN ('SUBJECT') PARTITION BY RANGE (snapshot_date);
CREATE TABLE lb_part."shared:CAMPUS:trends" PARTITION OF lb_part."shared:all:trends" FOR VALUES IN ('CAMPUS') PARTITION BY RANGE (snapshot_date);
