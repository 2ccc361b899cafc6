"""The environment: defaults, what is read, and what is refused by name."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from lb_pipelines.errors import DatabaseUnavailable, InvalidEnvironment
from lb_pipelines.settings import Settings, dagster_storage_url


def test_nothing_set_means_an_embedded_server_in_the_project() -> None:
    settings = Settings.from_env({})
    assert settings.home == Path(__file__).parents[1] / ".lb"
    assert settings.external_url is None
    assert str(settings.home) in settings.database_url
    assert settings.start_day == date(2013, 1, 1)
    assert settings.leaf_budget == 3000
    assert settings.export_dir == settings.home / "exports"


def test_what_is_set_is_read_and_what_is_empty_is_not() -> None:
    settings = Settings.from_env(
        {
            "LB_DATABASE_URL": "postgresql://u@h/d",
            "LB_HOME": "/somewhere",
            "LB_START_DAY": "2020-02-29",
            "LB_LEAF_BUDGET": " 12 ",
            "LB_UI_HOST": "0.0.0.0",
            "LB_UI_PORT": "",
            "LB_EXPORT_DIR": "~/exports",
            "LB_CACHE_URL": "redis://h:6379/1",
        }
    )
    assert settings == Settings(
        home=Path("/somewhere"),
        external_url="postgresql://u@h/d",
        start_day=date(2020, 2, 29),
        leaf_budget=12,
        ui_host="0.0.0.0",
        given_export_dir=Path.home() / "exports",
        cache_url="redis://h:6379/1",
    )
    assert settings.export_dir == Path.home() / "exports"
    assert settings.database_url == "postgresql://u@h/d"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LB_START_DAY", "2020-02-30"),
        ("LB_START_DAY", "yesterday"),
        ("LB_LEAF_BUDGET", "-1"),
        ("LB_LEAF_BUDGET", "many"),
        ("LB_LEAF_BUDGET", "100001"),
        ("LB_UI_PORT", "0"),
        ("LB_UI_PORT", "65536"),
        ("LB_CACHE_URL", "memcached://h"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_the_variable_s_name(
    variable: str, value: str
) -> None:
    with pytest.raises(InvalidEnvironment, match=f"{variable} is '{value}'"):
        Settings.from_env({variable: value})


@pytest.mark.parametrize("url", ["mysql://u@h/d", "nonsense"])
def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="LB_DATABASE_URL is no PostgreSQL URL"):
        Settings.from_env({"LB_DATABASE_URL": url})


def test_dagster_gets_the_same_database_and_a_schema_of_its_own() -> None:
    url = dagster_storage_url("postgres://u:p%40ss@h:5433/d?sslmode=require&options=-cgeqo%3Doff")
    parsed = make_url(url)
    assert (parsed.drivername, parsed.password) == ("postgresql+psycopg2", "p@ss")
    assert parsed.query == {"sslmode": "require", "options": "-cgeqo=off -csearch_path=dagster"}
