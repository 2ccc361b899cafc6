-- The versions of months of boards: raised with every change, read by whoever keeps what was read.

-- name: raise_versions(institution_key, types, months)!
-- In one order, so that two who raise the same do not wait for each other in a circle.
INSERT INTO lb.board_versions AS v (institution_key, type, month, version)
SELECT :institution_key, raised.type, raised.month,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM unnest(CAST(:types AS text[]), CAST(:months AS date[])) AS raised (type, month)
ORDER BY raised.type, raised.month
ON CONFLICT (institution_key, type, month)
    DO UPDATE SET version = greatest(v.version + 1, excluded.version);

-- name: version_of(institution_id, types, first, last)^
-- Each version only grows, so their sum stands still only where all of them do. The row of the
-- institution itself is another (xmin) whenever its settings, names or status have changed.
SELECT i.xmin::text, (
    SELECT coalesce(sum(v.version), 0)::bigint
    FROM lb.board_versions v
    WHERE v.institution_key = i.institution_key AND v.type = ANY (CAST(:types AS text[]))
      AND v.month BETWEEN :first AND :last)
FROM lb.institutions i
WHERE i.id = :institution_id;
