-- Retention: the archive, its ledgers, legal holds, purges, exports, erasures.
-- No ledger holds a student's id; what a row says of a board it says by original_id.

-- Restored snapshots stay ACTIVE through this day, whatever the retention says.
ALTER TABLE lb.leaderboard_snapshots ADD COLUMN active_until date;
COMMENT ON COLUMN lb.leaderboard_snapshots.active_until IS 'Restored: not expired through this day, whatever the retention says';
COMMENT ON COLUMN lb.leaderboard_snapshots.status IS 'ARCHIVED: lb.archived_leaderboard_snapshots holds an equal copy';
-- What has expired is found by one probe a leaf; archived rows, soon nearly all, are not in it.
-- active_until is in it so that restored rows, however many, are passed over inside the index.
CREATE INDEX leaderboard_snapshots_active
    ON lb.leaderboard_snapshots (institution_id, time_granularity, snapshot_date, active_until)
    WHERE status = 'ACTIVE';

CREATE TABLE lb.archived_leaderboard_snapshots (
    archive_run bigint NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL,
    snapshot_date date NOT NULL,
    period_start date NOT NULL,
    revision integer NOT NULL DEFAULT 1 CHECK (revision >= 1),
    institution_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    reference_id text COLLATE "C" NOT NULL,
    time_granularity text COLLATE "C" NOT NULL
        CHECK (time_granularity IN ('daily', 'weekly', 'monthly', 'term', 'all-time')),
    academic_year text COLLATE "C" NOT NULL CHECK (academic_year ~ '^[0-9]{4}-[0-9]{4}$'),
    term_id text COLLATE "C",
    content_hash bytea NOT NULL,
    entries jsonb NOT NULL,
    metadata jsonb NOT NULL,
    distribution bytea NOT NULL,
    original_id text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        institution_id || ':' || type || ':' || reference_id || ':' || time_granularity || ':'
        || lpad(extract(year FROM snapshot_date)::integer::text, 4, '0') || '-'
        || lpad(extract(month FROM snapshot_date)::integer::text, 2, '0') || '-'
        || lpad(extract(day FROM snapshot_date)::integer::text, 2, '0')) STORED,
    partition_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        institution_id || '_' || type || '_'
        || lpad(extract(year FROM snapshot_date)::integer::text, 4, '0') || '-'
        || lpad(extract(month FROM snapshot_date)::integer::text, 2, '0')) STORED,
    PRIMARY KEY (institution_id, original_id, academic_year)
) PARTITION BY LIST (academic_year);
-- The primary key serves a board's history: original_id sorts by board, granularity and date.
CREATE INDEX archived_leaderboard_snapshots_by_date
    ON lb.archived_leaderboard_snapshots (institution_id, snapshot_date, time_granularity);
COMMENT ON TABLE lb.archived_leaderboard_snapshots IS 'Copies of snapshots past their retention; the original is marked ARCHIVED and stays until its partition is purged';
COMMENT ON COLUMN lb.archived_leaderboard_snapshots.academic_year IS '2023-2024, by the institution''s own start month when it was archived';
COMMENT ON COLUMN lb.archived_leaderboard_snapshots.term_id IS 'A class''s own term; a subject''s: of a class of it that holds the date; a campus''s: the institution''s; null: none';
COMMENT ON COLUMN lb.archived_leaderboard_snapshots.revision IS 'Raised when an archived day is materialized again on purpose; lb.archive_revisions keeps the old hash';
COMMENT ON COLUMN lb.archived_leaderboard_snapshots.archive_run IS 'The sweep or import in lb.archive_runs that brought it here';

-- What a set of rows says as 128 bits that do not depend on their order: XOR over the rows. STABLE
-- as convert_to is, or they would not be inlined, which costs a row three times as much.
CREATE FUNCTION lb.digest(id text, content_hash bytea) RETURNS bit(128)
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ('x' || left(encode(sha256(convert_to(id, 'UTF8') || content_hash), 'hex'), 32))::bit(128);
CREATE FUNCTION lb.digest_high(id text, content_hash bytea) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ('x' || left(encode(sha256(convert_to(id, 'UTF8') || content_hash), 'hex'), 16))::bit(64)::bigint;
CREATE FUNCTION lb.digest_low(id text, content_hash bytea) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ('x' || substr(encode(sha256(convert_to(id, 'UTF8') || content_hash), 'hex'), 17, 16))::bit(64)::bigint;

-- Sweeps, restores and imports. Counts and digest grow in the transaction that moves the rows, so
-- that a run which was killed says exactly what it has moved.
CREATE TABLE lb.archive_runs (
    archive_run bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('SWEEP', 'RESTORE', 'IMPORT')),
    time_granularity text COLLATE "C",
    today date NOT NULL,
    cutoff date,
    active_until date,
    selection jsonb NOT NULL DEFAULT '{}',
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    digest_high bigint NOT NULL DEFAULT 0,
    digest_low bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    started_by text NOT NULL,
    run_id text
);
CREATE INDEX archive_runs_by_institution ON lb.archive_runs (institution_key, today, kind);
COMMENT ON COLUMN lb.archive_runs.today IS 'The institution''s day as of which rows were expired, or restored';
COMMENT ON COLUMN lb.archive_runs.cutoff IS 'SWEEP: snapshots before this day had expired';
COMMENT ON COLUMN lb.archive_runs.digest_high IS 'With digest_low: XOR over the rows moved of the first 128 bits of SHA-256(original_id || content_hash)';
COMMENT ON COLUMN lb.archive_runs.finished_at IS 'null: at work, or killed; the rows counted have moved all the same';

