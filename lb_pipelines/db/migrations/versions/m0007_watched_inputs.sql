-- Watched inputs: every change of what a board is computed from is entered by the database itself,
-- whoever makes it.
--
-- Triggers write lb.input_changes in the transaction of the change. The version of an entry is drawn
-- when that transaction commits, under a lock of the institution that is held until it has: so
-- versions of an institution become visible in ascending order, and a snapshot that sees one sees
-- all before it. What is materialized says up to which version its inputs were read.

CREATE SEQUENCE lb.input_versions;

CREATE TABLE lb.input_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version bigint,
    institution_key integer NOT NULL,
    input text COLLATE "C" NOT NULL CHECK (input IN (
        'events', 'time_zone', 'ranking', 'limits', 'terms', 'classes', 'subjects', 'campuses',
        'students', 'enrollments', 'aggregates', 'code')),
    assets text[] COLLATE "C" NOT NULL,
    granularities text[] COLLATE "C" NOT NULL,
    first_at timestamptz,
    last_at timestamptz,
    first_day date,
    last_day date,
    row_count bigint NOT NULL DEFAULT 1,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL DEFAULT session_user,
    settled_at timestamptz,
    CHECK ((first_at IS NULL) = (last_at IS NULL))
);
COMMENT ON TABLE lb.input_changes IS 'Changes of events, settings and the school model, and which days and boards each can touch';
COMMENT ON COLUMN lb.input_changes.input IS 'What was changed; aggregates: sums that no entry of events explains; code: how boards are computed';
COMMENT ON COLUMN lb.input_changes.version IS 'Ascending within an institution in the order of commits; null only inside the transaction of the change';
COMMENT ON COLUMN lb.input_changes.assets IS 'The daily assets that the change can touch';
COMMENT ON COLUMN lb.input_changes.granularities IS 'The granularities of boards that the change can touch';
COMMENT ON COLUMN lb.input_changes.first_at IS 'Events: the earliest occurred_at concerned; touches the aggregates of its day, and the boards of every day that ends after it';
COMMENT ON COLUMN lb.input_changes.first_day IS 'Other inputs: the first day that the change can touch; null: every day up to last_day';
COMMENT ON COLUMN lb.input_changes.last_day IS 'The last day that it can touch; null: every day from first_day on';
COMMENT ON COLUMN lb.input_changes.row_count IS 'Rows of the input that were added, changed or removed';
COMMENT ON COLUMN lb.input_changes.settled_at IS 'When no materialized day was found to be older than the change';
CREATE INDEX input_changes_by_version ON lb.input_changes (institution_key, version);
CREATE INDEX input_changes_unsettled ON lb.input_changes (institution_key, first_at)
    WHERE settled_at IS NULL;
CREATE INDEX input_changes_without_version ON lb.input_changes (institution_key)
    WHERE version IS NULL;

ALTER TABLE lb.input_changes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY one_institution ON lb.input_changes FOR SELECT TO lb_reader
    USING (institution_key = (SELECT institution_key FROM lb.institutions
                              WHERE id = current_setting('app.institution_id', true)));
CREATE POLICY all_institutions ON lb.input_changes TO lb_worker USING (true) WITH CHECK (true);
GRANT SELECT ON lb.input_changes TO lb_reader;

-- What is materialized: when its day began and ended, the version up to which its inputs were read,
-- and how many of its rows in the archive say something else than its inputs.
ALTER TABLE lb.materialized_days
    ADD through_version bigint NOT NULL DEFAULT 0,
    ADD begins_at timestamptz,
    ADD ends_at timestamptz,
    ADD archived_differing integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN lb.materialized_days.through_version IS 'All changes of inputs up to this version were seen (lb.input_changes)';
COMMENT ON COLUMN lb.materialized_days.begins_at IS 'The first instant of the day in the institution''s zone';
COMMENT ON COLUMN lb.materialized_days.ends_at IS 'The first instant after the day';
COMMENT ON COLUMN lb.materialized_days.archived_differing IS 'Snapshots of the day in the archive that no longer say what the inputs say';
CREATE INDEX materialized_days_by_end ON lb.materialized_days (institution_key, ends_at);
CREATE INDEX materialized_days_archived_differing ON lb.materialized_days (institution_key)
    WHERE archived_differing > 0;

