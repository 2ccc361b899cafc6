"""The plain format: what comes in, what is refused and why, and what a second import does."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from lb_pipelines.db.engine import Database
from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources import files, loading, plain
from lb_pipelines.sources.report import ImportReport, Written
from lb_pipelines_tests.waiting import LIMIT_SECONDS, wait_until

SCHOOL: Mapping[str, str] = {
    "institutions": """institution_id,name,time_zone,metadata
north,North School,Europe/London,"{""leaderboardRanking"": ""dense""}"
south,South School,Australia/Lord_Howe,
""",
    "campuses": """institution_id,campus_id,name
north,hill,On the Hill
north,lake,At the Lake
south,hill,Another Hill
""",
    "subjects": """institution_id,subject_id,name
north,maths,Mathematics
north,art,
south,maths,
""",
    "terms": """institution_id,term_id,name,starts_on,ends_on
north,t1,Autumn,2023-09-01,2023-12-20
south,t1,Spring,2023-07-10,2023-12-01
""",
    "classes": """institution_id,class_id,name,subject_id,campus_id,term_id
north,m1,Maths 1,maths,hill,t1
north,a1,Art 1,art,,t1
south,m1,,maths,hill,t1
""",
    "students": """institution_id,student_id,name
north,s1,"Ada, the First"
north,s2,Ben
north,NA,
south,s1,Chloe
""",
    "enrollments": """institution_id,class_id,student_id,campus_id,enrolled_on,withdrawn_on
north,m1,s1,,2023-09-01,
north,m1,s2,lake,2023-09-01,2023-11-01
north,a1,s1,,,
south,m1,s1,,,
""",
    "points": "institution_id,event_id,student_id,class_id,subject_id,campus_id,amount,occurred_at,"
    """status
north,e1,s1,m1,,,10,2023-10-01T09:00:00+01:00,
north,e2,s2,m1,,,-5,2023-10-01T10:00:00Z,ACTIVE
north,e3,s1,a1,,,7,2023-10-02 09:30+0100,VOIDED
north,e4,NA,,art,lake,0,2023-10-29T01:30:00.123456+01:00,
south,e1,s1,m1,,,3,2023-10-01T09:00:00+11:00,
""",
}
TODAY = date(2024, 1, 1)

POINTS = """
    SELECT i.id, p.event_id, s.id, c.id, j.id, k.id, p.amount, p.occurred_at::text, p.status
    FROM lb.student_points p
    JOIN lb.institutions i USING (institution_key)
    JOIN lb.students s USING (institution_key, student_key)
    LEFT JOIN lb.classes c USING (institution_key, class_key)
    LEFT JOIN lb.subjects j ON j.institution_key = p.institution_key
        AND j.subject_key = p.subject_key
    LEFT JOIN lb.campuses k ON k.institution_key = p.institution_key AND k.campus_key = p.campus_key
    ORDER BY 1, 2, p.occurred_at
"""
TABLES = (
    "institutions", "campuses", "subjects", "terms", "classes", "students", "enrollments",
    "student_points",
)  # fmt: skip


def write(directory: Path, tables: Mapping[str, str] = SCHOOL, **changed: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in {**tables, **changed}.items():
        (directory / f"{name}.csv").write_text(text)
    return directory


def load(database: Database, directory: Path, **options: Any) -> ImportReport:
    return plain.import_directory(database, directory, today=TODAY, **options)


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return connection.execute(query).fetchall()


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows with all that is in them, and where they lie: equal only if nothing was written."""
    return {
        table: rows(database, f"SELECT ctid, xmin::text, * FROM lb.{table} ORDER BY 3, 4, 5")
        if table != "student_points"
        else rows(database, "SELECT * FROM lb.student_points ORDER BY institution_key, event_id")
        for table in TABLES
    }


def header(name: str) -> str:
    return SCHOOL[name].partition("\n")[0] + "\n"


