-- How the planner joins rows that were written just now.

-- name: by_hash()#
-- Until the transaction ends, or `by_any`. What the statistics have not yet seen of a day looks like
-- one row: then all of one side is read for each row of the other (25,000 staged rows against as
-- many: over a minute, by hash 0.2 s).
SET LOCAL enable_nestloop = off;
SET LOCAL enable_mergejoin = off;

-- name: by_any()#
SET LOCAL enable_nestloop = on;
SET LOCAL enable_mergejoin = on;
