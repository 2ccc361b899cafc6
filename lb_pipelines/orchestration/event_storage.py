"""Dagster's event log in PostgreSQL, written a batch at a time.

A run over N partitions announces N materializations of every asset and records as many. As
dagster-postgres comes, each of these events costs three transactions, and a check that is
announced for N partitions keeps the list of all N with each of them. Here a batch is one statement
for the events and one transaction for what they are found by; Dagster reads it as ever.

Which events come together is decided elsewhere: by Dagster where a run is announced, by `recording`
where a run records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any, cast

from dagster import DagsterEventType, EventLogEntry
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationPlanned,
)
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    SqlEventLogStorageTable,
)
from dagster._serdes import serialize_value
from dagster_postgres.event_log import PostgresEventLogStorage

BATCH_SIZE_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"
"""Dagster's own switch: where it is not set, events are handed to the storage one by one."""
BATCH_SIZE = 500
"""Events a statement: 500 materializations are about 1 MB."""
# Of the lock that makes ids come into sight in their order; any number of the project's own.
_ORDER_OF_IDS = 0x1B_0E_7E_27

# With the id under which it is stored.
_StoredEvent = tuple[EventLogEntry, int]


class BatchingEventLogStorage(PostgresEventLogStorage):
    """dagster-postgres' event log with fewer transactions; connections are SQLAlchemy's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The transaction that a thread has open.
        self._within = local()
        self._there: set[str] = set()
        super().__init__(*args, **kwargs)

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event."""
        self.store_event_batch([event])

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of any types, in their order.

        The events themselves are committed at once and in the order of their ids, whoever else is
        writing: readers go on from the highest id that they have seen, so a lower one that came
        into sight later would be lost to them.
        """
        # Dagster+ alone stores these.
        kept = [
            event
            for event in events
            if not (
                event.is_dagster_event and event.get_dagster_event().is_asset_failed_to_materialize
            )
        ]
        if not kept:
            return
        insert = self.prepare_insert_event_batch(kept).returning(SqlEventLogStorageTable.c.id)
        with self.index_transaction() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_ORDER_OF_IDS,))
            ids = [int(row[0]) for row in connection.execute(insert).fetchall()]
        of_assets = [
            (event, id)
            for event, id in zip(kept, ids, strict=True)
            if event.dagster_event_type in ASSET_EVENTS and event.get_dagster_event().asset_key
        ]
        of_checks = [
            (event, id)
            for event, id in zip(kept, ids, strict=True)
            if event.dagster_event_type in ASSET_CHECK_EVENTS
        ]
        if not of_assets and not of_checks:
            return
        try:
            self._index(of_assets, of_checks)
        except Exception:
            # Whoever asked may try again, as Dagster does with the events of a batch one by one.
            with self._connect() as connection:
                table = SqlEventLogStorageTable
                connection.execute(table.delete().where(table.c.id.in_(ids)))
            raise

    def _index(self, of_assets: Sequence[_StoredEvent], of_checks: Sequence[_StoredEvent]) -> None:
        """Enter events where they are looked up: all of them or, should that fail, none."""
        with self._together() as connection:
            self._store_asset_event_tags(
                connection, [event for event, _ in of_assets], [id for _, id in of_assets]
            )
            for event, id in of_checks:
                self.store_asset_check_event(event, id)
            # Last, for others wait for these rows; in one order, so that none waits for another.
            for event, id in _last_of_each_asset(of_assets):
                self._store_asset_event(connection, event, id)

    def has_table(self, table_name: str) -> bool:
        """Ask for a table until it is there: no table of Dagster's goes away again.

        It is asked before each write of tags or of a check, on a connection besides the kept one.
        """
        if table_name not in self._there and super().has_table(table_name):
            self._there.add(table_name)
        return table_name in self._there

    @contextmanager
    def index_connection(self) -> Iterator[Any]:
        """The connection of the batch at hand, else one of its own."""
        within = getattr(self._within, "connection", None)
        if within is not None:
            yield within
            return
        with self._connect() as connection:
            yield connection

    @contextmanager
    def _together(self) -> Iterator[Any]:
        """One transaction for whatever this thread asks of the index meanwhile."""
        with self.index_transaction() as connection:
            self._within.connection = connection
            try:
                yield connection
            finally:
                self._within.connection = None

    def _store_asset_check_evaluation_planned(
        self, event: EventLogEntry, event_id: int | None
    ) -> None:
        """Announce a check, a row a partition, without the list of all partitions in each row.

        With the list: 24 MB for 1,000 partitions, and four times that for twice as many.
        """
        dagster_event = event.get_dagster_event()
        planned = cast(AssetCheckEvaluationPlanned, dagster_event.event_specific_data)
        keys = (
            planned.partitions_subset.get_partition_keys() if planned.partitions_subset else [None]
        )
        one = event._replace(
            dagster_event=dagster_event._replace(
                event_specific_data=AssetCheckEvaluationPlanned(
                    asset_key=planned.asset_key, check_name=planned.check_name
                )
            )
        )
        row = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": serialize_value(one),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
            "evaluation_event_storage_id": event_id,
        }
        with self.index_connection() as connection:
            connection.execute(
                AssetCheckExecutionsTable.insert(), [{**row, "partition": key} for key in keys]
            )


def _last_of_each_asset(events: Sequence[_StoredEvent]) -> list[_StoredEvent]:
    """The last event of each type of each asset, by asset and then as they came."""
    last: dict[tuple[str, DagsterEventType | None], _StoredEvent] = {}
    for event, id in events:
        key = event.get_dagster_event().asset_key
        assert key is not None
        last[key.to_string(), event.dagster_event_type] = (event, id)
    by_asset = sorted(last.items(), key=lambda item: (item[0][0], item[1][1]))
    return [found for _, found in by_asset]
