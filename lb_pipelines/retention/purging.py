"""Purges: originals of whole partitions, long archived, let go in two phases.

First a partition (institution, type, month) is taken out of the tree and exported, then, after
the grace once more, its table is dropped. Each step is entered in `lb.purges` in the transaction
that makes it so, and checks again what the step before it was allowed by; whoever is killed leaves
a state from which the next run goes on. The archive's copies stay; a purge only ends the double
keeping. What may go is said once, in `waits_for` and `drop_waits_for`, which the plan shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.partition_key import PartitionKey
from lb_pipelines.core.periods import academic_year, next_month
from lb_pipelines.core.retention import PURGE_KEY, Hold, RetentionPolicy
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import detaching
from lb_pipelines.db.partitions.detaching import DETACH_PATIENCE, Standing, set_aside_name
from lb_pipelines.db.partitions.leaves import create_missing, is_dedicated
from lb_pipelines.db.partitions.names import SHARED, Root, board_leaf
from lb_pipelines.db.partitions.patience import PLACEMENT_LOCK, Patience, held
from lb_pipelines.db.repositories import exports, holds, purges, writers
from lb_pipelines.db.repositories.archive_ledger import digest_text
from lb_pipelines.db.repositories.purges import PartitionOfOriginals, PurgeEntry, Tally
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import ExportDamaged, ExportRefused
from lb_pipelines.retention import exporting
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.export_files import BATCH_ROWS
from lb_pipelines.retention.exporting import VerifiedExport

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class PlannedPurge:
    """One partition (type, month) whose originals are archived, and what is to become of it.

    `phase` is `detach` or `drop`; `waits_for` says in words what it waits for, None: it can go now.
    """

    institution_id: str
    type: BoardType
    month: date
    partition_key: str
    phase: str
    rows: int
    bytes: int
    waits_for: str | None


@dataclass(frozen=True)
class Purged:
    """What one run has done to one partition: `state` as in `lb.purges`, `reason` where it was not
    let go any further."""

    purge: int
    type: BoardType
    month: date
    partition_key: str
    state: str
    rows: int
    bytes: int
    digest: str
    export_directory: str | None
    reason: str | None = None


@dataclass(frozen=True)
class _Run:
    """What one run works with."""

    database: Database
    institution: Institution
    policy: RetentionPolicy
    today: date
    actor: Actor
    export_root: Path
    patience: Patience
    on_step: OnStep


def plan_purges(database: Database, institution: Institution, today: date) -> list[PlannedPurge]:
    """Each partition with archived originals, then those set aside; each with what it waits for.

    Raises `InvalidSetting` for a retention or purge setting that cannot be used.
    """
    policy = RetentionPolicy.of(institution)
    with database.transaction(snapshot=True) as connection:
        in_force = holds.in_force(connection, institution, today)
        under_way = purges.under_way(connection, institution)
        begun = {(entry.type, entry.month): entry for entry in under_way}
        returned = _returned(connection, institution)
        lines = []
        for found in purges.partitions(connection, institution):
            entry = begun.get((found.type, found.month))
            if entry is not None and entry.state == "DETACHING":
                continue  # The line of the purge says it.
            wait = waits_for(policy, today, found, in_force, earlier=entry is not None)
            if wait is None:
                tally = purges.tally(connection, institution, found.type, found.month)
                wait = copies_wait_for(
                    policy, today, tally, returned.get((found.type, found.month))
                )
            lines.append(
                PlannedPurge(
                    institution.id,
                    found.type,
                    found.month,
                    _key(institution, found.type, found.month),
                    "detach",
                    found.rows,
                    found.bytes,
                    wait,
                )
            )
    for entry in under_way:
        detaching_still = entry.state == "DETACHING"
        lines.append(
            PlannedPurge(
                institution.id,
                entry.type,
                entry.month,
                _key(institution, entry.type, entry.month),
                "detach" if detaching_still else "drop",
                entry.rows,
                entry.bytes,
                None if detaching_still else drop_waits_for(policy, today, entry, in_force),
            )
        )
    return lines


def purge(
    database: Database,
    institution: Institution,
    today: date,
    actor: Actor,
    export_root: Path,
    *,
    patience: Patience = DETACH_PATIENCE,
    on_step: OnStep = lambda step: None,
) -> list[Purged]:
    """Finish what another run began, drop what has waited long enough, set aside what may go now.

    One run an institution at a time: a second waits, and finds nothing left. Raises
    `InvalidSetting`; `PartitionBusy` where others kept their locks and `ExportRefused` where files
    cannot be written: what was done before stays, and the next run goes on.
    """
    policy = RetentionPolicy.of(institution)
    run = _Run(database, institution, policy, today, actor, export_root, patience, on_step)
    done: dict[int, Purged] = {}
    with held(database, purges.lock_key(institution)):
        for entry in _under_way(run):
            if entry.state == "DETACHING":
                reason = _detach(run, entry)
                done[entry.purge] = _purged(run, entry.purge, reason)
        _export_and_drop(run, done)
        for line in plan_purges(database, institution, today):
            if line.phase == "detach" and line.waits_for is None:
                begun = _begin(run, line.type, line.month)
                if begun is not None:
                    done[begun.purge] = begun
        _export_and_drop(run, done)
    return [done[number] for number in sorted(done)]


def waits_for(
    policy: RetentionPolicy,
    today: date,
    found: PartitionOfOriginals,
    in_force: Iterable[Hold],
    *,
    earlier: bool = False,
) -> str | None:
    """What a partition must wait for before it is detached, by the live table alone.

    `earlier`: its originals of before are still set aside.
    """
    if policy.purge_grace is None:
        return f"a purge setting: metadata.{PURGE_KEY} is not set"
    if (hold := _held(found.type, found.month, in_force)) is not None:
        return hold
    # Until then a day of it, materialized again, would be ACTIVE and not yet expired.
    over = next_month(found.month) + timedelta(days=max(policy.days.values()))
    if today < over:
        return f"the month to have expired whole, on {over}"
    if found.active:
        return f"{found.active} ACTIVE snapshots to be archived"
    if earlier:
        return "its originals of an earlier purge to be dropped"
    return None


def copies_wait_for(
    policy: RetentionPolicy, today: date, tally: Tally, returned: PurgeEntry | None = None
) -> str | None:
    """What a partition must wait for before it is detached, held against the archive.

    `returned`: its purge before this, after which somebody attached it again.
    """
    if tally.active:
        return f"{tally.active} ACTIVE snapshots to be archived"
    if tally.unequal:
        return f"{tally.unequal} originals without an equal copy in the archive: verify it"
    # Whoever attached it again wants it there; no run is to undo that the next day.
    if (
        returned is not None
        and returned.detached_at is not None
        and (tally.last_archived is None or tally.last_archived <= returned.detached_at.date())
    ):
        return f"anything of it to be archived anew: attached again after purge {returned.purge}"
    if tally.last_archived is not None and policy.purge_grace is not None:
        ready = tally.last_archived + timedelta(days=policy.purge_grace)
        if today < ready:
            return f"its grace to be over, on {ready}"
    return None


def drop_waits_for(
    policy: RetentionPolicy, today: date, entry: PurgeEntry, in_force: Iterable[Hold]
) -> str | None:
    """What a table set aside must wait for before it is dropped, by the ledger alone."""
    if policy.purge_grace is None:
        return f"a purge setting: metadata.{PURGE_KEY} is not set"
    if (hold := _held(entry.type, entry.month, in_force)) is not None:
        return hold
    if entry.export is None:
        return "its export, which the next run writes"
    if today <= entry.drop_after:
        return f"its grace to be over, after {entry.drop_after}"
    return None


def _returned(
    connection: Connection, institution: Institution
) -> dict[tuple[BoardType, date], PurgeEntry]:
    """Partitions whose last purge ended with their table attached again by somebody."""
    last = {(e.type, e.month): e for e in purges.every(connection, institution)}
    return {which: e for which, e in last.items() if e.state == "KEPT" and e.detached_at}


def _held(type: BoardType, month: date, in_force: Iterable[Hold]) -> str | None:
    for hold in in_force:
        if hold.covers(type, month):
            return f"legal hold {hold.number} to be released ({hold.placed_by}: {hold.reason})"
    return None


def _begin(run: _Run, type: BoardType, month: date) -> Purged | None:
    """Enter a partition's purge and carry its first phase out; None where it may not go after all.

    Nobody moves the institution meanwhile.
    """
    with held(run.database, PLACEMENT_LOCK):
        with run.database.transaction() as connection:
            dedicated = is_dedicated(connection, run.institution.id)
        if not dedicated:
            relation = set_aside_name(run.institution.id, type, month)
            work = partial(_set_aside, run=run, type=type, month=month)
            number = run.patience.run(run.database, relation, work)
            return None if number is None else _purged(run, number)
        with run.database.transaction() as connection:
            number = _enter(connection, run, type, month)
    if number is None:
        return None
    run.on_step("entered")
    (entry,) = (entry for entry in _under_way(run) if entry.purge == number)
    return _purged(run, number, _detach(run, entry))


def _enter(connection: Connection, run: _Run, type: BoardType, month: date) -> int | None:
    """Check once more, alone with the institution, and enter the purge; None: it may not go."""
    writers.write_alone(connection, run.institution)
    tally = purges.tally(connection, run.institution, type, month)
    found = PartitionOfOriginals(type, month, tally.rows, tally.bytes, tally.active)
    in_force = holds.in_force(connection, run.institution, run.today)
    returned = _returned(connection, run.institution).get((type, month))
    if not tally.rows or (
        waits_for(run.policy, run.today, found, in_force)
        or copies_wait_for(run.policy, run.today, tally, returned)
    ):
        return None
    return purges.enter(
        connection,
        run.institution,
        type,
        month,
        set_aside_name(run.institution.id, type, month),
        tally,
        _drop_after(run),
        run.actor.name,
        run.actor.run_id,
    )


def _set_aside(connection: Connection, run: _Run, type: BoardType, month: date) -> int | None:
    """The first phase for an institution in the shared subtree: its rows move, in one
    transaction; None where they may not."""
    with run.patience.suspended(run.database, connection):
        number = _enter(connection, run, type, month)
    if number is None:
        return None
    relation = set_aside_name(run.institution.id, type, month)
    detaching.create_aside(connection, relation)
    purges.set_aside(connection, run.institution, type, month, relation)
    tally = purges.tally(connection, run.institution, type, month, relation)
    purges.set_detached(connection, number, tally, _drop_after(run))
    raise_versions(connection, run.institution, [(type, month)])
    return number


def _detach(run: _Run, entry: PurgeEntry) -> str | None:
    """Take an entered partition's leaf out of its tree, from wherever that stopped; gives why it
    was kept, None where it was not."""
    leaf = detaching.snapshot_leaf(run.institution.id, entry.type, entry.month)
    with held(run.database, PLACEMENT_LOCK):
        with run.database.transaction() as connection:
            writers.write_alone(connection, run.institution)
            now = detaching.standing(connection, leaf.name)
            wait = None
            if now is Standing.ABSENT:
                wait = "the institution was moved into the shared subtree meanwhile"
            elif now is Standing.ATTACHED:
                wait = _still_waits_for(connection, run, entry, None)
            if wait is not None:
                purges.set_kept(connection, entry.purge)
                return wait
        detaching.detach(run.database, leaf, patience=run.patience)
        run.on_step("detached")
        with run.database.transaction() as connection:
            dedicated = is_dedicated(connection, run.institution.id)
        if not dedicated:
            # Should its rows have to go back: the other locks are not to wait for this one.
            shared = board_leaf(SHARED, entry.type, entry.month, Root.SNAPSHOTS)
            create_missing(run.database, [shared], run.patience)
        kept = run.patience.run(
            run.database, leaf.name, partial(_settle, run=run, entry=entry, dedicated=dedicated)
        )
    run.on_step("set aside")
    return kept


def _settle(connection: Connection, run: _Run, entry: PurgeEntry, dedicated: bool) -> str | None:
    """With the leaf out of its tree: check what may have changed until it was, then give it its
    name, or put it back; gives why it was put back."""
    leaf = detaching.snapshot_leaf(run.institution.id, entry.type, entry.month)
    with run.patience.suspended(run.database, connection):
        writers.write_alone(connection, run.institution)
    detaching.lock(connection, leaf.name)
    # A renewal that found the leaf gone has renewed the copies alone.
    purges.catch_up(connection, run.institution, entry.type, entry.month, leaf.name)
    wait = _still_waits_for(connection, run, entry, leaf.name)
    if wait is None:
        tally = purges.tally(connection, run.institution, entry.type, entry.month, leaf.name)
        detaching.rename(connection, leaf.name, entry.relation)
        purges.set_detached(connection, entry.purge, tally, _drop_after(run))
        raise_versions(connection, run.institution, [(entry.type, entry.month)])
        return None
    if dedicated:
        detaching.attach(connection, leaf)
    else:
        purges.put_back(connection, leaf.name)
        detaching.drop(connection, leaf.name)
    purges.set_kept(connection, entry.purge)
    raise_versions(connection, run.institution, [(entry.type, entry.month)])
    return wait


def _still_waits_for(
    connection: Connection, run: _Run, entry: PurgeEntry, relation: str | None
) -> str | None:
    """As `waits_for`, of a partition whose purge is entered; the grace has been looked at."""
    tally = purges.tally(connection, run.institution, entry.type, entry.month, relation)
    found = PartitionOfOriginals(entry.type, entry.month, tally.rows, tally.bytes, tally.active)
    in_force = holds.in_force(connection, run.institution, run.today)
    return waits_for(run.policy, run.today, found, in_force) or copies_wait_for(
        run.policy, run.today, tally
    )


def _export_and_drop(run: _Run, done: dict[int, Purged]) -> None:
    """Write the exports that are missing, and drop what may go."""
    for entry in _under_way(run):
        if entry.state != "DETACHED":
            continue
        if entry.export is None:
            reason = _export(run, entry)
            done[entry.purge] = _purged(run, entry.purge, reason)
            run.on_step("exported")
            continue  # Its grace has only begun.
        with run.database.transaction() as connection:
            in_force = holds.in_force(connection, run.institution, run.today)
        if drop_waits_for(run.policy, run.today, entry, in_force) is None:
            reason = _drop(run, entry)
            done[entry.purge] = _purged(run, entry.purge, reason)
            run.on_step("dropped")


def _export(run: _Run, entry: PurgeEntry) -> str | None:
    """Export a table set aside, or enter the export that a killed run left; why not, if not."""
    key = _key(run.institution, entry.type, entry.month)
    directory = (run.export_root / run.institution.id / f"purge-{entry.purge}_{key}").absolute()
    look = partial(_not_alone, run=run, entry=entry)
    if (reason := run.patience.run(run.database, entry.relation, look)) is not None:
        return reason
    year = academic_year(entry.month, run.institution.academic_year_start_month)
    selection = {"purge": entry.purge, "partitionKey": key}

    def parts(connection: Connection) -> Iterable[exporting.Part]:
        rows = exports.set_aside(
            connection, run.institution, entry.type, entry.month, entry.relation, year, BATCH_ROWS
        )
        return [(year, entry.type, rows)]

    def entered(connection: Connection, export: int) -> None:
        purges.set_export(connection, entry.purge, export)

    if directory.exists():
        found = exporting.verify_export(directory)
        with run.database.transaction() as connection:
            writers.write_alone(connection, run.institution)
            (now,) = (e for e in purges.under_way(connection, run.institution) if e == entry)
            if (found.rows, found.digest) != (now.rows, _digest(now)):
                raise ExportRefused(
                    f"{directory} exists and holds something else than purge {entry.purge}",
                    "Move it away and run the purge again",
                )
            export = exports.enter(
                connection,
                run.institution,
                directory=str(directory),
                selection=selection,
                rows=found.rows,
                manifest_sha256=found.manifest_sha256,
                started_by=run.actor.name,
                run_id=run.actor.run_id,
            )
            entered(connection, export)
        return None
    exporting.write(run.database, run.institution, selection, directory, run.actor, parts, entered)
    return None


def _drop(run: _Run, entry: PurgeEntry) -> str | None:
    """Drop a table set aside if all that speaks for it still holds; why not, if not."""
    assert entry.export_directory is not None
    try:
        found = exporting.verify_export(Path(entry.export_directory))
    except ExportDamaged as error:
        return f"its export: {error.thing}"
    work = partial(_drop_now, run=run, entry=entry, found=found)
    return run.patience.run(run.database, entry.relation, work)


def _drop_now(
    connection: Connection, run: _Run, entry: PurgeEntry, found: VerifiedExport
) -> str | None:
    with run.patience.suspended(run.database, connection):
        writers.write_alone(connection, run.institution)
    if (reason := _not_alone(connection, run, entry)) is not None:
        return reason
    detaching.lock(connection, entry.relation)
    (entry,) = (
        current
        for current in purges.under_way(connection, run.institution)
        if current.purge == entry.purge
    )
    in_force = holds.in_force(connection, run.institution, run.today)
    wait = drop_waits_for(run.policy, run.today, entry, in_force)
    if wait is not None:
        return wait
    tally = purges.tally(connection, run.institution, entry.type, entry.month, entry.relation)
    # Renewed or restored since, copies may differ from it; the table itself must not have changed.
    if (tally.rows, tally.digest_high, tally.digest_low) != (
        entry.rows,
        entry.digest_high,
        entry.digest_low,
    ):
        return "its rows are not those that were set aside: compare them with the export"
    if (found.rows, found.digest, found.manifest_sha256) != (
        entry.rows,
        _digest(entry),
        entry.manifest_sha256,
    ):
        return f"its export {found.directory} does not hold the rows that were set aside"
    lost = purges.unaccounted(connection, run.institution, entry)
    if lost:
        return f"{lost} originals that neither the archive nor a live snapshot stands for"
    detaching.drop(connection, entry.relation)
    purges.set_dropped(connection, entry.purge)
    return None


def _not_alone(connection: Connection, run: _Run, entry: PurgeEntry) -> str | None:
    """What somebody has done with a table set aside, entered in the ledger; None: nothing.

    One that hangs in a tree again stays, under its leaf's own name if that is free.
    """
    now = detaching.standing(connection, entry.relation)
    if now is Standing.ALONE:
        return None
    if now is Standing.ABSENT:
        purges.set_dropped(connection, entry.purge)
        return "its table was dropped by somebody else"
    leaf = detaching.snapshot_leaf(run.institution.id, entry.type, entry.month)
    if detaching.standing(connection, leaf.name) is Standing.ABSENT:
        detaching.rename(connection, entry.relation, leaf.name)
        detaching.drop_own_checks(connection, leaf.name)
    purges.set_kept(connection, entry.purge)
    return "it was attached again"


def _purged(run: _Run, number: int, reason: str | None = None) -> Purged:
    with run.database.transaction() as connection:
        (entry,) = (e for e in purges.every(connection, run.institution) if e.purge == number)
    return Purged(
        entry.purge,
        entry.type,
        entry.month,
        _key(run.institution, entry.type, entry.month),
        entry.state,
        entry.rows,
        entry.bytes,
        _digest(entry),
        entry.export_directory,
        reason,
    )


def _under_way(run: _Run) -> list[PurgeEntry]:
    with run.database.transaction() as connection:
        return purges.under_way(connection, run.institution)


def _drop_after(run: _Run) -> date:
    assert run.policy.purge_grace is not None
    return run.today + timedelta(days=run.policy.purge_grace)


def _digest(entry: PurgeEntry) -> str:
    return digest_text(entry.digest_high, entry.digest_low)


def _key(institution: Institution, type: BoardType, month: date) -> str:
    return str(PartitionKey.of(institution.id, type, month))
