"""The Open University's data, on a small invented copy of its seven tables with all its dirt.

With LB_OULAD_DIR set, the published tables themselves are imported and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from lb_pipelines.db.engine import Database
from lb_pipelines.errors import ImportRefused, InactiveInstitution
from lb_pipelines.sources import oulad
from lb_pipelines.sources.oulad import PRESENTATIONS, PUBLISHED_ROWS, Points
from lb_pipelines.sources.report import Written

LONDON = ZoneInfo("Europe/London")
CLASSES = [("AAA", "2013J"), ("BBB", "2013B"), ("BBB", "2013J"), ("GGG", "2014J")]
REGIONS = ["Scotland", "Wales", "East Anglian Region"]
Tables = dict[str, pd.DataFrame]


@pytest.fixture
def tables() -> Tables:
    """Seven tables of 40 students: several presentations, banked, missing, exams, equal clicks."""
    chance = np.random.default_rng(7)
    enrolled = [
        (*CLASSES[number], student)
        for student in range(100, 140)
        for number in sorted(chance.choice(4, size=chance.integers(1, 3), replace=False))
    ]
    info = pd.DataFrame(enrolled, columns=["code_module", "code_presentation", "id_student"])
    info["region"] = chance.choice(REGIONS, size=len(info))
    info["imd_band"] = "?"
    registration = info[["code_module", "code_presentation", "id_student"]].assign(
        date_registration=pd.array(chance.integers(-100, 5, len(info)), dtype="Int32"),
        date_unregistration=pd.array(chance.integers(10, 200, len(info)), dtype="Int32"),
    )
    registration.loc[chance.random(len(info)) < 0.2, "date_registration"] = pd.NA
    registration.loc[chance.random(len(info)) < 0.7, "date_unregistration"] = pd.NA
    assessments = pd.DataFrame(
        [
            (*pair, 1000 + 10 * at + number, kind, weight)
            for at, pair in enumerate(CLASSES)
            for number, (kind, weight) in enumerate(
                [("TMA", 10.0), ("CMA", 0.0 if pair[0] == "GGG" else 12.5), ("Exam", 100.0)]
            )
        ],
        columns=["code_module", "code_presentation", "id_assessment", "assessment_type", "weight"],
    )
    assessments["date"] = pd.array([18, 200, None] * 4, dtype="Int32")
    results = info.merge(assessments, on=["code_module", "code_presentation"])
    results = results[chance.random(len(results)) < 0.8][["id_assessment", "id_student"]]
    results["date_submitted"] = chance.integers(-3, 260, len(results))
    results["is_banked"] = (chance.random(len(results)) < 0.1).astype(int)
    results.loc[results["is_banked"] == 1, "date_submitted"] = -1
    results["score"] = pd.array(chance.integers(0, 101, len(results)), dtype="Int32")
    results.loc[chance.random(len(results)) < 0.1, "score"] = pd.NA
    clicks = info.loc[chance.integers(len(info), size=900)].reset_index(drop=True)
    clicks = clicks[["code_module", "code_presentation", "id_student"]].assign(
        id_site=chance.integers(1, 4, 900),
        date=chance.integers(-20, 260, 900) // 20 * 20 + chance.integers(0, 2, 900),
        sum_click=chance.integers(1, 4, 900),
    )
    courses = pd.DataFrame(CLASSES, columns=["code_module", "code_presentation"])
    return {
        "courses": courses.assign(module_presentation_length=268),
        "assessments": assessments,
        "vle": pd.DataFrame({"id_site": [1, 2, 3]}),
        "studentInfo": info,
        "studentRegistration": registration,
        "studentAssessment": results,
        "studentVle": clicks,
    }


def write(directory: Path, tables: Tables, suffix: str = "csv") -> Path:
    directory.mkdir(exist_ok=True)
    for name, table in tables.items():
        if suffix == "csv":
            table.to_csv(directory / f"{name}.csv", index=False, na_rep="?", quoting=2)
        else:
            table.to_parquet(directory / f"{name}.parquet", index=False)
    return directory


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return connection.execute(query).fetchall()


EVENTS = """
    SELECT p.event_id, s.id, c.id, j.id, k.id, p.occurred_at, p.amount, p.status
    FROM lb.student_points p
    JOIN lb.students s USING (institution_key, student_key)
    JOIN lb.classes c USING (institution_key, class_key)
    JOIN lb.subjects j ON j.subject_key = p.subject_key
    JOIN lb.campuses k ON k.campus_key = p.campus_key
    ORDER BY 1
