"""Purges: two phases, each checked again by who carries it out, killed anywhere without loss."""

from __future__ import annotations

import multiprocessing
import shutil
import traceback
from collections.abc import Callable
from datetime import date
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions import Patience, demote, ensure_snapshot_months, promote
from lb_pipelines.db.partitions.detaching import Standing, set_aside_name, standing
from lb_pipelines.db.repositories import (
    institutions,
    purges,
    revisions,
    snapshot_months,
    versions,
    writers,
)
from lb_pipelines.errors import ExportRefused, PartitionBusy, PartitionDetached
from lb_pipelines.retention import exporting, holding, purging
from lb_pipelines.retention.purging import Purged
from lb_pipelines.retention.sweeping import sweep
from lb_pipelines_tests import archives
from lb_pipelines_tests.archives import AUGUST, ID, JULY, READY, SOMEBODY, archived, live
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.waiting import LIMIT_SECONDS

LEAF = f"{ID}_CLASS_2023-07"
ASIDE = f"{LEAF}:purged"
AFTER = READY + (archives.GRACE + 1) * ONE_DAY
"""The first day on which what was set aside on `READY` may be dropped."""


def purge(
    database: Database, institution: Institution, today: date, root: Path, **how: Any
) -> list[Purged]:
    return purging.purge(database, institution, today, SOMEBODY, root, **how)


def states(done: list[Purged]) -> dict[str, str]:
    return {purged.partition_key: purged.state for purged in done}


def waits(database: Database, institution: Institution, today: date) -> dict[str, str | None]:
    """What each partition waits for, by key and phase."""
    plan = purging.plan_purges(database, institution, today)
    return {f"{line.partition_key} {line.phase}": line.waits_for for line in plan}


def where(database: Database, name: str) -> Standing:
    with database.transaction() as connection:
        return standing(connection, name)


def sql(database: Database, statement: str, *arguments: object) -> None:
    with database.transaction() as connection:
        connection.execute(statement, arguments)


def entries(database: Database, institution: Institution) -> list[purges.PurgeEntry]:
    with database.transaction() as connection:
        return purges.every(connection, institution)


