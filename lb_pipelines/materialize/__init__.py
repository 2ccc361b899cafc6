"""The work of the assets without Dagster: core over db, one institution at a time.

Three verbs, each taking any contiguous range of days in one pass, writing one transaction per
(institution, day) and yielding a `DayResult` as soon as that day is committed:

- `aggregates.materialize(database, institution, days, provenance)`
- `snapshots.materialize(database, institution, board_type, days, provenance)`
- `trends.materialize(database, institution, board_type, days, provenance)`

Snapshots and trends of several types in one pass are `writing.write` over their `product`s; several
institutions at once are `core.concurrently.side_by_side`.
"""
