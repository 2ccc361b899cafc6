"""Erasure: nothing names the student any more, everybody else's rank is what it was, and an erased
row is what materializing it again would give."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from lb_pipelines.core import pseudonyms
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions.detaching import Standing, snapshot_leaf, standing
from lb_pipelines.db.repositories import institutions
from lb_pipelines.db.repositories.purges import under_way
from lb_pipelines.errors import InvalidErasure, LeaderboardError, UnderLegalHold, UnknownStudent
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.retention import erasing_files, exporting, holding, purging
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.erasing import Erased, erase, finish_erasures, plan_erasure
from lb_pipelines.retention.purging import purge
from lb_pipelines.retention.sweeping import sweep
from lb_pipelines.sources import district, loading, plain
from lb_pipelines_tests import stored, worlds
from lb_pipelines_tests.oracle import School, renamed
from lb_pipelines_tests.test_trends import stored_trends
from lb_pipelines_tests.waiting import LIMIT_SECONDS

RUN = Provenance("run")
CLERK = Actor("A clerk", "run-7")
WHY = "Request of 2 March"
_ids = (f"inst_{number}" for number in itertools.count())
texts = st.text(st.characters(min_codepoint=2, exclude_categories=["Cs"]), max_size=4)


# Places between ids.


@given(texts, texts, st.lists(st.booleans(), max_size=40))
@example("", "\x02", [False] * 20)
@example("a", "a\x02", [True, False] * 9)
@example("\ud7ff", "\ue000", [False, True, True])
@example("s", "s1", [False] * 40)
def test_there_is_always_a_place_between_two(one: str, other: str, sides: list[bool]) -> None:
    assume(one != other)
    low, high = sorted((one, other))
    for up in sides:
        middle = pseudonyms.between(low, high)
        assert low < middle < high
        assert b"\0" not in middle.encode()
        low, high = (middle, high) if up else (low, middle)


@given(texts)
def test_there_is_a_place_at_either_end(text: str) -> None:
    assert pseudonyms.between(text, None) > text
    assert not text or pseudonyms.between(None, text) < text


@pytest.mark.parametrize("bounds", [("a", "a\x01"), ("b", "a"), ("a", "a"), ("", "")])
def test_what_has_nothing_between_is_said(bounds: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="no text lies between"):
        pseudonyms.between(*bounds)


# Rows.


def make(database: Database, institution: Institution, days: DayRange) -> int:
    """All boards and trends of these days; gives how many rows were new or different."""
    list(aggregates.materialize(database, institution, days, RUN))
    return sum(
        result.written
        for type in BoardType
        for asset in (snapshots, trends)
        for result in asset.materialize(database, institution, type, days, RUN)
    )


def archive(database: Database, institution: Institution, today: date) -> None:
    for granularity in Granularity:
        sweep(database, institution, granularity, today, CLERK)


def rows_of(database: Database, id: str) -> tuple[Any, ...]:
    """Content and hash of every snapshot and trend, and of every copy in the archive."""
    with database.transaction() as connection:
        copies = connection.execute(
            "SELECT type, reference_id, time_granularity, snapshot_date, entries, content_hash"
            " FROM lb.archived_leaderboard_snapshots WHERE institution_id = %s",
            (id,),
        ).fetchall()
    live = {
        key: (row.period_start, row.entries, row.content[5], row.distribution, row.content_hash)
        for key, row in stored.snapshots(database, id).items()
    }
    moved = stored_trends(database, id)
    for trend in moved.values():
        del trend["partition_key"]
    return live, moved, {row[:4]: row[4:] for row in copies}


def _tables(database: Database) -> list[tuple[str, str]]:
    with database.transaction() as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('lb', 'lb_part')"
            " EXCEPT SELECT n.nspname, c.relname FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'p'"
        ).fetchall()
    assert len(tables) > 15
    return [(schema, table) for schema, table in tables]


def named(database: Database, word: str) -> list[str]:
    """The tables of which a row says the word, as text, in JSON or in bytes."""
    select = sql.SQL(
        "SELECT {name} FROM {table} t HAVING"
        " bool_or(position({word} IN t::text) > 0 OR position({bytes} IN t::text) > 0)"
    )
    queries = [
        select.format(
            name=sql.Literal(table),
            table=sql.Identifier(schema, table),
            word=sql.Literal(word),
            bytes=sql.Literal(word.encode().hex()),
        )
        for schema, table in _tables(database)
    ]
    with database.transaction() as connection:
        rows = connection.execute(sql.SQL(" UNION ALL ").join(queries)).fetchall()
    return sorted(name for (name,) in rows)


def everything(database: Database) -> list[Any]:
    """Every row of every table, to see that nothing has changed."""
    queries = [
        sql.SQL("SELECT {}, t::text FROM {} t").format(
            sql.Literal(table), sql.Identifier(schema, table)
        )
        for schema, table in _tables(database)
    ]
    with database.transaction() as connection:
        return sorted(connection.execute(sql.SQL(" UNION ALL ").join(queries)).fetchall())


def loaded(
    database: Database, school: School, **settings: Any
) -> tuple[School, Institution, DayRange]:
    """The school under an id of its own, with ids of events that say whose they are."""
    events = tuple(event._replace(id=f"{event.id}-of-{event.student}") for event in school.events)
    school = renamed(school, next(_ids), events=events)
    school = replace(school, metadata=school.metadata | settings, remembered={})
    institution = worlds.load(database, school)
    first, last = worlds.span_of(school)
    return school, institution, DayRange(first, last)


@given(worlds.schools(spans=(3, 12), events=(1, 10, 60)), st.data())
@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_erasing_rows_gives_what_materializing_them_again_gives(
    database: Database, school: School, data: st.DataObject
) -> None:
    """erase(materialize(world)) == materialize(erase(world)), hash included, twice over."""
    victims = data.draw(
        st.lists(st.sampled_from(school.students), min_size=1, max_size=2, unique=True)
    )
    token = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pseudonyms.secrets, "token_hex", lambda bytes: f"{next(token):016x}")
        school, before, days = loaded(database, school)
        make(database, before, days)
        today = days.first + timedelta(days=data.draw(st.sampled_from((0, 40, 100, 1200))))
        archive(database, before, today)
        was = rows_of(database, before.id)
        for victim in victims:
            erase(database, before, victim, reason=WHY, today=today, actor=CLERK)

        token = itertools.count()
        _, after, _ = loaded(database, school)
        for victim in victims:
            erase(database, after, victim, reason=WHY, today=today, actor=CLERK)
        make(database, after, days)
    live, moved, copies = rows_of(database, before.id)
    live_after, moved_after, _ = rows_of(database, after.id)
    assert live == live_after
    assert moved == moved_after
    for key, copy in copies.items():
        assert copy == (live[key][1], live[key][4])

    # Everybody else is where they were, and so is the erased student, under another name.
    back = {f"erased-{number:016x}": victim for number, victim in enumerate(victims)}
    assert {key: (row[:-1]) for key, row in was[0].items()} == {
        key: _renamed(row[:-1], back) for key, row in live.items()
    }
    assert was[1].keys() == moved.keys()
    for key, old in was[1].items():
        new = _renamed(moved[key], back)
        assert {**old, "content_hash": 0} == {**new, "content_hash": 0}
    # And there is nothing that a later run would change.
    assert make(database, before, days) == 0


def _renamed(value: Any, names: dict[str, str]) -> Any:
    for pseudonym, id in names.items():
        value = pseudonyms.replaced(
            list(value) if isinstance(value, tuple) else value, pseudonym, id
        )
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Erasable:
    """A school with live, archived, exported and set-aside boards that name `victim`."""

    school: School
    institution: Institution
    days: DayRange
    today: date
    export: Path
    victim: str


def erasable(database: Database, root: Path, *, events: int = 90) -> Erasable:
    made = worlds.make_school(7, moment=worlds.MOMENTS[0], span=14, events=events, students=8)
    school, institution, days = loaded(
        database,
        with_victim(made),
        leaderboardRetention={"daily": 3, "weekly": 5, "monthly": 7},
        leaderboardPurge={"graceDays": 5},
        leaderboardRanking="ordinal",
    )
    make(database, institution, days)
    today = days.last + ONE_DAY
    archive(database, institution, today)
    exporting.export_archive(database, institution, ArchiveSelection(), root / "export", CLERK)
    assert len(named(database, VICTIM)) > 5
    return Erasable(school, institution, days, today, root / "export", VICTIM)


VICTIM = "m-é4"
"""In the middle of the others' ids, and nothing that bytes say by chance."""


