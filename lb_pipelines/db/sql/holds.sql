-- Legal holds: placed and released, never deleted. db/sql/archive.sql asks for them once more
-- inside the statements that move rows.

-- name: place(institution_key, type, first_month, last_month, until, reason, placed_by)$
INSERT INTO lb.legal_holds (
    institution_key, type, first_month, last_month, until, reason, placed_by)
VALUES (:institution_key, :type, :first_month, :last_month, :until, :reason, :placed_by)
RETURNING hold;

-- name: release(institution_key, hold, released_by)!
UPDATE lb.legal_holds SET released_by = :released_by, released_at = now()
WHERE institution_key = :institution_key AND hold = :hold AND released_at IS NULL;

-- name: of_institution(institution_key)
-- 'infinity' and dates beyond Python's are no bound at all.
SELECT hold, type, CASE WHEN first_month BETWEEN '0001-01-01' AND '9999-11-30' THEN first_month END,
       CASE WHEN last_month BETWEEN '0001-01-01' AND '9999-11-30' THEN last_month END,
       CASE WHEN until BETWEEN '0001-01-01' AND '9999-11-30' THEN until END,
       released_at IS NOT NULL, placed_by, reason
FROM lb.legal_holds WHERE institution_key = :institution_key ORDER BY hold;

-- name: every(institution_key)
-- With all that the ledger knows; of one institution, or of all.
SELECT i.id, h.hold, h.type, CASE WHEN h.first_month BETWEEN '0001-01-01' AND '9999-11-30' THEN h.first_month END,
       CASE WHEN h.last_month BETWEEN '0001-01-01' AND '9999-11-30' THEN h.last_month END,
       CASE WHEN h.until BETWEEN '0001-01-01' AND '9999-11-30' THEN h.until END, h.released_at IS NOT NULL,
       h.placed_by, h.reason, h.placed_at, h.released_by, h.released_at
FROM lb.legal_holds h
JOIN lb.institutions i USING (institution_key)
WHERE CAST(:institution_key AS integer) IS NULL OR h.institution_key = :institution_key
ORDER BY i.id, h.hold;
