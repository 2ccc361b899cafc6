-- Who may write an institution's boards at the same time, and whether what a writer has read of
-- its students still holds.

-- name: write_beside_others(institution_key)$
-- Until the transaction ends: days and sweeps, which only need each other's rows locked.
SELECT pg_advisory_xact_lock_shared(x'6c64'::integer, :institution_key);

-- name: write_alone(institution_key)$
-- Until the transaction ends: restores, renewals, holds, purges, erasures.
SELECT pg_advisory_xact_lock(x'6c64'::integer, :institution_key);

-- name: try_write_alone(institution_key)$
-- The same where nobody writes at this moment; else false at once.
SELECT pg_try_advisory_xact_lock(x'6c64'::integer, :institution_key);

-- name: erasures(institution_key)$
SELECT erasures FROM lb.institutions WHERE institution_key = :institution_key;

-- name: begin_run(institution_key)$
-- Until the session ends or end_run: the run that works through the institution's days.
SELECT pg_try_advisory_lock(x'6c72'::integer, :institution_key);

-- name: end_run(institution_key)$
SELECT pg_advisory_unlock(x'6c72'::integer, :institution_key);
