"""Holds every writer of a test's database to its duty: whoever changes boards, trends or the
archive of a month raises its version in the same transaction, and after that changes nothing more.

Triggers on the roots (so on every leaf, and on those to come) note what a transaction changes;
where no version was raised for it, its commit fails and says for what. A partition move, known by
its lock on the roots, changes nothing that can be read, so it need not.
"""

from __future__ import annotations

from lb_pipelines.db.engine import Database

ROOTS = ("leaderboard_snapshots", "leaderboard_trends", "archived_leaderboard_snapshots")

_HOLD = """
CREATE SCHEMA held;
CREATE TABLE held.changes (
    transaction xid8 NOT NULL, institution_id text NOT NULL, type text NOT NULL,
    month date NOT NULL, relation text NOT NULL,
    UNIQUE (transaction, institution_id, type, month));

CREATE FUNCTION held.raised() RETURNS text LANGUAGE sql AS
    $$ SELECT coalesce(current_setting('held.raised', true), '') $$;
CREATE FUNCTION held.name(id text, type text, day date) RETURNS text LANGUAGE sql AS
    $$ SELECT '|' || id || ':' || type || ':' || to_char(day, 'YYYY-MM') || '|' $$;

CREATE FUNCTION held.note_raised() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('held.raised', held.raised() || held.name(
        (SELECT id FROM lb.institutions WHERE institution_key = NEW.institution_key),
        NEW.type, NEW.month), true);
    RETURN NULL;
END $$;
CREATE TRIGGER held AFTER INSERT OR UPDATE ON lb.board_versions
    FOR EACH ROW EXECUTE FUNCTION held.note_raised();

CREATE FUNCTION held.note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed record := coalesce(NEW, OLD);
BEGIN
    IF position(held.name(changed.institution_id, changed.type, changed.snapshot_date)
                IN held.raised()) > 0 THEN
        RAISE EXCEPTION 'boards of % changed after their version was raised: %',
            held.name(changed.institution_id, changed.type, changed.snapshot_date), TG_TABLE_NAME;
    END IF;
    INSERT INTO held.changes VALUES (pg_current_xact_id(), changed.institution_id, changed.type,
        date_trunc('month', changed.snapshot_date)::date, TG_TABLE_NAME) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE FUNCTION held.check_raised() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF position(held.name(NEW.institution_id, NEW.type, NEW.month) IN held.raised()) = 0
       AND NOT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid()
           AND mode = 'AccessExclusiveLock' AND relation = 'lb.leaderboard_snapshots'::regclass)
    THEN
        RAISE EXCEPTION 'boards of % changed and no version was raised: %',
            held.name(NEW.institution_id, NEW.type, NEW.month), NEW.relation;
    END IF;
    RETURN NULL;
END $$;
-- On a table of its own: events pending on a leaf would forbid the DDL of a move.
CREATE CONSTRAINT TRIGGER held AFTER INSERT ON held.changes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held.check_raised();
"""


def hold_writers_to_versions(database: Database) -> None:
    """From now on a transaction that changes boards without raising their version fails."""
    with database.transaction() as connection:
        connection.execute(_HOLD)
        for root in ROOTS:
            connection.execute(
                f"CREATE TRIGGER held AFTER INSERT OR UPDATE OR DELETE ON lb.{root}"
                " FOR EACH ROW EXECUTE FUNCTION held.note_change()"
            )