@pytest.fixture
def school(database: Database, tmp_path: Path) -> Database:
    load(database, write(tmp_path / "school"))
    return database


def test_a_directory_comes_in_whole(database: Database, tmp_path: Path) -> None:
    report = load(database, write(tmp_path))
    assert {name: table.inserted for name, table in report.written.items()} == {
        "institutions": 2,
        "campuses": 3,
        "subjects": 3,
        "terms": 2,
        "classes": 3,
        "students": 4,
        "enrollments": 4,
        "student_points": 5,
    }
    assert report.refused_rows == 0
    assert rows(database, POINTS) == [
        ("north", "e1", "s1", "m1", "maths", "hill", 10, "2023-10-01 08:00:00+00", "ACTIVE"),
        ("north", "e2", "s2", "m1", "maths", "lake", -5, "2023-10-01 10:00:00+00", "ACTIVE"),
        ("north", "e3", "s1", "a1", "art", None, 7, "2023-10-02 08:30:00+00", "VOIDED"),
        ("north", "e4", "NA", None, "art", "lake", 0, "2023-10-29 00:30:00.123456+00", "ACTIVE"),
        ("south", "e1", "s1", "m1", "maths", "hill", 3, "2023-09-30 22:00:00+00", "ACTIVE"),
    ]
    assert rows(database, "SELECT id, name FROM lb.subjects ORDER BY subject_key") == [
        ("art", "art"),
        ("maths", "Mathematics"),
        ("maths", "maths"),
    ]
    assert rows(database, "SELECT id, metadata FROM lb.institutions ORDER BY id") == [
        ("north", {"leaderboardRanking": "dense"}),
        ("south", {}),
    ]


def test_a_second_import_writes_nothing(school: Database, tmp_path: Path) -> None:
    before = everything(school)
    report = load(school, tmp_path / "school")
    assert report.changes == 0
    assert {name: table.unchanged for name, table in report.written.items()}["student_points"] == 5
    assert everything(school) == before


def test_parquet_and_csv_say_the_same(school: Database, tmp_path: Path) -> None:
    other = tmp_path / "parquet"
    other.mkdir()
    kinds = {
        "amount": pa.float64(),
        "starts_on": pa.date32(),
        "enrolled_on": pa.date32(),
        "occurred_at": pa.timestamp("us", "Europe/London"),
    }
    for name in SCHOOL:
        table = files.read_text(
            tmp_path / "school" / f"{name}.csv", (), header(name)[:-1].split(",")
        )
        columns = {
            column: table.table[column].cast(kinds.get(column, pa.large_string()))
            for column in table.table.column_names
        }
        parquet.write_table(pa.table(columns), other / f"{name}.parquet")
    before = everything(school)
    assert load(school, other).changes == 0
    assert everything(school) == before


def test_changed_voided_and_moved_events(school: Database, tmp_path: Path) -> None:
    before = dict(
        rows(school, "SELECT event_id, updated_at FROM lb.student_points WHERE amount > 3")
    )
    text = (
        SCHOOL["points"]
        .replace(",10,2023", ",11,2023")
        .replace("10:00:00Z,ACTIVE", "10:00:00Z,VOIDED")
        .replace("2023-10-29T01", "2024-03-29T01")
        + "north,e9,s2,,,,1,2023-12-31T23:59:59Z,\n"
    )
    report = load(school, write(tmp_path / "late", {"points": text}))
    assert report.written["student_points"] == Written(inserted=2, changed=2, unchanged=2, moved=1)
    assert [row[1:2] + row[6:] for row in rows(school, POINTS) if row[0] == "north"] == [
        ("e1", 11, "2023-10-01 08:00:00+00", "ACTIVE"),
        ("e2", -5, "2023-10-01 10:00:00+00", "VOIDED"),
        ("e3", 7, "2023-10-02 08:30:00+00", "VOIDED"),
        ("e4", 0, "2024-03-29 00:30:00.123456+00", "ACTIVE"),
        ("e9", 1, "2023-12-31 23:59:59+00", "ACTIVE"),
    ]
    after = dict(
        rows(school, "SELECT event_id, updated_at FROM lb.student_points WHERE amount > 3")
    )
    assert after["e1"] > before["e1"]
    assert after["e3"] == before["e3"]


