"""Reading: the roles and policies that keep institutions apart, and the versions of months."""

from __future__ import annotations

from pathlib import Path

import psycopg
import psycopg.errors
from alembic import op
from sqlalchemy.exc import DBAPIError

from lb_pipelines.errors import MissingRole

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Roles belong to the cluster: another database may have made them, or be at it. Nobody but the
# one who made a role (or a superuser) may grant it, so what is there already is taken as it is.
# To be lb_reader the migrating role must be able to SET ROLE, no more; to be seen as lb_worker by
# a policy it must inherit it.
_MAKE_ROLES = """
DO $roles$
DECLARE
    sixteen boolean := current_setting('server_version_num')::integer >= 160000;
    wanted text;
    needed text;
    options text;
BEGIN
    FOR wanted, needed, options IN VALUES
        ('lb_reader', CASE WHEN sixteen THEN 'SET' ELSE 'MEMBER' END,
         ' WITH INHERIT FALSE, SET TRUE'),
        ('lb_worker', 'USAGE', ' WITH INHERIT TRUE')
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE 'CREATE ROLE ' || wanted || ' NOLOGIN';
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        CONTINUE WHEN pg_has_role(current_user, wanted, needed);
        BEGIN
            EXECUTE 'GRANT ' || wanted || ' TO CURRENT_USER'
                || CASE WHEN sixteen THEN options ELSE '' END;
        -- Granted to the same role by a migration of another database at this moment: the last is
        -- what PostgreSQL says where two change one row of its catalog.
        EXCEPTION WHEN duplicate_object OR unique_violation OR internal_error THEN
            NULL;
        END;
        IF NOT pg_has_role(current_user, wanted, needed) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege', MESSAGE = wanted || ' is not granted';
        END IF;
    END LOOP;
END
$roles$
"""


def upgrade() -> None:
    connection = op.get_bind()
    try:
        connection.exec_driver_sql(_MAKE_ROLES)
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        raise MissingRole(driver.info.user) from error
    connection.exec_driver_sql(Path(__file__).with_name("m0003_reading.sql").read_text())


# In every database of the cluster: with its grants here gone, a role that nothing else names.
_DROP_ROLES = """
DO $roles$
DECLARE
    ours text;
BEGIN
    FOR ours IN SELECT rolname FROM pg_roles WHERE rolname IN ('lb_reader', 'lb_worker') LOOP
        BEGIN
            EXECUTE 'DROP ROLE ' || ours;
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
            NULL;
        END;
    END LOOP;
END
$roles$
"""
_UNDO = """
DO $policies$
DECLARE
    relation regclass;
BEGIN
    FOR relation IN SELECT DISTINCT polrelid::regclass FROM pg_policy
        WHERE polname IN ('one_institution', 'all_institutions')
    LOOP
        EXECUTE 'DROP POLICY one_institution ON ' || relation;
        EXECUTE 'DROP POLICY all_institutions ON ' || relation;
        EXECUTE 'ALTER TABLE ' || relation
            || ' NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY';
        EXECUTE 'REVOKE ALL ON ' || relation || ' FROM lb_reader';
    END LOOP;
END
$policies$
"""


def downgrade() -> None:
    for statement in (
        _UNDO,
        "REVOKE ALL ON SCHEMA lb FROM lb_reader",
        "DROP TABLE lb.board_versions",
        "DROP INDEX lb.student_points_by_student",
        _DROP_ROLES,
    ):
        op.execute(statement)
