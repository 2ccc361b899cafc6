-- Institutions and their calendar.

-- name: find(id)^
SELECT institution_key, id, name, status, time_zone, academic_year_start_month, metadata
FROM lb.institutions
WHERE id = :id;

-- name: all_institutions()
SELECT institution_key, id, name, status, time_zone, academic_year_start_month, metadata
FROM lb.institutions
ORDER BY id;

-- name: terms(institution_key)
SELECT id, starts_on, ends_on
FROM lb.terms
WHERE institution_key = :institution_key
ORDER BY starts_on, id;

-- name: sizes(ids)
SELECT i.id, (SELECT count(*) FROM lb.students s WHERE s.institution_key = i.institution_key)
FROM lb.institutions i
WHERE i.id = ANY (:ids);
