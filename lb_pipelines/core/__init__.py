"""The domain: words, calendar arithmetic, ranking, trends. Pure; no I/O, no SQL, no Dagster."""
