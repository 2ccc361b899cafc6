"""Alembic's entry: runs each migration in its own transaction on the project's engine."""

from __future__ import annotations

from alembic import context

from lb_pipelines.db.engine import Database

database: Database = context.config.attributes["database"]

with database.engine.connect() as connection:
    context.configure(
        connection=connection,
        version_table="lb_pipelines_schema",
        version_table_schema="public",
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