-- Changes were found by updated_at and a checksum over it before.
DROP INDEX lb.point_aggregates_moved, lb.materialized_days_by_making, lb.student_points_by_update;
ALTER TABLE lb.point_aggregates DROP source_checksum;

-- The version is drawn at the end of the transaction, for all of its entries at once. Keys in one
-- order, so that two transactions do not wait for each other in a circle.
CREATE FUNCTION lb.number_input_changes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM lb.input_changes WHERE change_id = NEW.change_id AND version IS NULL
    ) THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(x'6c76'::integer, k.institution_key)
    FROM (SELECT DISTINCT institution_key FROM lb.input_changes
          WHERE version IS NULL ORDER BY institution_key) AS k;
    -- MATERIALIZED: one version per institution, not one per row.
    WITH versions AS MATERIALIZED (
        SELECT institution_key, nextval('lb.input_versions') AS version
        FROM (SELECT DISTINCT institution_key FROM lb.input_changes WHERE version IS NULL) AS k
    )
    UPDATE lb.input_changes c SET version = v.version
    FROM versions v
    WHERE c.institution_key = v.institution_key AND c.version IS NULL;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER number_input_changes AFTER INSERT ON lb.input_changes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION lb.number_input_changes();

CREATE FUNCTION lb.board_assets(types text[], snapshots boolean, trends boolean) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    RETURN (SELECT array_agg(lower(t.type) || k.kind ORDER BY k.kind, t.type)
            FROM unnest(types) AS t (type)
            CROSS JOIN unnest(ARRAY['_snapshots', '_trends']) AS k (kind)
            WHERE CASE k.kind WHEN '_snapshots' THEN snapshots ELSE trends END);
COMMENT ON FUNCTION lb.board_assets IS 'The names of the assets of these types of boards';

CREATE FUNCTION lb.enter_change(
    institution_key integer, input text, types text[], granularities text[],
    first_day date DEFAULT '-infinity', last_day date DEFAULT 'infinity',
    snapshots boolean DEFAULT true, trends boolean DEFAULT true, row_count bigint DEFAULT 1
) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO lb.input_changes
        (institution_key, input, assets, granularities, first_day, last_day, row_count)
    SELECT institution_key, input, a.assets, granularities, nullif(first_day, '-infinity'),
           nullif(last_day, 'infinity'), row_count
    FROM (SELECT lb.board_assets(types, snapshots, trends)) AS a (assets)
    WHERE a.assets IS NOT NULL AND first_day <= last_day;
END;
COMMENT ON FUNCTION lb.enter_change IS 'Enter a change of an input that touches the boards of these types and granularities from first_day to last_day';

-- Events. One entry per institution, 24 hours and kinds of boards: 24 hours are at most two local
-- days, so with its first and last instant an entry names no day that has no event among them.

CREATE FUNCTION lb.event_assets(of_class boolean, of_subject boolean, of_campus boolean)
    RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY['point_aggregates']
        || CASE WHEN of_class THEN ARRAY['class_snapshots', 'class_trends'] ELSE '{}' END
        || CASE WHEN of_subject THEN ARRAY['subject_snapshots', 'subject_trends'] ELSE '{}' END
        || CASE WHEN of_campus THEN ARRAY['campus_snapshots', 'campus_trends'] ELSE '{}' END;

CREATE FUNCTION lb.enter_events() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO lb.input_changes
        (institution_key, input, assets, granularities, first_at, last_at, row_count)
    SELECT institution_key, 'events',
           lb.event_assets(class_key IS NOT NULL, subject_key IS NOT NULL, campus_key IS NOT NULL),
           ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'],
           min(occurred_at), max(occurred_at), count(*)
    FROM touched
    WHERE status = 'ACTIVE'
    GROUP BY institution_key, date_bin('1 day', occurred_at, '2000-01-01 00:00+00'),
        class_key IS NOT NULL, subject_key IS NOT NULL, campus_key IS NOT NULL;
    RETURN NULL;
END
$$;

