"""How a run tells Dagster what it has done: in batches, each after what it tells of is committed.

An event that an op yields is stored by itself, however many follow at once. Here each waits for
those that come within a second, never beyond the end of the op, and they are stored together
(`event_storage`): what was made, then the verdicts on it. What a run has committed and not recorded
when it is killed, Dagster shows as failed: it is done again, which writes nothing.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from dagster import (
    AssetCheckEvaluation,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    EventLogRecord,
    Output,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.events import (
    DagsterEvent,
    DagsterEventBatchMetadata,
)
from dagster_shared.record import replace

Recordable = AssetMaterialization | AssetObservation | AssetCheckEvaluation

WAIT_SECONDS = 1.0
"""How long events gather: the first that comes later takes them along."""
AT_ONCE = 200
"""How many events wait, whatever the time."""


def recorded(
    context: AssetExecutionContext,
    events: Iterable[Recordable | Output[None]],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Output[None]]:
    """Record an op's events, whatever becomes of the op; its outputs are left to Dagster.

    A verdict on a partition is recorded as one on what is then the latest materialization of it,
    for Dagster takes one that names none for one on an older.
    """
    recorder = _Recorder(context, clock)
    try:
        for event in events:
            if isinstance(event, Output):
                yield event
            else:
                recorder.add(event)
    finally:
        recorder.flush()


class _Recorder:
    """The events of one execution of an op that wait."""

    def __init__(self, context: AssetExecutionContext, clock: Callable[[], float]) -> None:
        self._instance = context.instance
        self._step = context.get_step_execution_context()
        self._clock = clock
        self._waiting: list[Recordable] = []
        self._since = 0.0

    def add(self, event: Recordable) -> None:
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append(event)
        if len(self._waiting) >= AT_ONCE or self._clock() - self._since >= WAIT_SECONDS:
            self.flush()

    def flush(self) -> None:
        # Not twice, should this be interrupted: what is not recorded is done again.
        events, self._waiting = self._waiting, []
        verdicts = [event for event in events if isinstance(event, AssetCheckEvaluation)]
        self._store([event for event in events if not isinstance(event, AssetCheckEvaluation)])
        self._store(_on_latest(self._instance, verdicts))

    def _store(self, events: Sequence[Recordable]) -> None:
        batch = str(uuid.uuid4())
        for number, event in enumerate(events, 1):
            self._log(event, DagsterEventBatchMetadata(batch, is_end=number == len(events)))

    def _log(self, event: Recordable, batch: DagsterEventBatchMetadata) -> None:
        match event:
            case AssetMaterialization():
                DagsterEvent.asset_materialization(self._step, event, batch)
            case AssetObservation():
                DagsterEvent.asset_observation(self._step, event, batch)
            case AssetCheckEvaluation():
                DagsterEvent.from_step(
                    DagsterEventType.ASSET_CHECK_EVALUATION,
                    self._step,
                    event_specific_data=event,
                    message=_spoken(event),
                    batch_metadata=batch,
                )


def _on_latest(
    instance: DagsterInstance, verdicts: Sequence[AssetCheckEvaluation]
) -> list[AssetCheckEvaluation]:
    """The verdicts, each naming the latest materialization of its partition."""
    keys: dict[AssetKey, set[str]] = defaultdict(set)
    for verdict in verdicts:
        if verdict.partition is not None:
            keys[verdict.asset_key].add(verdict.partition)
    latest = {
        (asset, str(record.partition_key)): AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for asset, of_asset in keys.items()
        for record in _latest_materializations(instance, asset, of_asset)
    }
    return [
        replace(
            verdict,
            target_materialization_data=latest.get((verdict.asset_key, str(verdict.partition))),
        )
        for verdict in verdicts
    ]


def _latest_materializations(
    instance: DagsterInstance, asset: AssetKey, keys: AbstractSet[str]
) -> Sequence[EventLogRecord]:
    ids = instance.get_latest_storage_id_by_partition(
        asset, DagsterEventType.ASSET_MATERIALIZATION, set(keys)
    )
    if not ids:
        return []
    wanted = AssetRecordsFilter(asset_key=asset, storage_ids=list(ids.values()))
    return instance.fetch_materializations(wanted, limit=len(ids)).records


def _spoken(verdict: AssetCheckEvaluation) -> str:
    """What the run's log says of a verdict; Dagster's own words would not name the partition."""
    passed = "passed" if verdict.passed else "did not pass"
    of = f" of {verdict.partition}" if verdict.partition else ""
    said = f": {verdict.description}" if verdict.description else ""
    return f"{verdict.check_name} on {verdict.asset_key.to_user_string()}{of} {passed}{said}"
