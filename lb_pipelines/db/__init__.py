"""PostgreSQL: connections, migrations, partitions, named SQL and repositories. No Dagster here."""