def with_victim(school: School) -> School:
    def name(id: str) -> str:
        return VICTIM if id == "S3" else id

    return replace(
        school,
        students=tuple(map(name, school.students)),
        enrollments=tuple(e._replace(student=name(e.student)) for e in school.enrollments),
        events=tuple(e._replace(student=name(e.student)) for e in school.events),
    )


def in_files(root: Path, word: str) -> list[str]:
    """Parquet and other files below a directory that say the word."""
    found = []
    for path in root.rglob("*"):
        if path.suffix == ".parquet":
            text = str(pq.read_table(path).to_pylist())
        else:
            text = path.read_text() if path.is_file() else ""
        if word in text:
            found.append(path.name)
    return found


def erase_it(database: Database, world: Erasable, **how: Any) -> Erased:
    return erase(
        database, world.institution, world.victim, reason=WHY, today=world.today, actor=CLERK, **how
    )


def test_nothing_names_an_erased_student(database: Database, tmp_path: Path) -> None:
    world = erasable(database, tmp_path)
    before = stored.snapshots(database, world.institution.id)
    plan = plan_erasure(database, world.institution, world.victim, world.today)
    done = erase_it(database, world)
    assert done.counts == plan.counts
    assert min(done.counts[of] for of in ("events", "snapshots", "archived", "trends")) > 5
    assert (done.files.rewritten, done.files.left, len(plan.exports)) == (1, (), 1)
    assert named(database, world.victim) == []
    assert in_files(tmp_path, world.victim) == []
    verified = exporting.verify_export(world.export)
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT s.id, s.name, e.counts::text, e.requested_by, e.reason, e.run_id,"
            " x.manifest_sha256, (SELECT count(*) FROM lb.erasure_tasks)"
            " FROM lb.erasures e, lb.exports x, lb.students s WHERE s.student_key = %s",
            (plan.student_key,),
        ).fetchall()
    ((pseudonym, name, counts, requested_by, reason, run_id, sha256, tasks),) = rows
    assert (name, requested_by, reason, run_id, tasks) == (None, CLERK.name, WHY, "run-7", 0)
    assert sha256 == verified.manifest_sha256
    assert pseudonym.startswith("erased-")
    assert pseudonym not in counts
    assert "students" in named(database, pseudonym)
    assert not {"erasures", "erasure_tasks", "exports"} & set(named(database, pseudonym))
    # Nothing is left that a re-materialization would write.
    assert make(database, world.institution, world.days) == 0
    after = stored.snapshots(database, world.institution.id)
    assert before.keys() == after.keys()
    touched = [key for key in before if before[key].content_hash != after[key].content_hash]
    assert len(touched) == done.counts["snapshots"]