@pytest.fixture(params=["dedicated", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "shared")


def july(
    database: Database, *, shared: bool = False, types: tuple[str, ...] = ("CLASS",)
) -> Institution:
    """An institution whose July is archived and whose August is not; another beside it."""
    institution = archives.school(database)
    archives.add(database, institution, archives.month(JULY), types=types, shared=shared)
    assert archives.archive(database, institution) == 6 * len(types)
    other = archives.school(database, "inst_8")
    archives.add(database, other, archives.month(JULY), types=types, shared=shared)
    return institution


def test_two_phases_each_after_its_grace(database: Database, tmp_path: Path, shared: bool) -> None:
    institution = july(database, shared=shared, types=("CLASS", "CAMPUS"))
    archives.add(database, institution, archives.month(AUGUST), types=("CLASS",), shared=shared)
    copies, others = archived(database), live(database, "inst_8")
    august = [row for row in live(database) if ":2023-08" in row[0]]
    early = READY - ONE_DAY
    assert waits(database, institution, early) == {
        f"{ID}_CAMPUS_2023-07 detach": "its grace to be over, on 2024-03-11",
        f"{ID}_CLASS_2023-07 detach": "its grace to be over, on 2024-03-11",
    }
    assert purge(database, institution, early, tmp_path) == []

    assert set(waits(database, institution, READY).values()) == {None}
    done = purge(database, institution, READY, tmp_path)
    assert states(done) == {LEAF: "DETACHED", f"{ID}_CAMPUS_2023-07": "DETACHED"}
    assert live(database) == august
    assert where(database, ASIDE) is Standing.ALONE
    for purged in done:
        assert purged.rows == 6
        export = exporting.verify_export(Path(purged.export_directory or ""))
        assert (export.rows, export.digest, export.institution_id) == (6, purged.digest, ID)
    # The month can be made again, and that does not touch what was set aside.
    ensure_snapshot_months(database, ID, JULY, JULY, budget=0 if shared else None)
    assert where(database, ASIDE) is Standing.ALONE
    assert waits(database, institution, AFTER - ONE_DAY) == {
        f"{LEAF} drop": "its grace to be over, after 2024-03-21",
        f"{ID}_CAMPUS_2023-07 drop": "its grace to be over, after 2024-03-21",
    }
    assert purge(database, institution, AFTER - ONE_DAY, tmp_path) == []

    done = purge(database, institution, AFTER, tmp_path)
    assert states(done) == {LEAF: "DROPPED", f"{ID}_CAMPUS_2023-07": "DROPPED"}
    assert archives.tables(database, "%:purged") == set()
    assert purge(database, institution, AFTER + ONE_DAY, tmp_path) == []
    assert (archived(database), live(database, "inst_8"), live(database)) == (
        copies,
        others,
        august,
    )
    (first, second) = entries(database, institution)
    assert (first.started_by, first.run_id, first.rows) == ("somebody", "run-1", 6)
    assert second.dropped_at is not None


def no_setting(database: Database, institution: Institution) -> Institution:
    return archives.settings(database, grace=None)


def not_expired_whole(database: Database, institution: Institution) -> Institution:
    return archives.settings(database, term=400)


def a_row_comes_late(database: Database, institution: Institution) -> None:
    archives.add(database, institution, [date(2023, 7, 20)], types=("CLASS",))


def a_row_is_restored(database: Database, institution: Institution) -> None:
    archives.bring_back(database, institution, JULY, READY)


def a_copy_differs(database: Database, institution: Institution) -> None:
    sql(
        database,
        "UPDATE lb.archived_leaderboard_snapshots SET content_hash = 'x'"
        " WHERE reference_id = 'r1' AND snapshot_date = '2023-07-01'",
    )


def a_copy_is_gone(database: Database, institution: Institution) -> None:
    sql(database, "DELETE FROM lb.archived_leaderboard_snapshots WHERE reference_id = 'r1'")


def a_copy_is_young(database: Database, institution: Institution) -> None:
    sql(
        database,
        "UPDATE lb.archived_leaderboard_snapshots SET archived_at = '2024-03-02 00:00+00'"
        " WHERE reference_id = 'r1' AND snapshot_date = '2023-07-01'",
    )


def a_hold_is_placed(database: Database, institution: Institution) -> None:
    holding.place(
        database,
        institution,
        type=BoardType.CLASS,
        first_month=JULY,
        last_month=JULY,
        reason="a case",
        today=READY,
        actor=SOMEBODY,
    )


Change = Callable[[Database, Institution], Institution | None]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_setting, "a purge setting: metadata.leaderboardPurge is not set"),
        (not_expired_whole, "the month to have expired whole, on 2024-09-04"),
        (a_row_comes_late, "2 ACTIVE snapshots to be archived"),
        (a_row_is_restored, "2 ACTIVE snapshots to be archived"),
        (a_copy_differs, "1 originals without an equal copy in the archive: verify it"),
        (a_copy_is_gone, "3 originals without an equal copy in the archive: verify it"),
        (a_copy_is_young, "its grace to be over, on 2024-03-12"),
        (a_hold_is_placed, "legal hold 1 to be released (somebody: a case)"),
    ],
)
def test_what_a_partition_waits_for(
    database: Database, tmp_path: Path, change: Change, words: str
) -> None:
    institution = july(database)
    institution = change(database, institution) or institution
    before = live(database)
    assert waits(database, institution, READY) == {f"{LEAF} detach": words}
    assert purge(database, institution, READY, tmp_path) == []
    assert live(database) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [a_hold_is_placed, a_copy_differs, a_copy_is_gone, no_setting])
