"""Bad values in files: each is a refused row that can be stepped over, none an error of SQL."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lb_pipelines.core.ids import describe_invalid_id
from lb_pipelines.core.institution import Institution
from lb_pipelines.db.engine import Database
from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources import plain
from lb_pipelines.sources.early_events import describe_early_events
from lb_pipelines.sources.report import ImportReport
from lb_pipelines_tests.test_sources_plain import SCHOOL, header, load, rows, write

Refusal = tuple[str, int, str, str | None, str]


def refused(database: Database, directory: Path) -> list[Refusal]:
    """What is refused of a directory, as the CSV of refusals says it."""
    with pytest.raises(ImportRefused) as raised:
        load(database, directory)
    assert isinstance(raised.value.report, ImportReport)
    return refusals_of(raised.value.report, directory)


def refusals_of(report: ImportReport, directory: Path) -> list[Refusal]:
    path = directory / "report" / "refused.csv"
    path.parent.mkdir(exist_ok=True)
    report.write_refusals(path)
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file, strict=True))[1:]
    return [(file, int(line), column, value, reason) for file, line, column, value, reason in read]


@pytest.fixture
def school(database: Database, tmp_path: Path) -> Database:
    load(database, write(tmp_path / "school"))
    return database


def metadata_rows(*texts: str) -> str:
    quoted = ('"' + text.replace('"', '""') + '"' for text in texts)
    return "institution_id,time_zone,metadata\n" + "".join(
        f"x{number},UTC,{text}\n" for number, text in enumerate(quoted, 1)
    )


BAD_METADATA = [
    ('{"a": NaN}', "holds NaN"),
    ('{"a": Infinity}', "holds Infinity"),
    (r'{"a": "\u0000"}', "PostgreSQL cannot store"),
    (r'{"a": "\ud800"}', "PostgreSQL cannot store"),
    ('{"a": ' + "[" * 2000 + "]" * 2000 + "}", "more than 100 objects"),
    ("[" * 100_000, "more than 100 objects"),
    ('{"a": 1e999}', "the number 1e999"),
    ('{"a": 1, "a": 2}', "'a' twice"),
    ('{"leaderboardRetention": {"daily": "30"}}', "metadata.leaderboardRetention.daily is '30'"),
    ('{"leaderboardRetention": {"DAILY": 30}}', "metadata.leaderboardRetention.DAILY"),
    ('{"leaderboardPurge": true}', "metadata.leaderboardPurge is True"),
    ('{"leaderboardretention": {"daily": 45}}', "Write 'leaderboardRetention'"),
    ('{"leaderboardColor": 1}', "metadata.leaderboardColor is no setting"),
    ('{"leaderboardRanking": "x"}', "metadata.leaderboardRanking is 'x'"),
    ('{"leaderboardLimits": {"class": {}}}', "metadata.leaderboardLimits.class"),
]


def test_bad_metadata_is_refused_by_line_with_the_whole_value(
    database: Database, tmp_path: Path
) -> None:
    good = '{"a": [1, 2.5, "ü"], "LEADER": NULL}'.replace("NULL", "null")
    text = metadata_rows(good, *(text for text, _ in BAD_METADATA), good)
    write(tmp_path, {"institutions": text})
    found = refused(database, tmp_path)
    assert [row[:4] for row in found] == [
        ("institutions.csv", line, "metadata", text)
        for line, (text, _) in enumerate(BAD_METADATA, 3)
    ]
    for row, (_, reason) in zip(found, BAD_METADATA, strict=True):
        assert reason in row[4]
        assert "''" not in row[4]
    assert not rows(database, "SELECT 1 FROM lb.institutions")
    report = load(database, tmp_path, skip_refused=True)
    assert report.refused_rows == len(BAD_METADATA)
    last = len(BAD_METADATA) + 2
    assert rows(database, "SELECT id, metadata FROM lb.institutions ORDER BY institution_key") == [
        ("x1", json.loads(good)),
        (f"x{last}", json.loads(good)),
    ]


@pytest.mark.parametrize(
    "zone",
    [
        "localtime", "posixrules", "posix/Europe/London", "right/Europe/London", "Factory",
        "europe/london", "Europe/London ", "\ufeffUTC", "Europe/Lond\0n", "CEST", "+01:00",
    ],
)  # fmt: skip
def test_a_zone_that_only_a_system_knows_is_refused(
    database: Database, tmp_path: Path, zone: str
) -> None:
    text = f"institution_id,time_zone\na,Europe/London\nz,{zone}\nb,Asia/Calcutta\n"
    write(tmp_path, {"institutions": text})
    ((*where, reason),) = refused(database, tmp_path)
    assert where == ["institutions.csv", 3, "time_zone", zone]
    assert "is no IANA time zone" in reason
    load(database, tmp_path, skip_refused=True)
    assert [id for (id,) in rows(database, "SELECT id FROM lb.institutions ORDER BY id")] == [
        "a",
        "b",
    ]


LOOK_ALIKE = [
    "s\u200b9", "s9\u202e", " s9", "s9 ", "s9\u00a0", "\ufeffs9", "\u3164", "e\u0301", "a\0"
]  # fmt: skip


@pytest.mark.parametrize("file", [name for name in SCHOOL if name != "enrollments"])
def test_ids_that_only_look_alike_are_refused(school: Database, tmp_path: Path, file: str) -> None:
    column, row = {
        "institutions": ("institution_id", "{},x,,"),
        "campuses": ("campus_id", "north,{},"),
        "subjects": ("subject_id", "north,{},"),
        "terms": ("term_id", "north,{},,2023-09-01,2023-12-20"),
        "classes": ("class_id", "north,{},,maths,,t1"),
        "students": ("student_id", "north,{},"),
        "points": ("event_id", "north,{},s1,m1,,,10,2023-10-01T09:00:00+01:00,"),
    }[file]
    text = header(file) + "".join(row.format(id) + "\n" for id in LOOK_ALIKE)
    found = refused(school, write(tmp_path / "more", {file: text}))
    assert [row[:4] for row in found] == [
        (f"{file}.csv", line, column, id) for line, id in enumerate(LOOK_ALIKE, 2)
    ]
    for refusal in found:
        assert refusal[4].startswith(("holds U+", "holds letters", "begins or ends", "Use 1 to 40"))


def test_a_reference_that_can_be_no_id_says_why(school: Database, tmp_path: Path) -> None:
    text = header("enrollments") + "north,m1,s1\u200b,,,\nnorth,m1,s7,,,\n"
    found = refused(school, write(tmp_path / "more", {"enrollments": text}))
    assert found[0][4].startswith("unknown student: the id holds U+200B")
    assert found[1][4] == "unknown student"


def test_values_that_are_not_utf8_are_refused_rows(database: Database, tmp_path: Path) -> None:
    write(tmp_path)
    students = SCHOOL["students"].encode() + b"north,s4,Ren\xe9e\nnorth,s\xff,\xed\xa0\x80\nnorth"
    (tmp_path / "students.csv").write_bytes(students + b",s5,Zo\xc3\xab\n\xfe,s6\n")
    found = refused(database, tmp_path)
    reason = "not UTF-8: save the file in that encoding"
    assert found == [
        ("students.csv", 6, "name", r"Ren\xe9e", reason),
        ("students.csv", 7, "student_id", r"s\xff", reason),
        ("students.csv", 7, "name", r"\xed\xa0\x80", reason),
        ("students.csv", 9, "", r"\xfe,s6", "another number of fields (2) than the header's 3"),
    ]
    report = load(database, tmp_path, skip_refused=True)
    read = report.read["students.csv"]
    assert (read.rows, read.refused) == (8, 3)
    assert rows(database, "SELECT name FROM lb.students WHERE id = 's5'") == [("Zoë",)]


def test_the_same_in_parquet(database: Database, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "students.csv").unlink()
    names = pa.array([b"Zo\xc3\xab", b"Ren\xe9e", None, b""]).view(pa.string())
    columns = {
        "institution_id": pa.array(["north"] * 4).dictionary_encode(),
        "student_id": pa.array(["s1", "s4", "s2", "NA"], pa.large_string()),
        "name": names,
    }
    parquet.write_table(pa.table(columns), tmp_path / "students.parquet")
    report = load(database, tmp_path, skip_refused=True)
    assert refusals_of(report, tmp_path)[0] == (
        "students.parquet",
        2,
        "name",
        r"Ren\xe9e",
        "not UTF-8: save the file in that encoding",
    )
    assert rows(database, "SELECT id, name FROM lb.students ORDER BY id") == [
        ("NA", None),
        ("s1", "Zoë"),
        ("s2", None),
    ]


def test_refusals_come_in_the_order_of_their_lines(database: Database, tmp_path: Path) -> None:
    write(
        tmp_path,
        students=header("students") + "nowhere,a,\nnorth\nnorth,,\nnorth,s1\0,\nnowhere,,\nnorth\n",
        points=header("points")
        + "north,e1,s1,,,,x,2023-10-01T09:00:00Z,DONE\nnorth,e1\nnorth,,s1,,,,1,,\n",
        terms=header("terms") + "north,t1,,2023-09-01,x\nnorth,t1,,x,2023-12-20\nno,t1,,,\n",
    )
    found = refused(database, tmp_path)
    order = [f"{name}.csv" for name in SCHOOL]
    places = [(order.index(row[0]), row[1]) for row in found]
    assert places == sorted(places)
    of_students = [row[1:3] for row in found if row[0] == "students.csv"]
    assert of_students == [
        (2, "institution_id"),
        (3, ""),
        (4, "student_id"),
        (5, "student_id"),
        (6, "institution_id"),
        (6, "student_id"),
        (7, ""),
    ]


@pytest.mark.parametrize("length", [61, 100_000])
def test_a_long_value_is_written_whole(database: Database, tmp_path: Path, length: int) -> None:
    value = 'x"\n' + "y" * length
    quoted = value.replace('"', '""')
    text = header("students") + f'north,"{quoted}",\n'
    write(tmp_path, students=text, points=header("points"), enrollments=header("enrollments"))
    assert refused(database, tmp_path)[0][3] == value


FRAGMENTS = [
    b"\0", b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xef\xbf\xbf", b"\x1f",
    b"\xef\xbb\xbf", "\u200d".encode(), "\ufdd0".encode(), "\U000e0041".encode(), b"\\", b"\\N",
    b"\\000", b'""', b",", b"\n", b"\r\n", b"NULL", b"NaN", b"e\xcc\x81", "🎓".encode(), b" ", b"a",
    "\u00a0".encode(), "\uffff".encode(), b"\x80", b"b", b"\x7f", b"\xc2\x85",
]  # fmt: skip
raw_values = st.lists(st.sampled_from(FRAGMENTS), max_size=3).map(b"".join)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(st.lists(st.tuples(raw_values, raw_values), min_size=1, max_size=12))
@example([(b"a\0", b"b"), (b"b", b"b\0"), (b"a", b"\xed\xa0\x80")])
def test_every_row_is_refused_by_the_import_or_stored_as_it_is(
    database: Database, tmp_path: Path, given_rows: list[tuple[bytes, bytes]]
) -> None:
    lines = b"".join(b'i,"%s","%s"\n' % row for row in given_rows)
    tmp_path = write(tmp_path, {"institutions": "institution_id\ni\n"})
    (tmp_path / "students.csv").write_bytes(b"institution_id,student_id,name\n" + lines)
    expected: dict[str, str | None] = {}
    seen = {""}
    for pair in given_rows:
        try:
            id, name = (value.replace(b'""', b'"').decode() for value in pair)
        except UnicodeDecodeError:
            continue
        # The first of an id counts, also where it is refused for its name.
        if id not in seen and describe_invalid_id(id) is None and "\0" not in name:
            expected[id] = name or None
        seen.add(id)
    with database.transaction() as connection:
        connection.execute("DELETE FROM lb.students")
    report = load(database, tmp_path, skip_refused=True)
    assert dict(rows(database, "SELECT id, name FROM lb.students")) == expected
    assert report.read["students.csv"].rows == len(given_rows)
    assert report.refused_rows == len(given_rows) - len(expected)


def test_an_enrollment_that_ends_when_it_begins_is_empty(school: Database, tmp_path: Path) -> None:
    text = header("enrollments") + "north,m1,NA,,2023-09-01,2023-09-01\n"
    load(school, write(tmp_path / "more", {"enrollments": text}))
    found = rows(school, "SELECT enrolled_on = withdrawn_on FROM lb.enrollments")
    assert (True,) in found


def test_terms_and_enrollments_may_lie_years_ahead(school: Database, tmp_path: Path) -> None:
    load(
        school,
        write(
            tmp_path / "more",
            {
                "terms": header("terms") + "north,t9,,2043-09-01,2044-01-01\n",
                "enrollments": header("enrollments") + "north,m1,NA,,2043-09-01,2044-01-01\n",
            },
        ),
    )
    assert rows(school, "SELECT max(ends_on) FROM lb.terms") == [(date(2044, 1, 1),)]


def test_events_before_the_first_partition_are_imported_with_a_note(
    database: Database, tmp_path: Path
) -> None:
    write(tmp_path)
    report = plain.import_directory(
        database, tmp_path, today=date(2024, 1, 1), start_day=date(2023, 10, 2)
    )
    # South's day begins 11 hours before UTC's: its event of the evening is of the first.
    assert [note for note in report.notes if "LB_START_DAY" in note] == [
        "north: 2 of the events lie before 2023-10-02 (LB_START_DAY), the first on 2023-10-01;"
        " they count in the boards of later days, and no day before 2023-10-02 is a partition",
        "south: 1 of the events lie before 2023-10-02 (LB_START_DAY), the first on 2023-10-01;"
        " they count in the boards of later days, and no day before 2023-10-02 is a partition",
    ]
    assert len(rows(database, "SELECT 1 FROM lb.student_points")) == 5
    again = plain.import_directory(
        database, tmp_path, today=date(2024, 1, 1), start_day=date(2023, 10, 1)
    )
    assert not [note for note in again.notes if "LB_START_DAY" in note]


zones = st.sampled_from(
    ["UTC", "Europe/London", "America/Havana", "Antarctica/Casey", "Pacific/Apia", "Asia/Gaza"]
)


@settings(deadline=None)
@given(
    zones,
    st.dates(date(2009, 1, 1), date(2024, 1, 1)),
    st.lists(st.integers(-60 * 48, 60 * 48), max_size=30),
)
@example("America/Havana", date(2012, 11, 4), list(range(-600, 600)))
@example("Antarctica/Casey", date(2010, 3, 5), list(range(-900, 900)))
def test_early_events_are_those_of_earlier_local_days(
    zone: str, start_day: date, minutes: list[int]
) -> None:
    institution = Institution(1, "i", "I", "ACTIVE", zone)
    midnight = int(datetime(start_day.year, start_day.month, start_day.day, tzinfo=UTC).timestamp())
    instants = [datetime.fromtimestamp(midnight + 60 * minute, UTC) for minute in minutes]
    days = [instant.astimezone(institution.zone).date() for instant in instants]
    early = [day for day in days if day < start_day]
    column: Any = pa.chunked_array([pa.array(instants, pa.timestamp("us", "UTC"))])
    note = describe_early_events(institution, column, start_day)
    if not early:
        assert note is None
        return
    assert note is not None
    assert note.startswith(f"i: {len(early):,} of the events lie before {start_day}")
    assert f"the first on {min(early)};" in note


def test_an_institution_whose_zone_is_none_gets_no_note() -> None:
    column: Any = pa.chunked_array([pa.array([datetime(2000, 1, 1, tzinfo=UTC)])])
    institution = Institution(1, "i", "I", "ACTIVE", "localtime")
    assert describe_early_events(institution, column, date(2024, 1, 1)) is None
