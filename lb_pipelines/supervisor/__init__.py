"""What `run` is made of.

- `children`: processes, started, watched and ended together.
- `dagster_client`: the conversation with Dagster's webserver, as the UI leads it.
- `demo`: the data of a first start, and which of its days have no boards yet.
- `backlog`: what is put into Dagster's queue for them; the only one that imports Dagster.
"""