@pytest.mark.parametrize("moment", ["entered", "detached"])
def test_what_changes_while_a_leaf_is_detached_puts_it_back(
    database: Database, tmp_path: Path, change: Change, moment: str
) -> None:
    institution = july(database)
    before = live(database)

    def act(step: str) -> None:
        if step == moment:
            assert where(database, LEAF) is (
                Standing.ATTACHED if moment == "entered" else Standing.ALONE
            )
            changed.append(change(database, institution))
            raise KeyboardInterrupt

    changed: list[Institution | None] = []
    with pytest.raises(KeyboardInterrupt):
        purge(database, institution, READY, tmp_path, on_step=act)
    steps: list[str] = []
    (done,) = purge(database, changed[0] or institution, READY, tmp_path, on_step=steps.append)
    # A leaf that may not go is not taken out of its tree for a moment either.
    assert steps == ([] if moment == "entered" else ["detached", "set aside"])
    assert done.state == "KEPT"
    assert done.reason
    assert live(database) == before
    assert where(database, LEAF) is Standing.ATTACHED
    with database.transaction() as connection:
        # As it was: the CHECK that the detach left is gone, the indexes are the tree's again.
        own = connection.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'"
            " AND coninhcount = 0",
            (f'lb_part."{LEAF}"',),
        ).fetchall()
        alone = connection.execute(
            "SELECT x.indexrelid FROM pg_index x LEFT JOIN pg_inherits i"
            " ON i.inhrelid = x.indexrelid WHERE x.indrelid = %s::regclass AND i.inhrelid IS NULL",
            (f'lb_part."{LEAF}"',),
        ).fetchall()
    assert (own, alone) == ([], [])


def test_a_leaf_that_a_killed_purge_left_outside_is_hung_back_where_it_is_needed(
    database: Database, tmp_path: Path
) -> None:
    institution = july(database)
    before = live(database)

    def stop(step: str) -> None:
        if step == "detached":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purge(database, institution, READY, tmp_path, on_step=stop)
    assert live(database) != before
    kept = version(database)
    snapshot_months.ensure(database, institution, DayRange(JULY, JULY))
    assert (where(database, LEAF), live(database)) == (Standing.ATTACHED, before)
    assert version(database) != kept
    # The purge is still entered, weighs again, and goes on.
    assert waits(database, institution, READY) == {f"{LEAF} detach": None}
    assert states(purge(database, institution, READY, tmp_path)) == {LEAF: "DETACHED"}
    snapshot_months.ensure(database, institution, DayRange(JULY, JULY))


@pytest.mark.parametrize("needed", [True, False])
def test_what_was_renewed_while_a_leaf_was_outside_reaches_it(
    database: Database, tmp_path: Path, needed: bool
) -> None:
    """Whether somebody who needs the month hangs the leaf back, or the purge itself, for a hold."""
    institution = july(database)

    def renew_and_stop(step: str) -> None:
        if step == "detached":
            renew(database, institution)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purge(database, institution, READY, tmp_path, on_step=renew_and_stop)
    if needed:
        snapshot_months.ensure(database, institution, DayRange(JULY, JULY))
    else:
        a_hold_is_placed(database, institution)
        assert states(purge(database, institution, READY, tmp_path)) == {LEAF: "KEPT"}
    assert where(database, LEAF) is Standing.ATTACHED
    # One board has no ranked student any more; the other one's original says what its copy does.
    copies = archived(database)
    assert live(database) == [(row[0], "ARCHIVED", row[6]) for row in copies]
    assert len(copies) == 5


def test_a_renewal_while_a_leaf_is_outside_does_not_keep_a_purge_from_going_on(
    database: Database, tmp_path: Path
) -> None:
    institution = july(database)

    def act(step: str) -> None:
        if step == "detached":
            renew(database, institution)

    assert states(purge(database, institution, READY, tmp_path, on_step=act)) == {LEAF: "DETACHED"}
    assert states(purge(database, institution, AFTER, tmp_path)) == {LEAF: "DROPPED"}