-- What was ACTIVE before and is not so now, and the other way round: an update that changes nothing
-- that a board shows enters nothing.
CREATE FUNCTION lb.enter_updated_events() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO lb.input_changes
        (institution_key, input, assets, granularities, first_at, last_at, row_count)
    WITH before AS (
        SELECT institution_key, occurred_at, student_key, class_key, subject_key, campus_key, amount
        FROM replaced WHERE status = 'ACTIVE'
    ), after AS (
        SELECT institution_key, occurred_at, student_key, class_key, subject_key, campus_key, amount
        FROM touched WHERE status = 'ACTIVE'
    )
    SELECT institution_key, 'events',
           lb.event_assets(class_key IS NOT NULL, subject_key IS NOT NULL, campus_key IS NOT NULL),
           ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'],
           min(occurred_at), max(occurred_at), count(*)
    FROM ((TABLE before EXCEPT ALL TABLE after) UNION ALL (TABLE after EXCEPT ALL TABLE before)) AS c
    GROUP BY institution_key, date_bin('1 day', occurred_at, '2000-01-01 00:00+00'),
        class_key IS NOT NULL, subject_key IS NOT NULL, campus_key IS NOT NULL;
    RETURN NULL;
END
$$;

-- Of a table that is about to be emptied; TRUNCATE of a partitioned table fires it on every leaf.
CREATE FUNCTION lb.enter_truncated_events() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format($statement$
        INSERT INTO lb.input_changes
            (institution_key, input, assets, granularities, first_at, last_at, row_count)
        SELECT institution_key, 'events',
               lb.event_assets(class_key IS NOT NULL, subject_key IS NOT NULL, campus_key IS NOT NULL),
               ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'],
               min(occurred_at), max(occurred_at), count(*)
        FROM %s
        WHERE status = 'ACTIVE'
        GROUP BY institution_key, date_bin('1 day', occurred_at, '2000-01-01 00:00+00'),
        class_key IS NOT NULL, subject_key IS NOT NULL, campus_key IS NOT NULL
        $statement$, TG_RELID::regclass);
    RETURN NULL;
END
$$;

-- A statement fires the triggers of the table that it names, so leaves have them too. COPY into the
-- root with a transition table takes rows one by one: imports write to the leaves.
CREATE FUNCTION lb.watch_events(events regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER enter_inserted AFTER INSERT ON %s'
        ' REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_events()', events);
    EXECUTE format('CREATE TRIGGER enter_deleted AFTER DELETE ON %s'
        ' REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_events()', events);
    EXECUTE format('CREATE TRIGGER enter_updated AFTER UPDATE ON %s'
        ' REFERENCING OLD TABLE AS replaced NEW TABLE AS touched'
        ' FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_updated_events()', events);
    IF events <> 'lb.student_points'::regclass THEN
        EXECUTE format('CREATE TRIGGER enter_truncated BEFORE TRUNCATE ON %s'
            ' FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_truncated_events()', events);
    END IF;
END
$$;
COMMENT ON FUNCTION lb.watch_events IS 'Let a leaf of lb.student_points enter its changes in lb.input_changes';
SELECT lb.watch_events('lb.student_points');
SELECT lb.watch_events(inhrelid::regclass) FROM pg_inherits
WHERE inhparent = 'lb.student_points'::regclass;

-- Institutions: zone, rank method, limits. An id stands in the boards and in the names of partitions.

CREATE FUNCTION lb.enter_institution() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    every_type CONSTANT text[] := ARRAY['CLASS', 'SUBJECT', 'CAMPUS'];
    every_granularity CONSTANT text[] := ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'];