CREATE TABLE lb.archive_revisions (
    institution_key integer NOT NULL REFERENCES lb.institutions,
    original_id text COLLATE "C" NOT NULL,
    revision integer NOT NULL,
    old_hash bytea NOT NULL,
    new_hash bytea,
    renewed_at timestamptz NOT NULL DEFAULT now(),
    run_id text,
    PRIMARY KEY (institution_key, original_id, revision)
);
COMMENT ON TABLE lb.archive_revisions IS 'Archived snapshots that were materialized again on purpose';
COMMENT ON COLUMN lb.archive_revisions.new_hash IS 'null: the board has no ranked student any more, and no row';

CREATE TABLE lb.legal_holds (
    hold bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    type text COLLATE "C" CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    first_month date CHECK (extract(day FROM first_month) = 1),
    last_month date CHECK (extract(day FROM last_month) = 1),
    reason text NOT NULL CHECK (reason <> ''),
    placed_by text NOT NULL CHECK (placed_by <> ''),
    placed_at timestamptz NOT NULL DEFAULT now(),
    until date,
    released_by text,
    released_at timestamptz,
    CHECK (first_month <= last_month),
    CHECK ((released_by IS NULL) = (released_at IS NULL))
);
CREATE INDEX legal_holds_by_institution ON lb.legal_holds (institution_key);
COMMENT ON TABLE lb.legal_holds IS 'What no sweep, purge, renewal or erasure passes';
COMMENT ON COLUMN lb.legal_holds.type IS 'null: all types';
COMMENT ON COLUMN lb.legal_holds.first_month IS 'null: from the first';
COMMENT ON COLUMN lb.legal_holds.last_month IS 'null: without end';
COMMENT ON COLUMN lb.legal_holds.until IS 'Last day in force; null: until it is released';

CREATE TABLE lb.exports (
    export bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    directory text NOT NULL,
    selection jsonb NOT NULL,
    rows bigint NOT NULL,
    manifest_sha256 text NOT NULL,
    exported_at timestamptz NOT NULL DEFAULT now(),
    started_by text NOT NULL,
    run_id text
);
CREATE INDEX exports_by_institution ON lb.exports (institution_key);
COMMENT ON TABLE lb.exports IS 'Parquet exports, so that an erasure reaches them';

CREATE TABLE lb.purges (
    purge bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    type text COLLATE "C" NOT NULL CHECK (type IN ('CLASS', 'SUBJECT', 'CAMPUS')),
    month date NOT NULL CHECK (extract(day FROM month) = 1),
    state text COLLATE "C" NOT NULL CHECK (state IN ('DETACHING', 'DETACHED', 'DROPPED', 'KEPT')),
    relation text NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    digest_high bigint NOT NULL,
    digest_low bigint NOT NULL,
    drop_after date NOT NULL,
    export bigint REFERENCES lb.exports,
    started_at timestamptz NOT NULL DEFAULT now(),
    detached_at timestamptz,
    dropped_at timestamptz,
    started_by text NOT NULL,
    run_id text
);
CREATE UNIQUE INDEX purges_under_way ON lb.purges (relation) WHERE state IN ('DETACHING', 'DETACHED');
CREATE INDEX purges_by_institution ON lb.purges (institution_key, type, month);
COMMENT ON TABLE lb.purges IS 'Originals of whole partitions let go, in two phases: detached, then dropped after the grace';
COMMENT ON COLUMN lb.purges.relation IS 'The table in lb_part that holds the originals between the phases';
COMMENT ON COLUMN lb.purges.state IS 'KEPT: it was attached again, so it was not dropped';

CREATE TABLE lb.erasures (
    erasure bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    institution_key integer NOT NULL REFERENCES lb.institutions,
    suppression bytea NOT NULL,
    counts jsonb NOT NULL,
    requested_by text NOT NULL CHECK (requested_by <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    erased_at timestamptz NOT NULL DEFAULT now(),
    run_id text,
    UNIQUE (institution_key, suppression)
);
COMMENT ON TABLE lb.erasures IS 'Students erased: none is named';
COMMENT ON COLUMN lb.erasures.suppression IS 'SHA-256(institutions.erasure_salt || id): an import leaves this student out';

-- Files cannot be part of a transaction: what is left to do in them, gone when it is done.
CREATE TABLE lb.erasure_tasks (
    erasure bigint NOT NULL REFERENCES lb.erasures,
    export bigint NOT NULL REFERENCES lb.exports,
    student_id text COLLATE "C" NOT NULL,
    pseudonym text COLLATE "C" NOT NULL,
    PRIMARY KEY (erasure, export)
);

ALTER TABLE lb.students ADD COLUMN order_key text COLLATE "C";
COMMENT ON COLUMN lb.students.order_key IS 'Place among the ids inside a tie, for an erased student who has lost theirs; null: the id itself';
ALTER TABLE lb.institutions
    ADD COLUMN erasures integer NOT NULL DEFAULT 0,
    ADD COLUMN erasure_salt bytea NOT NULL
        DEFAULT sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
COMMENT ON COLUMN lb.institutions.erasures IS 'Raised by every erasure: what was read before it is not written after it';
