-- Loading: rows are staged by COPY in temporary tables that end with the transaction, then one
-- statement merges them. Ids become keys by joins on the same institution. Rows that are stored
-- already are taken out first (EXCEPT, or DELETE from the staging table), so that importing again
-- locks, writes and numbers nothing.

-- name: lock(institution_key)$
-- One load an institution at a time; freed with the transaction.
SELECT pg_advisory_xact_lock(x'6c69'::integer, :institution_key);

-- name: set_work_mem()!
-- The joins of a merge are hash joins over as many rows as were staged.
SET LOCAL work_mem = '128MB';

-- name: keep_plans#
-- Foreign keys are checked by prepared statements: under the session's force_custom_plan each of
-- 1,500,000 checks of 500,000 enrollments is planned anew (29 s against 9 s). No table that they
-- look at is partitioned.
SET LOCAL plan_cache_mode = auto;

-- name: plan_anew#
SET LOCAL plan_cache_mode = force_custom_plan;

-- name: stage_institutions#
CREATE TEMP TABLE incoming_institutions (
    id text COLLATE "C" NOT NULL, name text, status text, time_zone text,
    academic_year_start_month smallint, metadata text
) ON COMMIT DROP;

-- name: add_institutions()!
-- Waits for another import that adds the same one; what is not given gets its default.
INSERT INTO lb.institutions
    (id, name, status, time_zone, academic_year_start_month, metadata)
SELECT id, coalesce(name, id), coalesce(status, 'ACTIVE'), coalesce(time_zone, 'UTC'),
       coalesce(academic_year_start_month, 8), coalesce(metadata::jsonb, '{}')
FROM incoming_institutions
WHERE id NOT IN (SELECT id FROM lb.institutions)
ORDER BY id
ON CONFLICT (id) DO NOTHING;

-- name: change_institutions()!
-- What is not given keeps what is stored.
UPDATE lb.institutions s
SET name = coalesce(n.name, s.name), status = coalesce(n.status, s.status),
    time_zone = coalesce(n.time_zone, s.time_zone),
    academic_year_start_month
        = coalesce(n.academic_year_start_month, s.academic_year_start_month),
    metadata = coalesce(n.metadata::jsonb, s.metadata)
FROM incoming_institutions n
WHERE s.id = n.id
  AND (s.name <> n.name OR s.status <> n.status OR s.time_zone <> n.time_zone
       OR s.academic_year_start_month <> n.academic_year_start_month
       OR s.metadata <> n.metadata::jsonb);

-- name: stage_campuses#
CREATE TEMP TABLE incoming_campuses (
    institution_key integer NOT NULL, id text COLLATE "C" NOT NULL, name text
) ON COMMIT DROP;

