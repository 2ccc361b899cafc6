"""Zones come from the pinned tzdata package alone, whatever files the system has."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

import pytest

import lb_pipelines
from lb_pipelines.core import zones
from lb_pipelines.core.institution import Institution
from lb_pipelines.errors import InvalidInstitution, UnknownZone

LISTED = resources.files("tzdata").joinpath("zones").read_text().split()
SUMMER = datetime(2024, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def other_files(tmp_path: Path) -> Iterator[Path]:
    """A system whose Europe/London is Tokyo, and which has names that tzdata does not know."""
    tokyo = resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    for name in ("Europe/London", "localtime", "posixrules", "posix/UTC", "right/UTC", "Our/Own"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tokyo)
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([tmp_path])
    zoneinfo.ZoneInfo.clear_cache()
    zones.load_zone.cache_clear()
    yield tmp_path
    zoneinfo.reset_tzpath(before)
    zoneinfo.ZoneInfo.clear_cache()
    zones.load_zone.cache_clear()


def test_files_of_the_system_are_never_read(other_files: Path) -> None:
    in_tokyo = zoneinfo.ZoneInfo("Europe/London").utcoffset(SUMMER)
    assert in_tokyo == timedelta(hours=9), "the fixture does not deceive anybody"
    assert zones.load_zone("Europe/London").utcoffset(SUMMER) == timedelta(hours=1)
    institution = Institution(1, "i", "I", "ACTIVE", "Europe/London")
    assert institution.zone.utcoffset(SUMMER) == timedelta(hours=1)


def test_a_variable_of_the_environment_changes_nothing(other_files: Path) -> None:
    code = (
        "from datetime import UTC, datetime; from lb_pipelines.core.zones import *;"
        "print(datetime(2024, 7, 1, 12, tzinfo=UTC).astimezone(load_zone('Europe/London')).hour,"
        " is_valid_zone('localtime'), is_valid_zone('Our/Own'))"
    )
    environment = {
        "PYTHONTZPATH": str(other_files),
        "PYTHONPATH": str(Path(lb_pipelines.__file__).parent.parent),
        "TZ": "Asia/Tokyo",
    }
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["13", "False", "False"]


@pytest.mark.parametrize(
    "name",
    [
        "localtime", "posixrules", "posix/Europe/London", "posix/UTC", "right/UTC", "Our/Own",
        "Factory", "europe/london", "EUROPE/LONDON", "utc", "Europe", "Europe/", "/Europe/London",
        "Europe//London", "../tzdata/zones", "Europe/../Europe/London", "./UTC", "zone.tab",
        "tzdata.zi", "__init__.py", "Mars/Olympus", "", "UTC ", " UTC", "UTC\n", "a\0b", "UTC+1",
        "+01:00", "BST",
    ],
)  # fmt: skip
def test_other_names_are_not_zones(other_files: Path, name: str) -> None:
    assert not zones.is_valid_zone(name)
    with pytest.raises(UnknownZone) as raised:
        zones.load_zone(name)
    assert raised.value.name == name
    with pytest.raises(InvalidInstitution, match="'i'"):
        _ = Institution(1, "i", "I", "ACTIVE", name).zone


@pytest.mark.parametrize("name", [name for name in LISTED if name != "Factory"])
def test_every_zone_of_the_package_loads(name: str) -> None:
    assert zones.is_valid_zone(name)
    zone = zones.load_zone(name)
    assert zone.key == str(zone) == name
    assert zone is zones.load_zone(name)
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        expected = zoneinfo.ZoneInfo.from_file(file)
    for month in range(300):
        instant = datetime(1990 + month // 6, 1 + month % 6 * 2, 1, tzinfo=UTC)
        assert zone.utcoffset(instant) == expected.utcoffset(instant)


def test_places_their_links_and_utc_are_zones() -> None:
    for name in ("Europe/London", "GB", "Asia/Kolkata", "Asia/Calcutta", "UTC", "Etc/GMT+5"):
        assert zones.is_valid_zone(name)


def test_an_institution_whose_zone_was_asked_for_can_be_pickled() -> None:
    institution = Institution(1, "i", "I", "ACTIVE", "Europe/London")
    assert institution.zone.key == "Europe/London"
    copy = pickle.loads(pickle.dumps(institution))
    assert copy == institution
    assert copy.zone is institution.zone
