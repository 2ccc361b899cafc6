-- Who and what an institution's boards are about, by id.

-- name: students(institution_key)
-- An erased student keeps the place among the ids that ties were broken by.
SELECT student_key, id FROM lb.students WHERE institution_key = :institution_key
ORDER BY coalesce(order_key, id), student_key;

-- name: students_of_keys(institution_key, keys)
SELECT student_key, id FROM lb.students
WHERE institution_key = :institution_key AND student_key = ANY (CAST(:keys AS integer[]))
ORDER BY coalesce(order_key, id), student_key;

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

-- name: enrolled_of_class(institution_key)
SELECT class_key, student_key, coalesce(enrolled_on, '-infinity'), coalesce(withdrawn_on, 'infinity')
FROM lb.enrollments WHERE institution_key = :institution_key;

-- name: enrolled_of_subject(institution_key)
SELECT c.subject_key, e.student_key, coalesce(e.enrolled_on, '-infinity'),
       coalesce(e.withdrawn_on, 'infinity')
FROM lb.enrollments e JOIN lb.classes c USING (institution_key, class_key)
WHERE e.institution_key = :institution_key;

-- name: enrolled_of_campus(institution_key)
SELECT coalesce(e.campus_key, c.campus_key), e.student_key,
       coalesce(e.enrolled_on, '-infinity'), coalesce(e.withdrawn_on, 'infinity')
FROM lb.enrollments e JOIN lb.classes c USING (institution_key, class_key)
WHERE e.institution_key = :institution_key AND coalesce(e.campus_key, c.campus_key) IS NOT NULL;