def test_what_a_purge_has_set_aside_is_erased_and_can_still_be_dropped(
    database: Database, tmp_path: Path
) -> None:
    world = erasable(database, tmp_path)
    later = world.today + timedelta(days=2000)
    archive(database, world.institution, later)
    now = later + timedelta(days=4000)

    def purge(today: date) -> set[str]:
        return {
            one.state
            for one in purging.purge(database, world.institution, today, CLERK, tmp_path / "purges")
        }

    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.archived_leaderboard_snapshots SET archived_at = %s", (later,)
        )
    assert purge(now) == {"DETACHED"}
    assert in_files(tmp_path / "purges", world.victim)
    done = erase_it(database, world)
    assert done.counts["purged"] > 5
    assert "snapshots" not in done.counts
    assert done.files.rewritten > 1
    assert named(database, world.victim) == []
    assert in_files(tmp_path, world.victim) == []
    assert purge(now + timedelta(days=100)) == {"DROPPED"}


def test_a_legal_hold_stands_in_the_way_and_nothing_changes(
    database: Database, tmp_path: Path
) -> None:
    world = erasable(database, tmp_path)
    for bounds, refused in (
        ({}, True),
        ({"type": BoardType.CLASS, "first_month": world.days.last}, True),
        ({"first_month": date(2030, 1, 1)}, False),
    ):
        hold = holding.place(
            database, world.institution, reason="a case", today=world.today, actor=CLERK,
            **bounds,
        )  # fmt: skip
        was = everything(database)
        plan = plan_erasure(database, world.institution, world.victim, world.today)
        assert [held.number for held in plan.holds] == [hold] * refused
        if refused:
            with pytest.raises(UnderLegalHold) as error:
                erase_it(database, world)
            assert world.victim not in str(error.value)
            assert everything(database) == was
            holding.release(database, world.institution, hold, CLERK)
    erase_it(database, world)
    assert named(database, world.victim) == []


