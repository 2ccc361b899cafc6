-- Which days are there, as ranges, and what they weigh.

-- name: made(institution_key, first, last)
SELECT asset, range_agg(daterange(day, day, '[]'))
FROM lb.materialized_days
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last
GROUP BY asset;

-- name: rows_near(institution_key, asset, first, last, at_most)
-- Days of an asset that are made, those of a range and the nearest to it first: day, rows.
SELECT day, boards
FROM lb.materialized_days
WHERE institution_key = :institution_key AND asset = :asset
ORDER BY greatest(:first::date - day, day - :last::date, 0), day DESC
LIMIT :at_most;

-- name: aggregated_days(institution_key, first, last)$
SELECT count(*) FROM lb.point_aggregates
WHERE institution_key = :institution_key AND day BETWEEN :first AND :last;

-- name: snapshot_bytes(institution_id, type, day)$
SELECT avg(pg_column_size(entries) + pg_column_size(metadata) + pg_column_size(distribution) + 200)
           ::integer
FROM lb.leaderboard_snapshots
WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day;

-- name: trend_bytes(institution_id, type, day)$
SELECT avg(pg_column_size(movement) + pg_column_size(students) + pg_column_size(metadata) + 200)
           ::integer
FROM lb.leaderboard_trends
WHERE institution_id = :institution_id AND type = :type AND snapshot_date = :day;

-- name: archived_rows(institution_id, type, first, last, academic_years)
-- Snapshots of these days that are in the archive, whether their originals still stand or not.
SELECT snapshot_date, count(*)
FROM lb.archived_leaderboard_snapshots
WHERE institution_id = :institution_id AND type = :type
  AND snapshot_date BETWEEN :first AND :last AND academic_year = ANY (:academic_years)
GROUP BY snapshot_date
ORDER BY snapshot_date;
