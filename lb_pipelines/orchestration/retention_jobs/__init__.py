"""The jobs of retention that a person starts, one file a verb: restore, purge, export, hold, erase.

They read their config, show the plan or carry it out through `lb_pipelines.retention`, and tell the
run's log and `archived_snapshots` of it. What moves or destroys rows only shows its plan until
`dry_run` is set to false. No student's id goes in or comes out: Dagster keeps what it is told.
"""