def test_what_cannot_be_erased_is_told(database: Database, tmp_path: Path) -> None:
    world = erasable(database, tmp_path)

    def refuse(student: str | int, kind: type[LeaderboardError], match: str, **how: Any) -> None:
        words: dict[str, Any] = {"reason": WHY, "actor": CLERK} | how
        was = everything(database)
        with pytest.raises(kind, match=match):
            erase(database, world.institution, student, today=world.today, **words)
        assert everything(database) == was

    refuse("nobody", UnknownStudent, "no student of id 'nobody'")
    refuse(10**9, UnknownStudent, "no student of key")
    refuse(world.victim, InvalidErasure, "without a reason", reason=" ")
    refuse(world.victim, InvalidErasure, "names the student", reason=f"{world.victim} asked")
    refuse(
        world.victim,
        InvalidErasure,
        "names the student",
        actor=Actor(f"parent of {VICTIM.upper()}"),
    )
    key = plan_erasure(database, world.institution, world.victim, world.today).student_key
    erase(database, world.institution, key, reason=WHY, today=world.today, actor=CLERK)
    refuse(world.victim, InvalidErasure, "erased already")
    refuse(key, InvalidErasure, "erased already")


def test_a_pass_that_read_ids_before_an_erasure_does_not_bring_one_back(
    database: Database, tmp_path: Path
) -> None:
    world = erasable(database, tmp_path)
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.leaderboard_snapshots WHERE status = 'ACTIVE' AND type = 'CLASS'"
        )
        connection.execute("UPDATE lb.materialized_days SET through_revision = 0")
    for asset in (snapshots, trends):
        writing = asset.materialize(
            database, world.institution, BoardType.CLASS, world.days, Provenance("later")
        )
        next(writing)
        if asset is snapshots:
            erase_it(database, world)
        assert len(list(writing)) == len(list(world.days)) - 1
        assert named(database, world.victim) == []


def _killed(url: str, id: str, victim: str, today: date, at: str) -> None:
    database = Database(url)
    with database.transaction() as connection:
        institution = institutions.find(connection, id)

    def step(table: str, rows: int) -> None:
        if table == at:
            os.kill(os.getpid(), signal.SIGKILL)

    if at in ("manifest", "files"):
        files = erasing_files
        move = files.export_files.settle_directory
        calls = itertools.count()

        def settle(directory: Path) -> None:
            move(directory)
            # The first after the new files are made, the second when they are moved in.
            if next(calls) == {"files": 2, "manifest": 3}[at]:
                os.kill(os.getpid(), signal.SIGKILL)

        files.export_files.settle_directory = settle
    erase(database, institution, victim, reason=WHY, today=today, actor=CLERK, on_step=step)