BEGIN
    IF OLD.time_zone <> NEW.time_zone THEN
        INSERT INTO lb.input_changes (institution_key, input, assets, granularities)
        VALUES (NEW.institution_key, 'time_zone',
                ARRAY['point_aggregates'] || lb.board_assets(every_type, true, true),
                every_granularity);
    END IF;
    IF OLD.metadata -> 'leaderboardRanking' IS DISTINCT FROM NEW.metadata -> 'leaderboardRanking' THEN
        PERFORM lb.enter_change(NEW.institution_key, 'ranking', every_type, every_granularity);
    END IF;
    PERFORM lb.enter_change(NEW.institution_key, 'limits', ARRAY[l.type], array_agg(l.granularity))
    FROM (
        SELECT t.type, g.granularity
        FROM unnest(every_type) AS t (type) CROSS JOIN unnest(every_granularity) AS g (granularity)
        WHERE OLD.metadata #> ARRAY['leaderboardLimits', t.type, g.granularity]
            IS DISTINCT FROM NEW.metadata #> ARRAY['leaderboardLimits', t.type, g.granularity]
    ) AS l
    GROUP BY l.type;
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_updated AFTER UPDATE OF time_zone, metadata ON lb.institutions
    FOR EACH ROW WHEN (OLD.time_zone <> NEW.time_zone OR OLD.metadata <> NEW.metadata)
    EXECUTE FUNCTION lb.enter_institution();

CREATE FUNCTION lb.refuse_new_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'The id of institution % cannot be changed to %: its boards and partitions bear it',
        quote_literal(OLD.id), quote_literal(NEW.id)
        USING ERRCODE = 'restrict_violation',
              HINT = 'Import the institution under the new id, and set the status of the old one to INACTIVE';
END
$$;
CREATE TRIGGER refuse_new_id BEFORE UPDATE OF id ON lb.institutions
    FOR EACH ROW WHEN (OLD.id <> NEW.id) EXECUTE FUNCTION lb.refuse_new_id();

-- Terms. A trend's baseline of a TERM board is seven days before. For how long somebody has led may
-- reach back over terms that follow each other without a gap.