def renew(database: Database, institution: Institution) -> None:
    """July 1 made anew: of two boards one says something else, and one is gone."""
    renewal = revisions.Renewal("run", READY)
    with database.transaction() as connection:
        writers.write_alone(connection, institution)
        queries.snapshots.prepare_stage(connection)
        connection.execute(
            "INSERT INTO staged_snapshots SELECT institution_id, type, reference_id,"
            " time_granularity, snapshot_date, period_start, entries, metadata, distribution, %s"
            " FROM lb.archived_leaderboard_snapshots WHERE institution_id = %s"
            " AND reference_id = 'r1' AND snapshot_date = %s",
            (b"another", institution.id, JULY),
        )
        revisions.renew(connection, institution, BoardType.CLASS, JULY, renewal)


def test_a_leaf_that_somebody_took_out_is_not_hung_back(database: Database) -> None:
    institution = july(database)
    sql(database, f'ALTER TABLE lb_part."{ID}:CLASS" DETACH PARTITION lb_part."{LEAF}"')
    with pytest.raises(PartitionDetached, match=LEAF):
        snapshot_months.ensure(database, institution, DayRange(JULY, JULY))
    assert where(database, LEAF) is Standing.ALONE


def version(database: Database) -> str | None:
    """What whoever keeps a reading of July's class boards asks for."""
    return versions.version_of(database, ID, [BoardType.CLASS], DayRange(JULY, JULY))


def set_aside(database: Database, tmp_path: Path, *, shared: bool = False) -> Institution:
    institution = july(database, shared=shared)
    assert states(purge(database, institution, READY, tmp_path)) == {LEAF: "DETACHED"}
    return institution


def test_a_hold_between_the_phases_keeps_the_table_until_it_is_released(
    database: Database, tmp_path: Path, shared: bool
) -> None:
    institution = set_aside(database, tmp_path, shared=shared)
    a_hold_is_placed(database, institution)
    words = "legal hold 1 to be released (somebody: a case)"
    assert waits(database, institution, AFTER) == {f"{LEAF} drop": words}
    assert purge(database, institution, AFTER, tmp_path) == []
    assert where(database, ASIDE) is Standing.ALONE
    holding.release(database, institution, 1, SOMEBODY)
    assert states(purge(database, institution, AFTER, tmp_path)) == {LEAF: "DROPPED"}


def test_a_setting_taken_back_keeps_what_is_set_aside(database: Database, tmp_path: Path) -> None:
    set_aside(database, tmp_path)
    institution = archives.settings(database, grace=None)
    assert purge(database, institution, AFTER, tmp_path) == []
    assert where(database, ASIDE) is Standing.ALONE


def test_a_table_that_was_attached_again_is_kept(database: Database, tmp_path: Path) -> None:
    institution = july(database)
    before = live(database)
    purge(database, institution, READY, tmp_path)
    sql(
        database,
        f'ALTER TABLE lb_part."{ID}:CLASS" ATTACH PARTITION lb_part."{ASIDE}"'
        " FOR VALUES FROM ('2023-07-01') TO ('2023-08-01')",
    )
    (done,) = purge(database, institution, AFTER, tmp_path)
    assert (done.state, done.reason) == ("KEPT", "it was attached again")
    assert live(database) == before
    # Under its own name again, so that its month is known to be there.
    assert where(database, LEAF) is Standing.ATTACHED
    assert ensure_snapshot_months(database, ID, JULY, JULY) == []
    words = "anything of it to be archived anew: attached again after purge 1"
    assert waits(database, institution, AFTER) == {f"{LEAF} detach": words}
    assert purge(database, institution, AFTER, tmp_path) == []


