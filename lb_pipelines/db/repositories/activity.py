"""The last event and the last term of institutions: until when they were active."""

from __future__ import annotations

from collections.abc import Collection

from lb_pipelines.core.activity import Activity
from lb_pipelines.core.institution import Institution
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


def read_activity(
    connection: Connection, institutions: Collection[Institution]
) -> dict[str, Activity]:
    """By institution id its activity, of each of these institutions, in one statement."""
    ids = {institution.key: institution.id for institution in institutions}
    rows = queries.activity.last_activity(connection, institution_keys=list(ids))
    return {ids[key]: Activity(last_event_at, last_term) for key, last_event_at, last_term in rows}
