"""Leaderboards for education: point events in, lasting leaderboards out.

The rooms, from the inside out (an inner room never imports an outer one; a test holds that):

- `core`: the domain. Pure Python and NumPy; knows neither SQL nor Dagster.
- `db`: PostgreSQL. Connections, migrations, partitions, named SQL, repositories.
- `materialize`: the work of the assets: core over db, one institution at a time.
- `retention`: what becomes of boards later: archive, restore, holds, purge, export, erasure.
- `sources`: how point events and dimensions come in.
- `service`: reading what lasts: boards, histories, trends, the exact rank of anybody.
- `orchestration`: the Dagster layer: partitions, assets, jobs, schedules, sensors.
- `settings`: what the environment decides; `clock`: what time it is.
- `cli`, `run` with `supervisor`: what a person types, and what that starts.
"""

__version__ = "0.1.0"