def test_events_are_merged_in_parts(
    school: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BATCH_ROWS", 2)
    monkeypatch.setattr(loading, "MERGE_ROWS", 4)
    new = "".join(f"north,n{n},s1,,,,1,2023-10-05T0{n}:00:00Z,\n" for n in range(8))
    report = load(school, write(tmp_path / "more", {"points": SCHOOL["points"] + new}))
    assert report.written["student_points"] == Written(inserted=8, unchanged=5)


def test_a_student_who_moves_keeps_the_past(school: Database, tmp_path: Path) -> None:
    moved = {
        "classes": header("classes") + "north,m1,Maths 1,art,lake,t1\n",
        "enrollments": header("enrollments") + "north,m1,s2,hill,2023-09-01,\n",
        "points": SCHOOL["points"] + "north,e5,s2,m1,,,4,2023-11-01T10:00:00Z,\n",
    }
    report = load(school, write(tmp_path / "moved", moved))
    assert report.written["student_points"] == Written(inserted=1, unchanged=5)
    of_s2 = [row[1:6] for row in rows(school, POINTS) if row[2] == "s2"]
    assert of_s2 == [("e2", "s2", "m1", "maths", "lake"), ("e5", "s2", "m1", "art", "hill")]


def test_an_institution_keeps_what_a_file_does_not_say(school: Database, tmp_path: Path) -> None:
    with school.transaction() as connection:
        connection.execute("UPDATE lb.institutions SET status = 'INACTIVE' WHERE id = 'north'")
    load(school, write(tmp_path / "ids", {"institutions": "institution_id\nnorth\n"}))
    assert rows(school, "SELECT name, status, time_zone FROM lb.institutions ORDER BY id")[0] == (
        "North School",
        "INACTIVE",
        "Europe/London",
    )


BAD_ROWS = [
    ("institutions", "no spaces,,,", "institution_id", "1 to 40 characters"),
    ("institutions", "shared,,,", "institution_id", "other than 'shared'"),
    ("institutions", "north,,,", "institution_id", "the same as on line 2"),
    ("institutions", "east,,Mars/Base,", "time_zone", "no IANA time zone"),
    ("institutions", "east,,,{", "metadata", "no JSON"),
    ("institutions", 'east,,,"[1]"', "metadata", "no JSON object"),
    ("institutions", 'east,,,"{""leaderboardRanking"": 1}"', "metadata", "leaderboardRanking"),
    ("campuses", "nowhere,c,", "institution_id", "unknown institution"),
    ("campuses", ",c,", "institution_id", "missing"),
    ("campuses", "north,,", "campus_id", "missing"),
    ("campuses", "north,\x07,", "campus_id", "printable"),
    ("campuses", f"north,{'x' * 201},", "campus_id", "printable"),
    ("subjects", "north,maths,", "subject_id", "the same as on line 2"),
    ("terms", "north,t2,,2023-09-01,2023-08-31", "ends_on", "ends before it starts"),
    ("terms", "north,t2,,2023-09-31,2023-12-01", "starts_on", "no date"),
    ("terms", "north,t2,,01.09.2023,2023-12-01", "starts_on", "no date"),
    ("terms", "north,t2,,1999-12-31,2023-12-01", "starts_on", "outside 2000-01-01"),
    ("terms", "north,t2,,2023-09-01,2044-01-02", "ends_on", "outside 2000-01-01 to 2044-01-01"),
    ("terms", "north,t2,,,2023-12-01", "starts_on", "missing"),
    ("classes", "north,c,,maths,,", "term_id", "missing term"),
    ("classes", "north,c,,maths,,t9", "term_id", "unknown term"),
    ("classes", "north,c,,,,t1", "subject_id", "missing"),
    ("classes", "south,c,,art,,t1", "subject_id", "unknown subject"),
    ("classes", "north,c,,maths,moon,t1", "campus_id", "unknown campus"),
    ("students", "north,s1,", "student_id", "the same as on line 2"),
    ("enrollments", "north,m9,s1,,,", "class_id", "unknown class"),
    ("enrollments", "south,m1,s2,,,", "student_id", "unknown student"),
    ("enrollments", "north,m1,s1,,,", "student_id", "the same as on line 2"),
    ("enrollments", "north,m1,NA,,2023-02-29,", "enrolled_on", "no date"),
    ("enrollments", "north,m1,NA,,2044-01-02,", "enrolled_on", "outside 2000-01-01 to 2044-01-01"),
    ("enrollments", "north,m1,NA,,2023-09-02,2023-09-01", "withdrawn_on", "before enrolled"),
    ("points", "north,e9,s9,,,,1,2023-10-01T09:00:00Z,", "student_id", "unknown student"),
    ("points", "south,e9,s2,,,,1,2023-10-01T09:00:00Z,", "student_id", "unknown student"),
    ("points", "north,e9,s1,c9,,,1,2023-10-01T09:00:00Z,", "class_id", "unknown class"),
    ("points", "north,e9,s1,,x,,1,2023-10-01T09:00:00Z,", "subject_id", "unknown subject"),
    ("points", "north,e9,s1,,,x,1,2023-10-01T09:00:00Z,", "campus_id", "unknown campus"),
    ("points", "nowhere,e9,s1,,,,1,2023-10-01T09:00:00Z,", "institution_id", "unknown institution"),
    ("points", "north,,s1,,,,1,2023-10-01T09:00:00Z,", "event_id", "missing"),
    ("points", "north,e1,s1,,,,1,2023-10-01T09:00:00Z,", "event_id", "the same as on line 2"),
    ("points", "north,e9,s1,,,,1.5,2023-10-01T09:00:00Z,", "amount", "no whole number"),
    ("points", "north,e9,s1,,,,0x10,2023-10-01T09:00:00Z,", "amount", "no whole number"),
    ("points", "north,e9,s1,,,,,2023-10-01T09:00:00Z,", "amount", "missing"),
    ("points", "north,e9,s1,,,,2147483648,2023-10-01T09:00:00Z,", "amount", "outside -2147483647"),
    ("points", f"north,e9,s1,,,,{10**30},2023-10-01T09:00:00Z,", "amount", "no whole number"),
    ("points", "north,e9,s1,,,,1,2023-10-01T09:00:00,", "occurred_at", "zone offset"),
    ("points", "north,e9,s1,,,,1,2023-10-01,", "occurred_at", "zone offset"),
    ("points", "north,e9,s1,,,,1,2023-10-01T25:00:00Z,", "occurred_at", "zone offset"),
    ("points", "north,e9,s1,,,,1,,", "occurred_at", "missing"),
    ("points", "north,e9,s1,,,,1,1970-01-01T00:00:00Z,", "occurred_at", "outside 2000-01-01"),
    ("points", "north,e9,s1,,,,1,2025-01-02T00:00:00Z,", "occurred_at", "outside 2000-01-01"),
    ("points", "north,e9,s1,,,,1,2023-10-01T09:00:00Z,DONE", "status", "not one of ACTIVE, VOIDED"),
    ("points", "north,e9,s1,,1,2023-10-01T09:00:00Z,", "", "another number of fields"),
]


@pytest.mark.parametrize("file", SCHOOL)
def test_a_bad_row_is_named_and_nothing_is_written(
    database: Database, tmp_path: Path, file: str
) -> None:
    last = SCHOOL[file].count("\n") + 1
    for _, line, column, reason in (bad for bad in BAD_ROWS if bad[0] == file):
        write(tmp_path, {**SCHOOL, file: SCHOOL[file] + line + "\n"})
        with pytest.raises(ImportRefused, match=r"1 of \d+ rows") as refused:
            load(database, tmp_path)
        assert isinstance(refused.value.report, ImportReport)
        (refusal,) = refused.value.report.first_refusals()
        assert (refusal["file"], refusal["line"]) == (f"{file}.csv", last)
        assert (refusal["column"], reason in refusal["reason"]) == (column, True), refusal
        assert all(not found for found in everything(database).values())


def test_refused_rows_can_be_left_out(database: Database, tmp_path: Path) -> None:
    write(
        tmp_path,
        students=SCHOOL["students"].replace("north,s2", "nowhere,s2"),
        points=SCHOOL["points"].replace(",3,2023", ",3.5,2023"),
    )
    report = load(database, tmp_path, skip_refused=True)
    assert {name: read.refused for name, read in report.read.items() if read.refused} == {
        "students.csv": 1,
        "enrollments.csv": 1,
        "points.csv": 2,
    }
    assert [row[:2] for row in rows(database, POINTS)] == [
        ("north", "e1"),
        ("north", "e3"),
        ("north", "e4"),
    ]
    out = tmp_path / "report" / "refused.csv"
    out.parent.mkdir()
    report.write_refusals(out)
    told = [tuple(row.values()) for row in csv.read_csv(out).to_pylist()]
    assert told == [
        ("students.csv", 3, "institution_id", "nowhere", "unknown institution"),
        ("enrollments.csv", 3, "student_id", "s2", "unknown student"),
        ("points.csv", 3, "student_id", "s2", "unknown student"),
        ("points.csv", 6, "amount", "3.5", "no whole number"),
    ]


def test_points_of_an_inactive_institution_are_refused(school: Database, tmp_path: Path) -> None:
    with school.transaction() as connection:
        connection.execute("UPDATE lb.institutions SET status = 'INACTIVE' WHERE id = 'north'")
    with pytest.raises(ImportRefused) as refused:
        load(school, write(tmp_path / "more", {"points": SCHOOL["points"]}))
    assert isinstance(refused.value.report, ImportReport)
    reasons = {refusal["reason"] for refusal in refused.value.report.first_refusals()}
    assert reasons == {"the institution is not ACTIVE"}
    assert refused.value.report.refused_rows == 4


def test_lines_are_counted_as_an_editor_shows_them(database: Database, tmp_path: Path) -> None:
    text = (
        header("students")
        + '\nnorth,s1,"two\nlines"\n\nnorth,s2\nnowhere,s3,\n"north","s4","a\n\nb",more\nnorth,,x\n'
    )
    write(tmp_path, students=text, enrollments=header("enrollments"), points=header("points"))
    with pytest.raises(ImportRefused) as refused:
        load(database, tmp_path)
    assert isinstance(refused.value.report, ImportReport)
    found = [(r["line"], r["column"]) for r in refused.value.report.first_refusals()]
    assert sorted(found) == [(6, ""), (7, "institution_id"), (8, ""), (11, "student_id")]
    assert refused.value.report.read["students.csv"].rows == 5


@pytest.mark.parametrize(
    ("change", "thing"),
    [
        ({"students.csv": "institution_id,name\nnorth,x\n"}, "has no column student_id"),
        ({"students.csv": "institution_id,student_id,nmae\n"}, "column 'nmae'"),
        ({"students.csv": ""}, "has no column institution_id, student_id"),
        ({"students.csv": "institution_id;student_id\n"}, "it has institution_id;student_id"),
        ({"students.csv": 'institution_id,student_id\nnorth,"open\n'}, "cannot be read: line 2"),
        ({"students.csv": b"institution_id,student_\xefd\n"}, r"institution_id, student_\xefd"),
        ({"students.parquet": "no parquet"}, "both students.csv and students.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    database: Database, tmp_path: Path, change: dict[str, str | bytes], thing: str
) -> None:
    write(tmp_path)
    for name, content in change.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ImportRefused, match="students") as refused:
        load(database, tmp_path)
    assert thing in refused.value.thing
    assert all(not found for found in everything(database).values())


def test_a_directory_without_files_is_refused(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"holds none of institutions\.csv"):
        load(database, tmp_path)
    with pytest.raises(ImportRefused, match="is no directory"):
        load(database, tmp_path / "absent")


def test_a_file_of_another_name_is_mentioned(school: Database, tmp_path: Path) -> None:
    write(tmp_path / "school", {"point": header("points")})
    assert any("point.csv" in note for note in load(school, tmp_path / "school").notes)


def test_empty_files_are_fine(database: Database, tmp_path: Path) -> None:
    assert load(database, write(tmp_path, {name: header(name) for name in SCHOOL})).changes == 0


_IMPORT_AND_STOP = """
import signal, sys
from datetime import date
from pathlib import Path
from lb_pipelines.db.engine import Database
from lb_pipelines.sources import loading, plain

loading.BATCH_ROWS = 2

def stop(stage, done, total):
    if stage == "events" and done >= 4:
        print("under way", flush=True)
        signal.pause()

plain.import_directory(
    Database(sys.argv[1]), Path(sys.argv[2]), today=date(2024, 1, 1), progress=stop
)
"""


@pytest.mark.parametrize("first", [True, False], ids=["first import", "second import"])
def test_an_import_that_is_killed_leaves_no_trace(
    database: Database, tmp_path: Path, first: bool
) -> None:
    directory = write(tmp_path / "all")
    if not first:
        load(database, write(tmp_path / "some", points=SCHOOL["points"].replace(",10,", ",9,")))
    before = everything(database)
    url = database.url.render_as_string(hide_password=False)
    importer = subprocess.Popen(
        [sys.executable, "-c", _IMPORT_AND_STOP, url, str(directory)], stdout=subprocess.PIPE
    )
    try:
        assert importer.stdout is not None
        assert importer.stdout.readline() == b"under way\n"
    finally:
        importer.kill()
        importer.communicate()
    assert everything(database) == before
    load(database, directory)
    expected = sorted(SCHOOL["points"].splitlines()[1:])
    assert [f"{row[0]},{row[1]}" for row in rows(database, POINTS)] == [
        ",".join(line.split(",")[:2]) for line in expected
    ]
    assert rows(database, POINTS)[0][6] == 10
    assert load(database, directory).changes == 0


@pytest.mark.parametrize("known", [False, True], ids=["new school", "known school"])
def test_two_imports_at_once_wait_for_each_other(
    database: Database, tmp_path: Path, known: bool
) -> None:
    if known:
        load(database, write(tmp_path / "known", points=header("points")))
    directory = write(tmp_path / "all")
    reports: list[ImportReport] = []
    second = threading.Thread(
        target=lambda: reports.append(load(Database(database.url), directory)), daemon=True
    )

    def meet(stage: str, done: int, total: int | None) -> None:
        if stage == "events" and not second.ident:
            second.start()
            wait_until(lambda: _waiting(database))

    reports.append(load(database, directory, progress=meet))
    second.join(LIMIT_SECONDS)
    assert sorted(report.changes for report in reports) == [0, 5 if known else 26]
    assert len(rows(database, POINTS)) == 5


def _waiting(database: Database) -> list[tuple[Any, ...]]:
    query = (
        "SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE NOT granted AND datname = current_database()"
        " UNION SELECT pid FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    )
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def test_merging_leaves_the_plans_as_they_were(database: Database) -> None:
    with database.transaction() as connection:
        loading.merge_institution(connection, "north", "North", "UTC")
        shown = connection.execute("SHOW plan_cache_mode").fetchone()
    assert shown == ("force_custom_plan",)
