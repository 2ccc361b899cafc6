"""Ways to get a day's boards, from events in PostgreSQL to rows in PostgreSQL.

Each is a function `run(database, days, scratch) -> dict[str, float]` that gives its seconds by
part, over all institutions; a runner (`one.py`) calls it in a process of its own, after
`state.before` has put the database back to where no board of the days exists.

- `limit`: what nothing can undercut: the events out, the finished rows in;
- `limit_overlapped`: the same by two connections at once;
- `ours`: the project, as its assets do it;
- `with_pandas`, `with_duckdb`, `with_sql`: what a good engineer would write instead;
- `naive`: one query a board and granularity, on a sample.
"""