"""


def expected_events(tables: Tables) -> list[tuple[Any, ...]]:
    """The events by the rules in words, row by row."""
    region = {
        (row.code_module, row.code_presentation, row.id_student): row.region
        for row in tables["studentInfo"].itertuples()
    }

    def event(id: str, pair: tuple[str, str], student: int, day: int, amount: int) -> Any:
        noon = datetime.combine(PRESENTATIONS[pair][0], datetime.min.time(), LONDON)
        occurred = (noon + timedelta(days=day)).replace(hour=12)
        place = region[(*pair, student)]
        return (id, str(student), "-".join(pair), pair[0], place, occurred, amount, "ACTIVE")

    events = []
    assessments = tables["assessments"].set_index("id_assessment")
    for row in tables["studentAssessment"].itertuples():
        about = assessments.loc[row.id_assessment]
        if about.assessment_type != "Exam" and not pd.isna(row.score):
            pair = (about.code_module, about.code_presentation)
            amount = round(int(row.score) * about.weight)
            id = f"a-{row.id_assessment}-{row.id_student}"
            events.append(event(id, pair, row.id_student, row.date_submitted, amount))
    sums: Counter[tuple[str, str, int, int]] = Counter()
    for row in tables["studentVle"].itertuples():
        sums[row.code_module, row.code_presentation, row.id_student, row.date] += row.sum_click
    for (module, term, student, day), amount in sums.items():
        id = f"v-{module}-{term}-{day}-{student}"
        events.append(event(id, (module, term), student, day, amount))
    return sorted(events)


def test_every_event_is_what_the_rules_say(
    database: Database, tables: Tables, tmp_path: Path
) -> None:
    report = oulad.import_directory(database, write(tmp_path / "csv", tables))
    expected = expected_events(tables)
    assert rows(database, EVENTS) == expected
    assert any(amount == 0 for *_, amount, _ in expected)
    assert any(occurred.utcoffset() for *_, occurred, _, _ in expected)
    assert report.written["student_points"] == Written(inserted=len(expected))
    assert report.read["studentVle.csv"].rows == 900
    assert report.read["studentVle.csv"].published == 10_655_280
    exams = tables["studentAssessment"]["id_assessment"] % 10 == 2
    missing = tables["studentAssessment"]["score"].isna() & ~exams
    assert report.notes == [
        f"{exams.sum()} results of exams left out: they are no points",
        f"{missing.sum()} results without a score left out",
    ]


def test_the_school_is_what_the_tables_say(
    database: Database, tables: Tables, tmp_path: Path
) -> None:
    oulad.import_directory(database, write(tmp_path / "csv", tables))
    assert rows(database, "SELECT id, name, time_zone FROM lb.institutions") == [
        ("open_university", "The Open University", "Europe/London")
    ]
    terms = rows(database, "SELECT id, starts_on::text, ends_on::text FROM lb.terms ORDER BY 1")
    assert terms == [
        ("2013B", "2013-02-02", "2013-09-30"),
        ("2013J", "2013-10-05", "2014-06-30"),
        ("2014J", "2014-10-04", "2015-06-30"),
    ]
    assert [id for (id,) in rows(database, "SELECT id FROM lb.classes ORDER BY 1")] == [
        "-".join(pair) for pair in CLASSES
    ]
    enrolled = tables["studentRegistration"].merge(tables["studentInfo"])

    def day(row: Any, offset: Any) -> Any:
        start = PRESENTATIONS[row.code_module, row.code_presentation][0]
        return None if pd.isna(offset) else start + timedelta(days=int(offset))

    assert rows(
        database,
        "SELECT c.id, s.id, k.id, enrolled_on, withdrawn_on FROM lb.enrollments e"
        " JOIN lb.classes c USING (class_key) JOIN lb.students s USING (student_key)"
        " JOIN lb.campuses k ON k.campus_key = e.campus_key ORDER BY 1, 2",
    ) == sorted(
        (
            f"{row.code_module}-{row.code_presentation}",
            str(row.id_student),
            row.region,
            day(row, row.date_registration),
            day(row, row.date_unregistration),
        )
        for row in enrolled.itertuples()
    )


def test_parquet_and_a_second_import_change_nothing(
    database: Database, tables: Tables, tmp_path: Path
) -> None:
    oulad.import_directory(database, write(tmp_path / "csv", tables))
    query = "SELECT * FROM lb.student_points ORDER BY event_id"
    before = rows(database, query)
    for directory in (write(tmp_path / "parquet", tables, "parquet"), tmp_path / "csv"):
        report = oulad.import_directory(database, directory)
        assert report.changes == 0
        assert report.written["student_points"].unchanged == len(before)
    assert rows(database, query) == before


def test_one_kind_of_points_after_the_other(
    database: Database, tables: Tables, tmp_path: Path
) -> None:
    directory = write(tmp_path / "csv", tables)
    (directory / "studentVle.csv").rename(directory / "later")
    oulad.import_directory(database, directory, points=Points.ASSESSMENTS)
    expected = expected_events(tables)
    assert rows(database, EVENTS) == [event for event in expected if event[0].startswith("a-")]
    (directory / "later").rename(directory / "studentVle.csv")
    (directory / "studentAssessment.csv").unlink()
    oulad.import_directory(database, directory, points=Points.CLICKS)
    assert rows(database, EVENTS) == expected


@pytest.mark.parametrize("name", PUBLISHED_ROWS)
def test_a_missing_file_is_named(tables: Tables, tmp_path: Path, name: str) -> None:
    directory = write(tmp_path / "csv", tables)
    (directory / f"{name}.csv").unlink()
    with pytest.raises(ImportRefused, match=rf"lacks {name}\.csv"):
        oulad.import_directory(Database("postgresql://nobody@localhost:1/none"), directory)


def _lost_student(tables: Tables) -> None:
    tables["studentInfo"] = tables["studentInfo"].query("id_student != 105")


def _unknown_class(tables: Tables) -> None:
    tables["courses"] = tables["courses"].query("code_module != 'GGG'")


def _unknown_presentation(tables: Tables) -> None:
    for name in ("courses", "assessments", "studentInfo", "studentRegistration", "studentVle"):
        tables[name] = tables[name].replace("2014J", "2019J")


def _unknown_assessment(tables: Tables) -> None:
    tables["assessments"] = tables["assessments"].query("id_assessment != 1000")


def _missing_day(tables: Tables) -> None:
    tables["studentVle"] = tables["studentVle"].astype({"date": "object"})
    tables["studentVle"].loc[3, "date"] = "?"


def _missing_column(tables: Tables) -> None:
    tables["studentVle"] = tables["studentVle"].drop(columns="sum_click")


def _text_for_a_number(tables: Tables) -> None:
    tables["studentVle"] = tables["studentVle"].astype({"date": "object"})
    tables["studentVle"].loc[3, "date"] = "ten"


@pytest.mark.parametrize(
    ("damage", "thing"),
    [
        (_lost_student, "points are of students without a row in studentInfo.* 105 in"),
        (_unknown_class, "class GGG-2014J is not in courses"),
        (_unknown_presentation, "dates are not known: GGG-2019J"),
        (_unknown_assessment, "not in assessments"),
        (_missing_day, "1 rows lack date"),
        (_missing_column, "has no column sum_click"),
        (_text_for_a_number, r"studentVle\.csv cannot be read.*ten"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    tables: Tables, tmp_path: Path, damage: Any, thing: str
) -> None:
    damage(tables)
    with pytest.raises(ImportRefused, match=thing):
        oulad.import_directory(
            Database("postgresql://nobody@localhost:1/none"), write(tmp_path / "csv", tables)
        )


def test_an_inactive_university_gets_nothing(
    database: Database, tables: Tables, tmp_path: Path
) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.institutions (id, name, status)"
            " VALUES ('open_university', 'Closed', 'INACTIVE')"
        )
    with pytest.raises(InactiveInstitution, match="open_university"):
        oulad.import_directory(database, write(tmp_path / "csv", tables))
    assert rows(database, "SELECT name FROM lb.institutions") == [("Closed",)]


@pytest.mark.skipif("LB_OULAD_DIR" not in os.environ, reason="LB_OULAD_DIR names no directory")
def test_the_published_tables_come_in_whole(database: Database) -> None:
    report = oulad.import_directory(database, Path(os.environ["LB_OULAD_DIR"]))
    assert {Path(name).stem: read.rows for name, read in report.read.items()} == PUBLISHED_ROWS
    assert {name: table.inserted for name, table in report.written.items()} == {
        "institutions": 1,
        "campuses": 13,
        "subjects": 7,
        "terms": 4,
        "classes": 22,
        "students": 28_785,
        "enrollments": 32_593,
        "student_points": 168_780 + 1_808_119,
    }
    sums = "SELECT left(event_id, 1), count(*), sum(amount) FROM lb.student_points GROUP BY 1"
    assert {kind: (count, total) for kind, count, total in rows(database, sums)}["v"] == (
        1_808_119,
        39_605_099,
    )