-- name: merge_campuses()^
WITH wanted AS (
    SELECT institution_key, id, coalesce(name, id) AS name FROM incoming_campuses
    EXCEPT SELECT institution_key, id, name FROM lb.campuses
    WHERE institution_key IN (SELECT institution_key FROM incoming_campuses)
), written AS (
    INSERT INTO lb.campuses (institution_key, id, name)
    SELECT * FROM wanted ORDER BY institution_key, id
    ON CONFLICT (institution_key, id) DO UPDATE SET name = excluded.name
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written;

-- name: stage_subjects#
CREATE TEMP TABLE incoming_subjects (
    institution_key integer NOT NULL, id text COLLATE "C" NOT NULL, name text
) ON COMMIT DROP;

-- name: merge_subjects()^
WITH wanted AS (
    SELECT institution_key, id, coalesce(name, id) AS name FROM incoming_subjects
    EXCEPT SELECT institution_key, id, name FROM lb.subjects
    WHERE institution_key IN (SELECT institution_key FROM incoming_subjects)
), written AS (
    INSERT INTO lb.subjects (institution_key, id, name)
    SELECT * FROM wanted ORDER BY institution_key, id
    ON CONFLICT (institution_key, id) DO UPDATE SET name = excluded.name
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written;

-- name: stage_terms#
CREATE TEMP TABLE incoming_terms (
    institution_key integer NOT NULL, id text COLLATE "C" NOT NULL, name text,
    starts_on date NOT NULL, ends_on date NOT NULL
) ON COMMIT DROP;

-- name: merge_terms()^
WITH wanted AS (
    SELECT institution_key, id, coalesce(name, id) AS name, starts_on, ends_on
    FROM incoming_terms
    EXCEPT SELECT institution_key, id, name, starts_on, ends_on FROM lb.terms
    WHERE institution_key IN (SELECT institution_key FROM incoming_terms)
), written AS (
    INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)
    SELECT * FROM wanted ORDER BY institution_key, id
    ON CONFLICT (institution_key, id) DO UPDATE SET
        name = excluded.name, starts_on = excluded.starts_on, ends_on = excluded.ends_on
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written;

-- name: stage_classes#
CREATE TEMP TABLE incoming_classes (
    institution_key integer NOT NULL, id text COLLATE "C" NOT NULL, name text,
    subject_id text COLLATE "C" NOT NULL, campus_id text COLLATE "C",
    term_id text COLLATE "C" NOT NULL
) ON COMMIT DROP;

-- name: merge_classes()^
-- A subject or term that does not exist gives a null, which the table refuses.
WITH wanted AS (
    SELECT n.institution_key, n.id, coalesce(n.name, n.id) AS name, j.subject_key, p.campus_key,
           t.term_key
    FROM incoming_classes n
    LEFT JOIN lb.subjects j ON j.institution_key = n.institution_key AND j.id = n.subject_id
    LEFT JOIN lb.campuses p ON p.institution_key = n.institution_key AND p.id = n.campus_id
    LEFT JOIN lb.terms t ON t.institution_key = n.institution_key AND t.id = n.term_id
    EXCEPT
    SELECT institution_key, id, name, subject_key, campus_key, term_key FROM lb.classes
    WHERE institution_key IN (SELECT institution_key FROM incoming_classes)
), written AS (
    INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)
    SELECT * FROM wanted ORDER BY institution_key, id
    ON CONFLICT (institution_key, id) DO UPDATE SET
        name = excluded.name, subject_key = excluded.subject_key,
        campus_key = excluded.campus_key, term_key = excluded.term_key
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written;

-- name: stage_students#
CREATE TEMP TABLE incoming_students (
    institution_key integer NOT NULL, id text COLLATE "C" NOT NULL, name text
) ON COMMIT DROP;

-- name: merge_students()^
WITH wanted AS (
    SELECT institution_key, id, name FROM incoming_students
    EXCEPT SELECT institution_key, id, name FROM lb.students
    WHERE institution_key IN (SELECT institution_key FROM incoming_students)
), written AS (
    INSERT INTO lb.students (institution_key, id, name)
    SELECT * FROM wanted ORDER BY institution_key, id
    ON CONFLICT (institution_key, id) DO UPDATE SET name = excluded.name
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written;

-- name: stage_enrollments#
CREATE TEMP TABLE incoming_enrollments (
    institution_key integer NOT NULL, class_id text COLLATE "C" NOT NULL,
    student_id text COLLATE "C" NOT NULL, campus_id text COLLATE "C",
    enrolled_on date, withdrawn_on date
) ON COMMIT DROP;

-- name: merge_enrollments()^
WITH wanted AS (
    SELECT n.institution_key, c.class_key, s.student_key, p.campus_key, n.enrolled_on,
           n.withdrawn_on
    FROM incoming_enrollments n
    LEFT JOIN lb.classes c ON c.institution_key = n.institution_key AND c.id = n.class_id
    LEFT JOIN lb.students s ON s.institution_key = n.institution_key AND s.id = n.student_id
    LEFT JOIN lb.campuses p ON p.institution_key = n.institution_key AND p.id = n.campus_id
    EXCEPT
    SELECT institution_key, class_key, student_key, campus_key, enrolled_on, withdrawn_on
    FROM lb.enrollments
    WHERE institution_key IN (SELECT institution_key FROM incoming_enrollments)
), written AS (
    INSERT INTO lb.enrollments
        (institution_key, class_key, student_key, campus_key, enrolled_on, withdrawn_on)
    SELECT * FROM wanted ORDER BY institution_key, class_key, student_key
    ON CONFLICT (institution_key, class_key, student_key) DO UPDATE SET
        campus_key = excluded.campus_key, enrolled_on = excluded.enrolled_on,
        withdrawn_on = excluded.withdrawn_on
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written;

-- name: institution_keys()
SELECT id, institution_key, status FROM lb.institutions;

-- name: suppressions(institution_keys)
-- Whom no import brings back.
SELECT institution_key, i.erasure_salt, array_agg(e.suppression)
FROM lb.erasures e JOIN lb.institutions i USING (institution_key)
WHERE institution_key = ANY (:institution_keys)
GROUP BY 1, 2;

-- name: campus_keys(institution_keys)
SELECT institution_key, id, campus_key FROM lb.campuses
WHERE institution_key = ANY (:institution_keys);

-- name: subject_keys(institution_keys)
SELECT institution_key, id, subject_key FROM lb.subjects
WHERE institution_key = ANY (:institution_keys);

-- name: term_keys(institution_keys)
SELECT institution_key, id, term_key FROM lb.terms
WHERE institution_key = ANY (:institution_keys);

-- name: class_keys(institution_keys)
SELECT institution_key, id, class_key, subject_key, campus_key FROM lb.classes
WHERE institution_key = ANY (:institution_keys);

-- name: student_keys(institution_keys)
SELECT institution_key, id, student_key FROM lb.students
WHERE institution_key = ANY (:institution_keys);

-- name: enrollment_campuses(institution_keys)
SELECT class_key, student_key, campus_key FROM lb.enrollments
WHERE institution_key = ANY (:institution_keys) AND campus_key IS NOT NULL;

-- name: has_events(institution_key)$
-- Also where policies hold this user: under them PostgreSQL refuses COPY straight into the table.
SELECT row_security_active('lb.student_points')
    OR EXISTS (SELECT FROM lb.student_points WHERE institution_key = :institution_key);

-- name: stage_points#
CREATE TEMP TABLE IF NOT EXISTS incoming_points (
    occurred_at timestamptz NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(),
    institution_key integer NOT NULL, student_key integer NOT NULL, class_key integer,
    subject_key integer, campus_key integer, amount integer NOT NULL,
    status text COLLATE "C" NOT NULL DEFAULT 'ACTIVE', event_id text COLLATE "C" NOT NULL,
    subject_derived boolean NOT NULL DEFAULT false, campus_derived boolean NOT NULL DEFAULT false
) ON COMMIT DROP;
TRUNCATE incoming_points;

-- name: analyze_points#
ANALYZE incoming_points;

-- name: keep_derived(institution_key)!
-- What the source did not say was derived from the class when the event first came in, and stays:
-- a class or student that has moved since keeps its past.
UPDATE incoming_points n
SET subject_key = CASE WHEN n.subject_derived THEN p.subject_key ELSE n.subject_key END,
    campus_key = CASE WHEN n.campus_derived THEN p.campus_key ELSE n.campus_key END
FROM lb.student_points p
WHERE p.institution_key = :institution_key AND p.event_id = n.event_id
  AND p.class_key IS NOT DISTINCT FROM n.class_key AND p.student_key = n.student_key
  AND (n.subject_derived OR n.campus_derived);

-- name: leave_unchanged_points(institution_key)!
DELETE FROM incoming_points n USING lb.student_points p
WHERE p.institution_key = :institution_key
  AND p.event_id = n.event_id AND p.occurred_at = n.occurred_at
  AND p.student_key = n.student_key AND p.amount = n.amount AND p.status = n.status
  AND (p.class_key, p.subject_key, p.campus_key)
      IS NOT DISTINCT FROM (n.class_key, n.subject_key, n.campus_key);

-- name: remove_moved_points(institution_key)$
-- The time is part of the primary key (it partitions), so an event that has another time now is
-- another row: the old one goes.
WITH gone AS (
    DELETE FROM lb.student_points p USING incoming_points n
    WHERE p.institution_key = :institution_key AND p.event_id = n.event_id
      AND p.occurred_at <> n.occurred_at
    RETURNING p.occurred_at
)
SELECT count(*) FROM gone;

-- name: count_changed_points(institution_key)$
SELECT count(*) FROM incoming_points n
JOIN lb.student_points p ON p.institution_key = :institution_key
    AND p.event_id = n.event_id AND p.occurred_at = n.occurred_at;

-- name: merge_points()!
-- The condition guards against a writer that does not take the lock.
INSERT INTO lb.student_points AS p
    (occurred_at, updated_at, institution_key, student_key, class_key, subject_key, campus_key,
     amount, status, event_id)
SELECT occurred_at, updated_at, institution_key, student_key, class_key, subject_key, campus_key,
       amount, status, event_id
FROM incoming_points
ORDER BY event_id
ON CONFLICT (institution_key, event_id, occurred_at) DO UPDATE SET
    updated_at = now(), student_key = excluded.student_key, class_key = excluded.class_key,
    subject_key = excluded.subject_key, campus_key = excluded.campus_key,
    amount = excluded.amount, status = excluded.status
WHERE (p.student_key, p.class_key, p.subject_key, p.campus_key, p.amount, p.status)
    IS DISTINCT FROM (excluded.student_key, excluded.class_key, excluded.subject_key,
                      excluded.campus_key, excluded.amount, excluded.status);

-- name: has_schema()$
SELECT to_regclass('lb.student_points') IS NOT NULL;

-- name: changed_zones()
-- Institutions whose zone this transaction has changed, with how many days are materialized.
SELECT i.id, i.time_zone, count(DISTINCT m.day)
FROM lb.input_changes c
JOIN lb.institutions i USING (institution_key)
LEFT JOIN lb.materialized_days m USING (institution_key)
WHERE c.version IS NULL AND c.input = 'time_zone'
GROUP BY i.id, i.time_zone
ORDER BY i.id;
