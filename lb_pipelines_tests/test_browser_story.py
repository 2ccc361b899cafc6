"""A story in a real Chromium: what a data engineer does and asks in Dagster's UI.

One world for all chapters, started as `make run` starts it (`browser_world`); each test is a
chapter and goes on where the one before it ended. Everything is clicked, and read in the page, but
for what comes from outside of the UI: the settings of institutions (a rank method that does not
exist, a shorter retention) and a late event are written into the database.

Every chapter saves pictures, into LB_SCREENSHOTS where that is set; `make screenshots` writes those
of the documents. The numbers of clicks are those that docs/ui.md states.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from lb_pipelines.core.periods import ONE_DAY
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.insight import INSIGHT
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines_tests import browser, browser_world
from lb_pipelines_tests.browser import VIEW, Person
from lb_pipelines_tests.browser_world import World

# Daemon, schedules and sensors go by the present.
pytestmark = pytest.mark.present

PROJECT = Path(__file__).resolve().parents[1]
OTHERS = (ARCHIVE, INSIGHT)


# Of the session, so that nothing is started where it is not there.
@pytest.fixture(scope="session")
def chromium() -> str:
    return browser.chromium()


@pytest.fixture(scope="module")
def world(
    chromium: str, _databases: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    url = _databases.create(migrated=True)
    database = Database(url)
    try:
        with browser_world.started(database, tmp_path_factory.mktemp("home")) as world:
            yield world
    finally:
        database.close()
        _databases.drop(url)


@pytest.fixture(scope="module")
def page(chromium: str, world: World) -> Iterator[Page]:
    with browser.opened(chromium) as page:
        yield page


@pytest.fixture
def person(
    page: Page, world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Person]:
    given = os.environ.get("LB_SCREENSHOTS")
    person = Person(page, world.address, Path(given) if given else tmp_path)
    person.open_front_page()
    yield person
    # Where a chapter stopped, if it did.
    page.screenshot(path=tmp_path / f"end-of-{request.node.name}.png")


def stated_clicks(question: str) -> int:
    """The clicks from the front page in the row of a question in docs/ui.md."""
    table = (PROJECT / "docs" / "ui.md").read_text()
    row = re.search(rf"^\| {re.escape(question)} \|.*\| (\d+) \|$", table, re.MULTILINE)
    assert row is not None, f"docs/ui.md has no row for {question!r}"
    return int(row[1])


def open_materialize_dialog(person: Person) -> None:
    """For all assets of a day: everything in the catalog's list but archive and insight."""
    person.go_to("Catalog")
    boxes = person.page.locator("label:has(input[type=checkbox])")
    person.sees(ARCHIVE)
    person.click(boxes.first)
    for asset in OTHERS:
        person.click(boxes.filter(has=person.page.get_by_test_id(f"checkbox-{asset}")))
    person.press(f"Materialize selected ({len(DAILY_ASSETS)})")


def open_the_run_of_a_sensor(person: Person) -> None:
    """From the sensor's page; the run has succeeded then."""
    person.press("Runs", exact=True)
    run = person.page.locator("[class*=RunsFeedRow_rowGrid]").filter(has_text="Success")
    person.click(run.first.get_by_role("link", name="View"))
    # The run's own status: the last line of a long log may lie outside of what is drawn.
    person.sees(re.compile("^Success$"))


def test_first_start(person: Person, world: World) -> None:
    """Everybody's last 14 days are there: a green dot a day, for all three institutions."""
    assert "the last 14 days, by Dagster in 1 run(s), 1 good" in world.said
    person.go_to("Catalog")
    for asset in (*DAILY_ASSETS, *OTHERS):
        person.sees(asset)
    counted = person.page.get_by_text(re.compile(r"^\d+ partitions$"))
    expect(counted).to_have_count(len(DAILY_ASSETS) + len(OTHERS))
    person.picture("catalog")
    person.open_asset("class_trends")
    person.open_tab("Partitions")
    for day in world.shown:
        person.sees_statuses(day.isoformat(), "green")
    assert person.clicks == stated_clicks("Is today complete for everyone?")
    person.picture("partitions")


