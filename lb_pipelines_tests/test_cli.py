"""`lb` as a person and a script meet it: what is printed, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lb_pipelines.cli import app
from lb_pipelines.db.engine import Database

GOOD = {
    "institutions.csv": "institution_id,time_zone\nnorth,Europe/London\n",
    "students.csv": "institution_id,student_id\nnorth,s1\n",
    "points.csv": "institution_id,event_id,student_id,amount,occurred_at\n"
    "north,e1,s1,5,2023-10-01T10:00:00Z\n",
}
Lb = Callable[..., Result]


@pytest.fixture
def lb(database: Database, monkeypatch: pytest.MonkeyPatch) -> Lb:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("LB_DATABASE_URL", url)
    return run


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def write(directory: Path, **changed: str) -> Path:
    for name, text in GOOD.items():
        (directory / name).write_text(text + changed.get(name.removesuffix(".csv"), ""))
    return directory


def count(database: Database) -> Any:
    with database.transaction() as connection:
        return connection.execute("SELECT count(*) FROM lb.student_points").fetchone()


@pytest.mark.present
def test_migrate_makes_the_schema_and_does_nothing_then(
    fresh_database_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LB_DATABASE_URL", fresh_database_url())
    refused = run("generate", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["remedy"] == "Run `lb migrate` first"
    assert run("migrate").exit_code == 0
    again = run("migrate", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, {"migrated": True})
    assert run("generate", "--days", "2").exit_code == 0


@pytest.mark.present
def test_import_csv_tells_what_it_wrote(lb: Lb, database: Database, tmp_path: Path) -> None:
    result = lb("import", "csv", write(tmp_path))
    assert result.exit_code == 0
    assert "student_points" in result.stdout
    assert count(database) == (1,)
    again = json.loads(lb("import", "csv", tmp_path, "--json").stdout)
    assert again["written"]["student_points"]["unchanged"] == 1
    assert again["read"]["points.csv"] == {"rows": 1, "refused": 0, "published": None}


@pytest.mark.present
def test_a_refused_import_shows_rows_and_writes_the_report(
    lb: Lb, database: Database, tmp_path: Path
) -> None:
    bad = "north,e2,s2,5,2023-10-01T10:00:00Z\nnorth,e3,s1,1.5,2023-10-01T10:00:00Z\n"
    directory = write(tmp_path, points=bad)
    report = tmp_path / "refused.txt"
    result = lb("import", "csv", directory, "--report", report)
    assert result.exit_code == 1
    assert "unknown student" in result.stderr
    assert "ImportRefused: 2 of 5 rows" in result.stderr
    assert "--skip-refused" in result.stderr
    assert report.read_text().splitlines() == [
        '"file","line","column","value","reason"',
        '"points.csv",3,"student_id","s2","unknown student"',
        '"points.csv",4,"amount","1.5","no whole number"',
    ]
    assert count(database) == (0,)
    told = json.loads(lb("import", "csv", directory, "--json").stdout)
    assert (told["error"], told["report"]["refusedRows"]) == ("ImportRefused", 2)
    assert told["report"]["refusals"][0]["line"] == 3
    assert lb("import", "csv", directory, "--skip-refused").exit_code == 3
    assert count(database) == (1,)


@pytest.mark.present
def test_only_the_first_refusals_are_shown(lb: Lb, tmp_path: Path) -> None:
    bad = "".join(f"north,x{n},[red]s{n},5,2023-10-01T10:00:00Z\n" for n in range(30))
    result = lb("import", "csv", write(tmp_path, points=bad))
    assert result.stderr.count("unknown student") == 20
    assert "'[red]s0'" in result.stderr
    assert "and 10 more" in result.stderr


@pytest.mark.present
def test_events_before_the_first_partition_get_a_note(
    lb: Lb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LB_START_DAY", "2023-10-02")
    result = lb("import", "csv", write(tmp_path))
    assert result.exit_code == 0
    assert "north: 1 of the events lie before 2023-10-02 (LB_START_DAY)" in result.stdout


@pytest.mark.present
def test_a_missing_file_is_named(lb: Lb, tmp_path: Path) -> None:
    result = lb("import", "oulad", tmp_path)
    assert result.exit_code == 1
    assert "lacks courses.csv" in result.stderr
    result = lb("import", "csv", tmp_path / "absent", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]) == (1, "ImportRefused")


@pytest.mark.present
def test_generate_writes_a_district_of_the_size_asked(lb: Lb, database: Database) -> None:
    options = ("--institutions", 2, "--students", 20, "--classes", 4, "--subjects", 3)
    more = ("--campuses", 2, "--days", 3, "--end-day", "2025-10-15", "--events-per-day", 50)
    told = json.loads(lb("generate", *options, *more, "--json").stdout)
    assert told["written"]["students"]["inserted"] == 20
    assert told["written"]["student_points"]["inserted"] == count(database)[0]
    assert lb("generate", "--institutions", 90).exit_code == 1
    assert lb("generate", "--institutions", 0).exit_code == 2


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LB_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = run("migrate")
    assert result.exit_code == 1
    assert "DatabaseUnavailable: No connection to" in result.stderr
    monkeypatch.setenv("LB_DATABASE_URL", "mysql://nobody@127.0.0.1/none")
    assert "is no PostgreSQL URL" in run("migrate").stderr