@pytest.mark.parametrize("at", ["entered", "detached"])
def test_an_erasure_reaches_a_leaf_that_a_killed_purge_left_half_out_of_its_tree(
    database: Database, tmp_path: Path, at: str
) -> None:
    world = erasable(database, tmp_path)
    later = world.today + timedelta(days=5_000)
    for granularity in Granularity:
        sweep(database, world.institution, granularity, later, CLERK)

    class Killed(Exception):
        pass

    def step(name: str) -> None:
        if name == at:
            raise Killed

    with pytest.raises(Killed):
        purge(database, world.institution, later, CLERK, tmp_path, on_step=step)
    with database.transaction() as connection:
        (entry,) = under_way(connection, world.institution)
        leaf = snapshot_leaf(world.institution.id, entry.type, entry.month).name
        left = standing(connection, leaf)
    assert entry.state == "DETACHING"
    assert left is (Standing.ALONE if at == "detached" else Standing.ATTACHED)
    erase_it(database, world)
    assert named(database, world.victim) == []
    done = purge(database, world.institution, later, CLERK, tmp_path)
    assert {one.state for one in done} == {"DETACHED"}, done
    assert named(database, world.victim) == []


STEPS = ("events", "snapshots", "archived", "trends", "committed", "files", "manifest")


@pytest.mark.parametrize("at", STEPS)
def test_an_erasure_killed_anywhere_is_whole_or_not_there_and_is_finished(
    database: Database, tmp_path: Path, at: str
) -> None:
    world = erasable(database, tmp_path, events=40)
    was = everything(database)
    url = database.url.render_as_string(hide_password=False)
    process = multiprocessing.get_context("fork").Process(
        target=_killed, args=(url, world.institution.id, world.victim, world.today, at)
    )
    process.start()
    process.join(LIMIT_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    if at in STEPS[:4]:
        assert everything(database) == was
        erase_it(database, world)
    else:
        assert set(named(database, world.victim)) <= {"erasure_tasks"}
        with pytest.raises(InvalidErasure, match="erased already"):
            erase_it(database, world)
    assert named(database, world.victim) == []
    assert in_files(tmp_path, world.victim) == []
    assert not [path for path in tmp_path.iterdir() if path != world.export]
    exporting.verify_export(world.export)


def test_an_export_out_of_reach_is_left_to_be_done(database: Database, tmp_path: Path) -> None:
    world = erasable(database, tmp_path)
    away = world.export.rename(tmp_path / "away")
    done = erase_it(database, world)
    assert [left.reason for left in done.files.left] == ["its directory is gone"]
    assert named(database, world.victim) == ["erasure_tasks"]
    away.rename(world.export)
    (damaged,) = sorted(world.export.glob("*_CLASS.parquet"))[:1]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    left = finish_erasures(database, world.institution).left
    assert [damaged.name in one.reason for one in left] == [True]
    damaged.write_bytes(whole)
    assert finish_erasures(database, None).rewritten == 1
    assert in_files(tmp_path, world.victim) == []
    erase(database, world.institution, "s1", reason=WHY, today=world.today, actor=CLERK)
    exporting.verify_export(world.export)
    for path in [*world.export.iterdir(), world.export]:
        path.unlink() if path.is_file() else path.rmdir()
    erase(
        database, world.institution, "s2", reason=WHY, today=world.today, actor=CLERK,
        forget_missing=True,
    )  # fmt: skip
    # In quotes, as JSON has it: two letters alone stand in hashes by chance.
    assert named(database, '"s2"') == []


# What comes in again.


def counts(database: Database) -> list[Any]:
    with database.transaction() as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM lb.students), (SELECT count(*) FROM lb.enrollments),"
            " (SELECT count(*) FROM lb.student_points), (SELECT sum(amount) FROM lb.student_points)"
        ).fetchall()