def flip_a_byte(directory: Path) -> None:
    (file,) = directory.glob("*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, "its SHA-256 is another"),
        (shutil.rmtree, "manifest.json: cannot be read"),
        (lambda directory: next(directory.glob("*.parquet")).unlink(), "is missing"),
    ],
)
def test_without_its_export_nothing_is_dropped(
    database: Database, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    institution = set_aside(database, tmp_path)
    (entry,) = entries(database, institution)
    damage(Path(entry.export_directory or ""))
    (done,) = purge(database, institution, AFTER, tmp_path)
    assert done.state == "DETACHED"
    assert words in (done.reason or "")
    assert where(database, ASIDE) is Standing.ALONE


def test_another_export_in_its_place_is_not_taken_for_its_own(
    database: Database, tmp_path: Path
) -> None:
    institution = set_aside(database, tmp_path)
    (entry,) = entries(database, institution)
    directory = Path(entry.export_directory or "")
    shutil.rmtree(directory)
    selection = ArchiveSelection(reference_ids=("r1",))
    exporting.export_archive(database, institution, selection, directory, SOMEBODY)
    (done,) = purge(database, institution, AFTER, tmp_path)
    assert done.state == "DETACHED"
    assert "does not hold the rows that were set aside" in (done.reason or "")


def one_row_less(database: Database, institution: Institution) -> None:
    sql(database, f"DELETE FROM lb_part.\"{ASIDE}\" WHERE reference_id = 'r1'")


def another_content(database: Database, institution: Institution) -> None:
    sql(database, f"UPDATE lb_part.\"{ASIDE}\" SET content_hash = 'x'")


def renewed(database: Database, institution: Institution) -> None:
    sql(
        database,
        "INSERT INTO lb.archive_revisions (institution_key, original_id, revision,"
        " old_hash, new_hash) SELECT %s, original_id, 2, content_hash, 'x'"
        " FROM lb.archived_leaderboard_snapshots WHERE reference_id = 'r1'",
        institution.key,
    )
    sql(
        database,
        "UPDATE lb.archived_leaderboard_snapshots SET content_hash = 'x', revision = 2"
        " WHERE reference_id = 'r1'",
    )


def vanished(database: Database, institution: Institution) -> None:
    sql(
        database,
        "INSERT INTO lb.archive_revisions (institution_key, original_id, revision,"
        " old_hash) SELECT %s, original_id, 2, content_hash"
        " FROM lb.archived_leaderboard_snapshots WHERE reference_id = 'r1'",
        institution.key,
    )
    a_copy_is_gone(database, institution)


def restored_and_archived_again(database: Database, institution: Institution) -> None:
    archives.bring_back(database, institution, JULY, READY)
    sql(
        database,
        "UPDATE lb.leaderboard_snapshots SET content_hash = 'later'"
        " WHERE status = 'ACTIVE' AND institution_id = %s",
        ID,
    )
    assert sweep(database, institution, Granularity.DAILY, AFTER, SOMEBODY).rows == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_row_less, "its rows are not those that were set aside"),
        (another_content, "its rows are not those that were set aside"),
        (a_copy_differs, "1 originals that neither the archive nor a live snapshot stands for"),
        (a_copy_is_gone, "3 originals that neither the archive nor a live snapshot stands for"),
        (a_row_is_restored, None),
        (restored_and_archived_again, None),
        (renewed, None),
        (vanished, None),
    ],
)
def test_what_is_set_aside_is_dropped_only_if_something_stands_for_it(
    database: Database, tmp_path: Path, change: Change, words: str | None, shared: bool
) -> None:
    institution = set_aside(database, tmp_path, shared=shared)
    change(database, institution)
    before = live(database), archived(database)
    (done,) = purge(database, institution, AFTER, tmp_path)
    assert (live(database), archived(database)) == before
    if words is None:
        assert (done.state, done.reason) == ("DROPPED", None)
    else:
        assert done.state == "DETACHED"
        assert words in (done.reason or "")
        assert where(database, ASIDE) is Standing.ALONE


def test_what_is_archived_again_waits_for_what_was_set_aside_before(
    database: Database, tmp_path: Path
) -> None:
    institution = set_aside(database, tmp_path)
    archives.bring_back(database, institution, JULY, READY)
    assert archives.archive(database, institution, READY + 2 * ONE_DAY) == 2
    words = "its originals of an earlier purge to be dropped"
    assert waits(database, institution, AFTER)[f"{LEAF} detach"] == words
    (first, second) = purge(database, institution, AFTER + 2 * ONE_DAY, tmp_path)
    assert (first.state, first.rows, second.state, second.rows) == ("DROPPED", 6, "DETACHED", 2)


