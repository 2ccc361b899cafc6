"""Who does it: what every ledger says of a sweep, restore, hold, purge, export or erasure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """`name`: a person or a sensor; `run_id`: the Dagster run, None at the command line."""

    name: str
    run_id: str | None = None