CREATE FUNCTION lb.enter_term_days(
    institution_key integer, input text, types text[], first_day date, last_day date
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    compared_through CONSTANT date := last_day + 7;
    led_through date;
BEGIN
    SELECT max(upper(island)) - 1 INTO led_through
    FROM (
        SELECT unnest(range_agg(days)) AS island
        FROM (SELECT daterange(t.starts_on, t.ends_on, '[]') AS days FROM lb.terms t
              WHERE t.institution_key = enter_term_days.institution_key
              UNION ALL SELECT daterange(first_day, last_day, '[]')) AS d
    ) AS i
    WHERE island && daterange(first_day, last_day, '[]');
    PERFORM lb.enter_change(institution_key, input, types, ARRAY['term'], first_day,
                            compared_through, trends => false);
    PERFORM lb.enter_change(institution_key, input, types, ARRAY['term'], first_day,
                            greatest(compared_through, led_through), snapshots => false);
END
$$;

-- Windows that begin on the same day are the same up to the earlier end.
CREATE FUNCTION lb.enter_window_change(
    institution_key integer, input text, types text[], old_start date, old_end date,
    new_start date, new_end date
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF old_start = new_start THEN
        IF old_end <> new_end THEN
            PERFORM lb.enter_term_days(institution_key, input, types,
                                       least(old_end, new_end) + 1, greatest(old_end, new_end));
        END IF;
        RETURN;
    END IF;
    PERFORM lb.enter_term_days(institution_key, input, types, old_start, old_end)
    WHERE old_start IS NOT NULL;
    PERFORM lb.enter_term_days(institution_key, input, types, new_start, new_end)
    WHERE new_start IS NOT NULL;
END
$$;

CREATE FUNCTION lb.enter_term() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Of a new term, and of one that may go, no class is.
    PERFORM lb.enter_window_change(
        coalesce(NEW.institution_key, OLD.institution_key), 'terms',
        CASE TG_OP WHEN 'UPDATE' THEN ARRAY['CLASS', 'SUBJECT', 'CAMPUS']
                   ELSE ARRAY['SUBJECT', 'CAMPUS'] END,
        OLD.starts_on, OLD.ends_on, NEW.starts_on, NEW.ends_on);
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_changed AFTER INSERT OR DELETE ON lb.terms
    FOR EACH ROW EXECUTE FUNCTION lb.enter_term();
CREATE TRIGGER enter_updated AFTER UPDATE OF starts_on, ends_on ON lb.terms
    FOR EACH ROW EXECUTE FUNCTION lb.enter_term();

-- Classes, subjects, campuses, students. Events name them by key, boards by id.

CREATE FUNCTION lb.enter_class() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    every_granularity CONSTANT text[] := ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'];
    before lb.terms;
    after lb.terms;
BEGIN
    IF OLD.id <> NEW.id THEN
        PERFORM lb.enter_change(NEW.institution_key, 'classes', ARRAY['CLASS'], every_granularity);
    END IF;
    IF OLD.term_key <> NEW.term_key THEN
        SELECT * INTO before FROM lb.terms WHERE term_key = OLD.term_key;
        SELECT * INTO after FROM lb.terms WHERE term_key = NEW.term_key;
        PERFORM lb.enter_window_change(NEW.institution_key, 'classes', ARRAY['CLASS'],
            before.starts_on, before.ends_on, after.starts_on, after.ends_on);
    END IF;
    -- Boards of subjects and campuses count who is enrolled in their classes; events say by
    -- themselves to which they belong.
    PERFORM lb.enter_change(NEW.institution_key, 'classes', ARRAY[t.type], every_granularity,
        min(coalesce(e.enrolled_on, '-infinity')), max(coalesce(e.withdrawn_on - 1, 'infinity')),
        trends => false)
    FROM lb.enrollments e
    CROSS JOIN unnest(ARRAY['SUBJECT', 'CAMPUS']) AS t (type)
    WHERE e.institution_key = NEW.institution_key AND e.class_key = NEW.class_key
      AND CASE t.type WHEN 'SUBJECT' THEN OLD.subject_key <> NEW.subject_key
          ELSE e.campus_key IS NULL AND OLD.campus_key IS DISTINCT FROM NEW.campus_key END
    GROUP BY t.type;
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_updated AFTER UPDATE OF id, term_key, subject_key, campus_key ON lb.classes
    FOR EACH ROW EXECUTE FUNCTION lb.enter_class();

-- What is gone, or has another id; TG_ARGV: the types of boards that show it.
CREATE FUNCTION lb.enter_dimension() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM lb.enter_change(OLD.institution_key, TG_TABLE_NAME, TG_ARGV::text[],
                            ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time']);
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_deleted AFTER DELETE ON lb.classes
    FOR EACH ROW EXECUTE FUNCTION lb.enter_dimension('CLASS');
CREATE TRIGGER enter_deleted AFTER DELETE ON lb.subjects
    FOR EACH ROW EXECUTE FUNCTION lb.enter_dimension('SUBJECT');
CREATE TRIGGER enter_updated AFTER UPDATE OF id ON lb.subjects
    FOR EACH ROW WHEN (OLD.id <> NEW.id) EXECUTE FUNCTION lb.enter_dimension('SUBJECT');
CREATE TRIGGER enter_deleted AFTER DELETE ON lb.campuses
    FOR EACH ROW EXECUTE FUNCTION lb.enter_dimension('CAMPUS');
CREATE TRIGGER enter_updated AFTER UPDATE OF id ON lb.campuses
    FOR EACH ROW WHEN (OLD.id <> NEW.id) EXECUTE FUNCTION lb.enter_dimension('CAMPUS');

-- A student's boards from the first event on. An erasure, which gives an id its place in the order
-- (order_key), writes the boards itself.
CREATE FUNCTION lb.enter_student() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO lb.input_changes
        (institution_key, input, assets, granularities, first_at, last_at)
    SELECT OLD.institution_key, 'students',
           (lb.event_assets(count(class_key) > 0, count(subject_key) > 0, count(campus_key) > 0))[2:],
           ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'],
           min(occurred_at), max(occurred_at)
    FROM lb.student_points
    WHERE institution_key = OLD.institution_key AND student_key = OLD.student_key
      AND status = 'ACTIVE'
    HAVING count(*) > 0;
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_deleted AFTER DELETE ON lb.students
    FOR EACH ROW EXECUTE FUNCTION lb.enter_student();
CREATE TRIGGER enter_updated AFTER UPDATE OF id, order_key ON lb.students
    FOR EACH ROW WHEN ((OLD.id, OLD.order_key) IS DISTINCT FROM (NEW.id, NEW.order_key)
                       AND NOT (OLD.order_key IS NULL AND NEW.order_key IS NOT NULL))
    EXECUTE FUNCTION lb.enter_student();

-- Enrollments: how many are enrolled on a day. One entry per institution, months of the first and
-- last day and kinds of boards, so that an import of millions enters few.

CREATE FUNCTION lb.enter_enrollments() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM lb.enter_change(institution_key, 'enrollments',
        ARRAY['CLASS', 'SUBJECT'] || CASE WHEN with_campus THEN ARRAY['CAMPUS'] ELSE '{}' END,
        ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'],
        min(first_day), max(last_day), trends => false, row_count => count(*))
    FROM (
        SELECT e.institution_key, coalesce(e.campus_key, c.campus_key) IS NOT NULL AS with_campus,
               coalesce(e.enrolled_on, '-infinity') AS first_day,
               coalesce(e.withdrawn_on - 1, 'infinity') AS last_day
        FROM touched e
        JOIN lb.classes c USING (institution_key, class_key)
    ) AS e
    WHERE first_day <= last_day
    GROUP BY institution_key, with_campus, date_trunc('month', first_day::timestamp),
             date_trunc('month', last_day::timestamp);
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_inserted AFTER INSERT ON lb.enrollments
    REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_enrollments();
CREATE TRIGGER enter_deleted AFTER DELETE ON lb.enrollments
    REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_enrollments();

-- Days on which an enrollment is there before or after, but not both; all days for the boards of a
-- campus that it moves to or from.
CREATE FUNCTION lb.enter_updated_enrollments() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM lb.enter_change(institution_key, 'enrollments',
        CASE WHEN campus_only THEN ARRAY['CAMPUS'] ELSE ARRAY['CLASS', 'SUBJECT', 'CAMPUS'] END,
        ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'],
        min(first_day), max(last_day), trends => false, row_count => count(*))
    FROM (
        SELECT institution_key, (o).campus_key IS DISTINCT FROM (n).campus_key AS moved,
               coalesce((o).enrolled_on, '-infinity') AS old_first,
               coalesce((o).withdrawn_on - 1, 'infinity') AS old_last,
               coalesce((n).enrolled_on, '-infinity') AS new_first,
               coalesce((n).withdrawn_on - 1, 'infinity') AS new_last,
               o IS NULL OR n IS NULL AS another
        FROM (SELECT r AS o, r.institution_key, r.class_key, r.student_key FROM replaced r) AS r
        FULL JOIN (SELECT t AS n, t.institution_key, t.class_key, t.student_key FROM touched t) AS t
            USING (institution_key, class_key, student_key)
    ) AS e
    CROSS JOIN LATERAL (
        -- Of a row whose key has changed one side is missing.
        SELECT false AS campus_only, least(old_first, new_first) AS first_day,
               greatest(old_last, new_last) AS last_day
        WHERE another
        UNION ALL
        SELECT false, least(old_first, new_first), greatest(old_first, new_first) - 1
        WHERE NOT another AND old_first <> new_first
        UNION ALL
        SELECT false, least(old_last, new_last) + 1, greatest(old_last, new_last)
        WHERE NOT another AND old_last <> new_last
        UNION ALL
        SELECT true, least(old_first, new_first), greatest(old_last, new_last)
        WHERE NOT another AND moved
    ) AS d
    WHERE first_day <= last_day
    GROUP BY institution_key, campus_only, date_trunc('month', first_day::timestamp),
             date_trunc('month', last_day::timestamp);
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_updated AFTER UPDATE ON lb.enrollments
    REFERENCING OLD TABLE AS replaced NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_updated_enrollments();

-- Whole tables that are emptied: all that is made of them.
CREATE FUNCTION lb.enter_truncated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM lb.enter_change(institution_key, TG_TABLE_NAME, ARRAY['CLASS', 'SUBJECT', 'CAMPUS'],
        ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'],
        trends => TG_TABLE_NAME <> 'enrollments')
    FROM lb.institutions;
    RETURN NULL;
END
$$;
DO $watch$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['campuses', 'subjects', 'terms', 'classes', 'students', 'enrollments']
    LOOP
        EXECUTE format('CREATE TRIGGER enter_truncated AFTER TRUNCATE ON lb.%I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION lb.enter_truncated()', relation);
    END LOOP;
END
$watch$;