def write_source(root: Path) -> Path:
    source = {
        "institutions": "institution_id,name\nuni,Uni\n",
        "subjects": "institution_id,subject_id,name\nuni,maths,Maths\n",
        "terms": "institution_id,term_id,name,starts_on,ends_on\nuni,t,T,2024-01-01,2024-06-30\n",
        "classes": "institution_id,class_id,name,subject_id,term_id\nuni,c,C,maths,t\n",
        "students": "institution_id,student_id,name\nuni,ann,Ann\nuni,bob,Bob\nuni,cid,Cid\n",
        "enrollments": "institution_id,class_id,student_id\nuni,c,ann\nuni,c,bob\nuni,c,cid\n",
        "points": "institution_id,event_id,student_id,amount,occurred_at,class_id\n"
        + "".join(
            f"uni,{student}-{n},{student},{n},2024-02-0{n}T09:00:00Z,c\n"
            for student in ("ann", "bob", "cid")
            for n in range(1, 5)
        ),
    }
    for name, text in source.items():
        (root / f"{name}.csv").write_text(text)
    return root


def test_a_plain_import_leaves_the_erased_out(database: Database, tmp_path: Path) -> None:
    source = write_source(tmp_path)
    plain.import_directory(database, source, today=date(2024, 3, 1))
    with database.transaction() as connection:
        institution = institutions.find(connection, "uni")
    erase(database, institution, "bob", reason=WHY, today=date(2024, 3, 1), actor=CLERK)
    was = everything(database)
    report = plain.import_directory(database, source, today=date(2024, 3, 1))
    assert everything(database) == was
    assert (report.refused_rows, report.changes) == (0, 0)
    assert report.notes == ["6 rows of erased students left out"]
    assert {name: of.left_out for name, of in report.written.items() if of.left_out} == {
        "students": 1, "enrollments": 1, "student_points": 4,
    }  # fmt: skip
    assert report.read["points.csv"].rows == 12
    assert named(database, "bob") == []


def test_a_district_generated_again_leaves_the_erased_out(database: Database) -> None:
    spec = district.District(
        end_day=date(2024, 3, 20), days=6, institutions=1, students=30, classes=4, subjects=2,
        campuses=2, events_per_day=40,
    )  # fmt: skip
    district.generate(database, spec)
    with database.transaction() as connection:
        institution = institutions.find(connection, "inst_101")
    erase(database, institution, "s000003", reason=WHY, today=date(2024, 3, 21), actor=CLERK)
    was = counts(database)
    report = district.generate(database, spec)
    assert counts(database) == was
    assert report.written["student_points"].left_out > 0
    assert "rows of erased students left out" in report.notes[0]
    assert named(database, "s000003") == []


def waiting(database: Database) -> Iterator[int]:
    while True:
        with database.transaction() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone()
        assert row is not None
        yield row[0]


def test_an_import_under_way_keeps_an_erasure_waiting(database: Database, tmp_path: Path) -> None:
    source = write_source(tmp_path)
    plain.import_directory(database, source, today=date(2024, 3, 1))
    with database.transaction() as connection:
        institution = institutions.find(connection, "uni")
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            loading.lock(connection, [institution.key])
            erasure = pool.submit(
                erase, database, institution, "bob", reason=WHY, today=date(2024, 3, 1),
                actor=CLERK,
            )  # fmt: skip
            assert any(waiting(database))
            connection.execute(
                "INSERT INTO lb.student_points (occurred_at, institution_key, student_key,"
                " event_id, amount) SELECT '2024-02-05Z', institution_key, student_key, 'bob-9', 1"
                " FROM lb.students WHERE id = 'bob'"
            )
        assert erasure.result(LIMIT_SECONDS).counts["events"] == 5
    assert named(database, "bob") == []