def test_the_asset_graph(person: Person) -> None:
    """Aggregates, then snapshots, then what builds on them; nothing of it has failed."""
    person.page.set_viewport_size({**VIEW, "height": 1_350})
    person.go_to("Lineage")
    person.sees("Materialize all")
    graph = person.page.locator("svg").filter(has_text="aggregates")
    person.sees("aggregates", graph)
    person.page.keyboard.press("Alt+e")
    for asset in (*DAILY_ASSETS, *OTHERS):
        person.sees(asset, graph)
    # A double click beside it brings all of it onto the screen.
    person.page.mouse.dblclick(600, 1_300)
    for asset in (*DAILY_ASSETS, *OTHERS):
        shown = graph.get_by_text(asset, exact=True).filter(visible=True).first
        expect(shown).to_be_in_viewport(ratio=1)
        shown.click(trial=True)  # It has come to rest.
    expect(graph.get_by_text("Failed")).to_have_count(0)
    person.picture("graph")
    person.page.set_viewport_size(VIEW)


def test_a_day_is_materialized_by_clicking(person: Person, world: World) -> None:
    """One more day of the largest institution: chosen, launched, watched, looked at."""
    day = (world.shown.first - ONE_DAY).isoformat()
    open_materialize_dialog(person)
    person.type_days(day)
    dialog = person.page.get_by_role("dialog")
    person.click(dialog.locator("[class*=TagSelector_tagSelectorContainer]"))
    person.click(person.page.get_by_role("menuitem", name="inst_101"))
    person.press("Launch", dialog)
    person.follow_the_message()
    person.sees(re.compile("^Success$"))
    person.go_to("Catalog")
    person.open_asset("class_snapshots")
    person.open_tab("Partitions")
    person.sees_statuses(day, "gray", "green")
    person.click(person.scroll_to_day(day))
    person.click(person.page.locator('[data-tooltip="inst_101"]'))
    person.sees(f"{day}|inst_101")
    for word in ("Materialized", "largest_boards", "inst_101_CLASS_"):
        person.sees(word)
    chart = person.page.locator("td img[src^='data:image/svg']").first
    chart.scroll_into_view_if_needed()
    expect(chart).to_be_visible()
    assert chart.evaluate("image => image.complete && image.naturalWidth > 0")
    person.picture("day")


def test_a_months_backfill_with_one_that_fails(person: Person, world: World) -> None:
    """What it will touch is shown before it starts; inst_102's settings are wrong (database)."""
    world.set("inst_102", leaderboardRanking="best")
    open_materialize_dialog(person)
    person.type_days(f"[{world.month.first}...{world.month.last}]")
    dialog = person.page.get_by_role("dialog")
    person.press("All", dialog)
    days = len(world.month)
    person.sees(f"{3 * days} partitions", dialog)
    person.press("Preview", dialog)
    person.sees("Backfill preview")
    preview = person.page.get_by_role("dialog").last
    expect(preview.get_by_text(f"{3 * days} partitions")).to_have_count(len(DAILY_ASSETS))
    assert person.clicks == stated_clicks("What will this backfill touch?")
    person.picture("backfill-preview")
    person.press("OK", preview)
    person.press("Launch backfill", dialog)
    person.follow_the_message()
    person.sees("Failed", person.page.get_by_text("Status").locator("xpath=.."))
    for asset in DAILY_ASSETS:
        assert person.counts(asset) == [3 * days, 0, 2 * days, days]
    person.picture("backfill")


def test_what_failed_and_why(person: Person, world: World) -> None:
    """From the front page to the sentence that names institution, setting and remedy."""
    person.go_to("Runs")
    person.click(person.page.get_by_role("tab", name="Failed"))
    person.click(person.page.locator('a[href^="/runs/b/"]').first)
    person.open_tab("Runs")
    failed = person.page.locator("[class*=RunsFeedRow_rowGrid]").filter(has_text="Failure")
    expect(failed).to_have_count(1)
    person.click(failed.get_by_role("link", name="View"))
    person.sees(re.compile("inst_102 failed at its settings: .* is 'best'. Set it to"))
    assert person.clicks == stated_clicks("What failed, and why?")
    person.page.get_by_placeholder("Filter…").fill("inst_102 failed")
    expect(person.page.get_by_text("RUN_FAILURE")).to_have_count(0)
    person.picture("failure")


