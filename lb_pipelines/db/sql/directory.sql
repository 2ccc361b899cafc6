-- Who and what an institution's boards are about, by id.

-- name: students(institution_key)
-- An erased student keeps the place among the ids that ties were broken by.
SELECT student_key, id FROM lb.students WHERE institution_key = :institution_key
ORDER BY coalesce(order_key, id), student_key;

-- name: students_of_keys(institution_key, keys)
SELECT student_key, id FROM lb.students
WHERE institution_key = :institution_key AND student_key = ANY (CAST(:keys AS integer[]))
ORDER BY coalesce(order_key, id), student_key;

-- name: position_of_student(institution_key, student_key)^
-- Where a student stands in the students' order. CASE is what the index of students in order has:
-- under row level security PostgreSQL keeps a condition with coalesce out of an index.
SELECT CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key FROM lb.students
WHERE institution_key = :institution_key AND student_key = :student_key;

-- name: last_position(institution_key)^
SELECT CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key FROM lb.students
WHERE institution_key = :institution_key
ORDER BY CASE WHEN order_key IS NULL THEN id ELSE order_key END DESC, student_key DESC LIMIT 1;

-- name: students_after(institution_key, place, student_key, at_most)
SELECT CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key, id FROM lb.students
WHERE institution_key = :institution_key
  AND (CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key)
      > (:place, :student_key)
ORDER BY CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key
LIMIT :at_most;

-- name: students_before(institution_key, place, student_key, at_most)
SELECT CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key, id FROM lb.students
WHERE institution_key = :institution_key
  AND (CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key)
      < (:place, :student_key)
ORDER BY CASE WHEN order_key IS NULL THEN id ELSE order_key END DESC, student_key DESC
LIMIT :at_most;

-- name: keys_before(institution_key, place, student_key)
SELECT student_key FROM lb.students
WHERE institution_key = :institution_key
  AND (CASE WHEN order_key IS NULL THEN id ELSE order_key END, student_key)
      < (:place, :student_key);

-- name: boards_of_class(institution_key)
SELECT c.class_key, t.id, c.id
FROM lb.classes c JOIN lb.terms t USING (institution_key, term_key)
WHERE c.institution_key = :institution_key ORDER BY c.id;

-- name: boards_of_subject(institution_key)
SELECT subject_key, NULL, id FROM lb.subjects
WHERE institution_key = :institution_key ORDER BY id;

-- name: boards_of_campus(institution_key)
SELECT campus_key, NULL, id FROM lb.campuses
WHERE institution_key = :institution_key ORDER BY id;

-- name: enrolled(institution_key)
-- Days counted from 1970; those who begin and end together come as one array.
SELECT e.class_key, c.subject_key, coalesce(e.campus_key, c.campus_key, 0), e.begins, e.ends,
       e.students
FROM (
    SELECT class_key, campus_key, coalesce(enrolled_on - date '1970-01-01', -(2 ^ 30)::integer)
               AS begins,
           coalesce(withdrawn_on - date '1970-01-01', (2 ^ 30)::integer) AS ends,
           array_agg(student_key) AS students
    FROM lb.enrollments
    WHERE institution_key = :institution_key
    GROUP BY class_key, campus_key, enrolled_on, withdrawn_on
) AS e
JOIN lb.classes c USING (class_key)
WHERE c.institution_key = :institution_key;
