-- What has expired, and whether the archive and the originals agree.

-- name: holdings(institution_id, granularity, cutoff)
-- ACTIVE rows older than the cutoff, as the planner is told of them.
SELECT type, snapshot_date, active_until, count(*),
       sum(pg_column_size(entries) + pg_column_size(metadata) + pg_column_size(distribution))
FROM lb.leaderboard_snapshots
WHERE institution_id = :institution_id AND time_granularity = :granularity
  AND status = 'ACTIVE' AND snapshot_date < :cutoff
GROUP BY type, snapshot_date, active_until
ORDER BY type, snapshot_date, active_until;

-- name: due_days(institution_id, institution_key, granularity, cutoff, today)
-- Where a sweep has something to do; the sweep asks the same of each row again.
SELECT s.type, s.snapshot_date, count(*)
FROM lb.leaderboard_snapshots s
WHERE s.institution_id = :institution_id AND s.time_granularity = :granularity
  AND s.status = 'ACTIVE' AND s.snapshot_date < :cutoff
  AND (s.active_until IS NULL OR s.active_until < :today)
  AND NOT EXISTS (
      SELECT FROM lb.legal_holds h
      WHERE h.institution_key = :institution_key AND h.released_at IS NULL
        AND (h.until IS NULL OR h.until >= :today)
        AND (h.type IS NULL OR h.type = s.type)
        AND (h.first_month IS NULL OR h.first_month <= s.snapshot_date)
        AND (h.last_month IS NULL OR s.snapshot_date < h.last_month + interval '1 month'))
GROUP BY s.type, s.snapshot_date
ORDER BY s.type, s.snapshot_date;

-- name: due_in_shared(granularity, types, latest, ids, firsts, befores, todays)
-- Of these institutions of the shared subtree, those with something to sweep: probes of an index,
-- which pass over nothing but rows restored. `latest` is the latest of `befores`, as a constant
-- that prunes.
SELECT DISTINCT p.id
FROM unnest(CAST(:ids AS text[]), CAST(:firsts AS date[]), CAST(:befores AS date[]),
            CAST(:todays AS date[])) AS p (id, first, before, today)
WHERE EXISTS (
        SELECT FROM lb_part."shared:all" s
        WHERE s.institution_id = p.id AND s.time_granularity = :granularity
          AND s.type = ANY (:types) AND s.status = 'ACTIVE' AND s.active_until IS NULL
          AND s.snapshot_date >= p.first AND s.snapshot_date < p.before
          AND s.snapshot_date < :latest)
   -- Asked in this order: most institutions have never restored anything.
   OR EXISTS (
        SELECT FROM lb.archive_runs r JOIN lb.institutions i USING (institution_key)
        WHERE i.id = p.id AND r.kind = 'RESTORE')
   AND EXISTS (
        SELECT FROM lb_part."shared:all" s
        WHERE s.institution_id = p.id AND s.time_granularity = :granularity
          AND s.type = ANY (:types) AND s.status = 'ACTIVE' AND s.active_until < p.today
          AND s.snapshot_date >= p.first AND s.snapshot_date < p.before
          AND s.snapshot_date < :latest);

-- name: due_in_own(institution_id, types, latest, granularities, firsts, befores, today)
-- Of these granularities of an institution with a subtree of its own, those with something to
-- sweep. The institution is a constant, so planning looks at its own leaves alone.
SELECT DISTINCT p.granularity
FROM unnest(CAST(:granularities AS text[]), CAST(:firsts AS date[]), CAST(:befores AS date[]))
    AS p (granularity, first, before)
WHERE EXISTS (
        SELECT FROM lb.leaderboard_snapshots s
        WHERE s.institution_id = :institution_id AND s.time_granularity = p.granularity
          AND s.type = ANY (:types) AND s.status = 'ACTIVE' AND s.active_until IS NULL
          AND s.snapshot_date >= p.first AND s.snapshot_date < p.before
          AND s.snapshot_date < :latest)
   -- Asked in this order: most institutions have never restored anything.
   OR EXISTS (
        SELECT FROM lb.archive_runs r JOIN lb.institutions i USING (institution_key)
        WHERE i.id = :institution_id AND r.kind = 'RESTORE')
   AND EXISTS (
        SELECT FROM lb.leaderboard_snapshots s
        WHERE s.institution_id = :institution_id AND s.time_granularity = p.granularity
          AND s.type = ANY (:types) AND s.status = 'ACTIVE' AND s.active_until < :today
          AND s.snapshot_date >= p.first AND s.snapshot_date < p.before
          AND s.snapshot_date < :latest);

-- name: first_and_last_day(institution_id)^
-- Over originals and copies; each is one end of an index in every leaf.
SELECT least(min(first), min(copied_first)), greatest(max(last), max(copied_last))
FROM (
    SELECT min(snapshot_date) AS first, max(snapshot_date) AS last
    FROM lb.leaderboard_snapshots WHERE institution_id = :institution_id
) AS originals, (
    SELECT min(snapshot_date) AS copied_first, max(snapshot_date) AS copied_last
    FROM lb.archived_leaderboard_snapshots WHERE institution_id = :institution_id
) AS copies;

-- name: compare(institution_id, institution_key, month, first, last, academic_years)^
-- Originals against copies of days of one month. A copy stands alone where its month was purged,
-- or where an import brought it.
SELECT count(*) FILTER (WHERE status = 'ARCHIVED' AND place = 1),
       count(copy),
       count(*) FILTER (WHERE finding = 'missing'),
       count(*) FILTER (WHERE finding = 'differing'),
       count(*) FILTER (WHERE finding = 'active with copy'),
       count(*) FILTER (WHERE finding = 'doubled'),
       count(*) FILTER (WHERE finding = 'unexplained'),
       min(coalesce(original, copy)) FILTER (WHERE finding IS NOT NULL)
FROM (
    SELECT original, copy, status, coalesce(a.place, 1) AS place,
           CASE
               WHEN a.place > 1 THEN 'doubled'
               WHEN status = 'ARCHIVED' AND copy IS NULL THEN 'missing'
               WHEN status = 'ACTIVE' AND copy IS NOT NULL THEN 'active with copy'
               WHEN s.content_hash <> a.content_hash THEN 'differing'
               WHEN original IS NULL
                   AND NOT EXISTS (SELECT FROM lb.archive_runs r
                                   WHERE r.archive_run = a.archive_run AND r.kind = 'IMPORT')
                   AND NOT EXISTS (SELECT FROM lb.purges p
                                   WHERE p.institution_key = :institution_key AND p.type = a.type
                                     AND p.month = :month AND p.state <> 'KEPT')
               THEN 'unexplained'
           END AS finding
    FROM (
        SELECT id AS original, status, content_hash
        FROM lb.leaderboard_snapshots
        WHERE institution_id = :institution_id AND snapshot_date BETWEEN :first AND :last
    ) AS s
    FULL JOIN (
        SELECT original_id AS copy, content_hash, archive_run, type,
               row_number() OVER (PARTITION BY original_id ORDER BY academic_year) AS place
        FROM lb.archived_leaderboard_snapshots
        WHERE institution_id = :institution_id AND snapshot_date BETWEEN :first AND :last
          AND academic_year = ANY (:academic_years)
    ) AS a ON a.copy = s.original
) AS found;
