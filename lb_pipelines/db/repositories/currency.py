"""Whether what was materialized says what its inputs say now.

The one place that decides it for readers of materialized days: whatever else a day comes to depend
on is to be asked here.
"""

from __future__ import annotations

from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


def find_latest_current_day(
    connection: Connection, institution: Institution, asset: str, last: date
) -> date | None:
    """The latest day through `last` of which the asset is materialized, and not before a change
    that can touch it.
    """
    day: date | None = queries.currency.latest_current_day(
        connection, institution_key=institution.key, asset=asset, last=last
    )
    return day