def test_an_institution_may_be_moved_between_the_phases(
    database: Database, tmp_path: Path, shared: bool
) -> None:
    institution = set_aside(database, tmp_path, shared=shared)
    archives.add(database, institution, [AUGUST], types=("CLASS",), shared=shared)
    before = live(database)
    assert (promote if shared else demote)(database, ID) > 0
    assert live(database) == before
    assert states(purge(database, institution, AFTER, tmp_path)) == {LEAF: "DROPPED"}
    assert live(database) == before


def test_the_longest_name_fits(database: Database, tmp_path: Path) -> None:
    id = "x" * 40
    institution = archives.school(database, id)
    archives.add(database, institution, archives.month(JULY), types=("SUBJECT",))
    archives.archive(database, institution)
    name = set_aside_name(id, BoardType.SUBJECT, JULY)
    assert len(name) == 63
    (done,) = purge(database, institution, READY, tmp_path)
    assert (done.state, where(database, name)) == ("DETACHED", Standing.ALONE)


# Real processes, killed while they stand at a step, and in the middle of a detach.

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])
STEPS = ("entered", "detached", "set aside", "exported", "dropped")


class Purging:
    """A process that purges, stops at each step and goes on when told."""

    def __init__(self, database: Database, today: date, root: Path, *, stops: bool = True) -> None:
        self._here, there = _context.Pipe()
        self.process = _context.Process(
            target=_work,
            args=(there, libpq_url(database.url), today, root, stops),
            daemon=True,
        )
        self.process.start()
        there.close()

    def next(self) -> str:
        assert self._here.poll(LIMIT_SECONDS), "the process says nothing"
        said = str(self._here.recv())
        assert not said.startswith("Traceback"), said
        return said

    def go_on(self) -> None:
        self._here.send(None)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -9


def _work(pipe: Pipe, url: str, today: date, root: Path, stops: bool) -> None:
    def on_step(step: str) -> None:
        if stops:
            pipe.send(step)
            pipe.recv()

    try:
        database = Database(url)
        with database.transaction() as connection:
            institution = institutions.find(connection, ID)
        done = purge(database, institution, today, root, on_step=on_step)
        pipe.send(f"done {len(done)}")
    except BaseException:
        pipe.send(traceback.format_exc())


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_and_run_again(
    database: Database, tmp_path: Path, shared: bool, step: str
) -> None:
    institution = july(database, shared=shared)
    copies = archived(database)
    if step == "dropped":
        purge(database, institution, READY, tmp_path)
    worker = Purging(database, AFTER if step == "dropped" else READY, tmp_path)
    said = worker.next()
    while said != step:
        if said.startswith("done"):
            assert shared  # Its rows are set aside in one transaction.
            return
        worker.go_on()
        said = worker.next()
    worker.kill()
    assert archived(database) == copies
    purge(database, institution, READY, tmp_path)
    assert states(purge(database, institution, AFTER, tmp_path)) == (
        {} if step == "dropped" else {LEAF: "DROPPED"}
    )
    (entry,) = entries(database, institution)
    assert (entry.state, entry.rows) == ("DROPPED", 6)
    assert (live(database), archived(database)) == ([], copies)
    assert archives.tables(database, f"{ID}%:purged") == set()
    exporting.verify_export(Path(entry.export_directory or ""))


