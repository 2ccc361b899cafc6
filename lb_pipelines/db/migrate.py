"""Migrations: bring a database to the schema of this version, or back.

Alembic runs them; the operations are written by hand (autogenerate would drop leaves).
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

from lb_pipelines.db.engine import Database

_DIRECTORY = Path(__file__).parent / "migrations"
# Two processes that start at once must not migrate twice.
_LOCK = 0x6C62_6D67


def _config(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_DIRECTORY))
    config.attributes["database"] = database
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate forward; does nothing where the schema is there. Safe to run twice at once."""
    database.check_server()
    with database.autocommit() as guard:
        guard.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        try:
            command.upgrade(_config(database), revision)
        finally:
            guard.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def downgrade(database: Database, revision: str = "base") -> None:
    """Migrate back, with all data of the tables that a migration had made."""
    command.downgrade(_config(database), revision)