def test_what_is_late(person: Person) -> None:
    """inst_102, whose settings are still wrong: the check of who has every day in time names it."""
    person.go_to("Catalog")
    person.open_asset("class_trends")
    person.open_tab("Checks")
    person.sees("on_time")
    person.press("Execute")
    person.sees(re.compile("inst_102 .settings that cannot be used|leaderboardRanking"))
    assert person.clicks == stated_clicks("What is late?")
    person.picture("late")


def test_what_failed_is_done_again_alone(person: Person, world: World) -> None:
    """Once the settings are mended (database), from the menu of the backfill."""
    world.set("inst_102", leaderboardRanking=None)
    person.go_to("Runs")
    person.click(person.page.locator('a[href^="/runs/b/"]').first)
    person.sees("Failed")
    person.click(person.page.locator('button:has([aria-label="expand_more"])').first)
    person.click(person.page.get_by_text("Re-execute from failure"))
    person.follow_the_message()
    person.sees("Succeeded", person.page.get_by_text("Status").locator("xpath=.."))
    days = len(world.month)
    for asset in DAILY_ASSETS:
        assert person.counts(asset) == [days, 0, days, 0]
    person.go_to("Catalog")
    person.open_asset("class_trends")
    person.open_tab("Partitions")
    person.sees_statuses(world.month.last.isoformat(), "green")


def test_a_late_event_is_corrected(person: Person, world: World) -> None:
    """5,000 points come in for a day long since materialized (database); the sensor sees them."""
    day = world.shown.last - 4 * ONE_DAY
    # The settings that were mended are an input too.
    world.wait_until_current()
    world.add_late_event("inst_101", day, 5_000)
    person.go_to("Automation")
    person.click(person.page.get_by_role("link", name="late_events_sensor"))
    asked = person.page.get_by_role("row").filter(has_text="1 run requested")
    expect(asked.first).to_be_visible()
    assert person.clicks == stated_clicks("Are late events corrected?")
    person.picture("late-events")
    world.wait_until_current()
    open_the_run_of_a_sensor(person)
    # A long log shows the lines that are on the screen.
    person.page.get_by_placeholder("Filter…").fill(f"inst_101: {day} to ")
    person.sees(re.compile(f"inst_101: {day} to "))
    person.go_to("Catalog")
    person.open_asset("campus_snapshots")
    person.open_tab("Partitions")
    person.click(person.scroll_to_day(day.isoformat()))
    person.click(person.page.locator('[data-tooltip="inst_101"]'))
    person.sees(re.compile(r"^5,\d\d\d$"))


def test_what_retention_moved(person: Person, world: World) -> None:
    """inst_103 keeps daily boards for 30 days from now on (database); the sensor archives."""
    world.set("inst_103", leaderboardRetention={"daily": 30})
    person.go_to("Automation")
    person.click(person.page.get_by_role("link", name="retention_sensor"))
    asked = person.page.get_by_role("row").filter(has_text="1 run requested")
    expect(asked.first).to_be_visible()
    open_the_run_of_a_sensor(person)
    person.open_front_page()
    person.go_to("Runs")
    person.sees("leaderboards/granularity: daily")
    person.picture("retention-runs")
    person.open_front_page()
    person.go_to("Catalog")
    person.open_asset(ARCHIVE)
    person.open_tab("Events")
    moved = world.archived("inst_103")
    assert moved > 0
    person.sees("by this run")
    person.sees(re.compile(f"^{moved:,}$"))
    assert person.clicks == stated_clicks("What did retention move?")
    person.picture("archive-asset")


def test_the_checks(person: Person) -> None:
    """What was looked at, and that nothing was wrong."""
    person.go_to("Catalog")
    person.open_asset("class_snapshots")
    person.open_tab("Checks")
    person.click(person.page.get_by_text("ranks_agree_with_points").filter(visible=True).first)
    person.sees("Passed")
    person.sees("looked_at")
    assert person.clicks == stated_clicks("Is this number plausible?")
    person.picture("checks")


def test_a_plot(person: Person) -> None:
    """Numeric metadata over the partitions."""
    person.go_to("Catalog")
    person.open_asset("class_snapshots")
    person.press("Plots")
    for number in ("ranked", "daily_boards", "dagster/partition_row_count"):
        person.sees(number)
    expect(person.page.locator("canvas").first).to_be_visible()
    assert person.clicks == 3
    person.bring_up(person.page.get_by_text("Metadata", exact=True))
    person.picture("plot")