def killed_within_the_detach(database: Database, tmp_path: Path) -> None:
    """Leave July's leaf pending: a reader holds it up, the process and its backend are killed."""
    with database.transaction() as reader:
        reader.execute(
            "SELECT count(*) FROM lb.leaderboard_snapshots WHERE institution_id = %s", (ID,)
        )
        worker = Purging(database, READY, tmp_path)
        assert worker.next() == "entered"
        worker.go_on()
        with database.autocommit() as observer:
            while (
                observer.execute("SELECT FROM pg_inherits WHERE inhdetachpending").fetchone()
                is None
            ):
                assert worker.process.is_alive()
            worker.kill()
            at_work = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%DETACH%'"
            at_work += " AND state = 'active' AND pid <> pg_backend_pid()"
            while rows := observer.execute(at_work).fetchall():
                observer.execute("SELECT pg_terminate_backend(%s)", rows[0])
    assert where(database, LEAF) is Standing.PENDING


def test_killed_within_the_detach_and_run_again(database: Database, tmp_path: Path) -> None:
    institution = july(database)
    killed_within_the_detach(database, tmp_path)
    assert states(purge(database, institution, READY, tmp_path)) == {LEAF: "DETACHED"}
    assert states(purge(database, institution, AFTER, tmp_path)) == {LEAF: "DROPPED"}


@pytest.mark.parametrize("change", [None, a_hold_is_placed])
def test_an_institution_moved_while_a_detach_is_pending_loses_nothing(
    database: Database, tmp_path: Path, change: Change | None
) -> None:
    institution = july(database)
    archives.add(database, institution, [AUGUST], types=("CLASS",))
    before = live(database)
    killed_within_the_detach(database, tmp_path)
    demote(database, ID)
    # With its subtree dropped the leaf still stands.
    assert where(database, LEAF) is Standing.ALONE
    if change is not None:
        change(database, institution)
        assert states(purge(database, institution, READY, tmp_path)) == {LEAF: "KEPT"}
        assert live(database) == before
        assert where(database, LEAF) is Standing.ABSENT
        return
    assert states(purge(database, institution, READY, tmp_path)) == {LEAF: "DETACHED"}
    assert states(purge(database, institution, AFTER, tmp_path)) == {LEAF: "DROPPED"}


def test_who_reads_for_long_makes_a_purge_give_up_and_go_on_later(
    database: Database, tmp_path: Path
) -> None:
    institution = july(database)
    impatient = Patience(lock_timeout=0.05, tries=2, sleep=lambda _: None)
    with database.transaction() as reader:
        reader.execute(
            "SELECT count(*) FROM lb.leaderboard_snapshots WHERE institution_id = %s", (ID,)
        )
        with pytest.raises(PartitionBusy, match=LEAF):
            purge(database, institution, READY, tmp_path, patience=impatient)
        assert reader.execute(
            "SELECT count(*) FROM lb.leaderboard_snapshots WHERE institution_id = 'inst_8'"
        ).fetchone() == (6,)
    assert states(purge(database, institution, READY, tmp_path)) == {LEAF: "DETACHED"}


def test_two_at_once_do_it_once(database: Database, tmp_path: Path, shared: bool) -> None:
    institution = july(database, shared=shared, types=("CLASS", "CAMPUS", "SUBJECT"))
    for today, state in ((READY, "DETACHED"), (AFTER, "DROPPED")):
        workers = [Purging(database, today, tmp_path, stops=False) for _ in range(2)]
        assert sorted(worker.next() for worker in workers) == ["done 0", "done 3"]
        assert [entry.state for entry in entries(database, institution)] == [state] * 3


def test_an_export_that_a_killed_run_left_is_entered_if_it_is_the_right_one(
    database: Database, tmp_path: Path
) -> None:
    institution = set_aside(database, tmp_path)
    (entry,) = entries(database, institution)
    sql(database, "UPDATE lb.purges SET export = NULL")
    sql(database, "DELETE FROM lb.exports")
    purge(database, institution, READY, tmp_path)
    (again,) = entries(database, institution)
    assert again.export_directory == entry.export_directory
    sql(database, "UPDATE lb.purges SET export = NULL, digest_low = 0")
    with pytest.raises(ExportRefused, match="holds something else than purge"):
        purge(database, institution, READY, tmp_path)
