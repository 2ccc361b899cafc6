"""A person at Dagster's UI: a real Chromium, its clicks counted, its pictures taken.

What is looked for on a page is what a person reads there; nothing waits a fixed time.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from lb_pipelines_tests.waiting import LIMIT_SECONDS, wait_until

# The width of the pictures in the documents.
VIEW = {"width": 1500, "height": 950}
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What Dagster's UI shows in the place of what it has yet to load.
_LOADING = "[class*=Spinner], [class*=spinner], [class*=Skeleton], [class*=shimmer], .bp5-skeleton"


def chromium() -> str:
    """The installed browser; skips the test without one, or fails it where one is required."""
    found = shutil.which("chromium")
    if found is not None:
        return found
    reason = "Debian's package chromium is not installed"
    if os.environ.get("LB_REQUIRE_CHROMIUM"):
        pytest.fail(f"{reason}, and LB_REQUIRE_CHROMIUM says that it has to be")
    pytest.skip(reason)


@contextmanager
def opened(executable: str) -> Iterator[Page]:
    """A page of a fresh browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        page = browser.new_page(viewport=VIEW, locale="en-US", timezone_id="UTC")
        page.set_default_timeout(LIMIT_SECONDS * 1000)
        expect.set_options(timeout=LIMIT_SECONDS * 1000)
        yield page
        browser.close()


class Person:
    """Somebody who finds answers by clicking; `clicks` since the front page was opened."""

    def __init__(self, page: Page, address: str, pictures: Path) -> None:
        self.page = page
        self.address = address
        self.pictures = pictures
        self.clicks = 0

    def open_front_page(self) -> None:
        self.page.goto(self.address)
        expect(self.page.get_by_role("link", name="Overview")).to_be_visible()
        self.clicks = 0

    def click(self, target: Locator) -> None:
        """Click what can be clicked, and take the hand away."""
        target.click()
        self.clicks += 1
        # What lies under the pointer keeps its colour, and a message stays as long as it does.
        self.page.mouse.move(VIEW["width"] // 2, 2)

    def go_to(self, name: str) -> None:
        """One of the entries at the left."""
        self.click(self.page.locator("a[class*=MainNavigation_link]", has_text=name))

    def open_asset(self, name: str) -> None:
        """From the catalog's list to the page of an asset."""
        self.click(self.page.locator(f'a[href="/assets/{name}"]').first)

    def open_tab(self, name: str) -> None:
        self.click(self.page.get_by_role("tab", name=name, exact=True))

    def press(self, name: str, within: Locator | None = None, *, exact: bool = False) -> None:
        """A button by its text or a part of it, the last one where several have it."""
        self.click((within or self.page).get_by_role("button", name=name, exact=exact).last)

    def sees(self, text: str | re.Pattern[str], within: Locator | None = None) -> None:
        """Wait until a text can be read."""
        found = (within or self.page).get_by_text(text).filter(visible=True)
        expect(found.first).to_be_visible()

    def type_days(self, days: str) -> None:
        """Into the dialog that asks for partitions."""
        field = self.page.get_by_role("dialog").get_by_placeholder("ex: ")
        field.fill(days)
        field.press("Enter")

    def follow_the_message(self) -> None:
        """The message that something was started, to the page of that."""
        self.click(self.page.locator("[class*=Toaster_toastInner]").get_by_text("View"))

    def scroll_to_day(self, day: str) -> Locator:
        """A day in the list of partitions, which draws only the rows near those that can be seen:
        the wheel is turned over it until the day is among them.
        """
        row = self.page.locator(f'[data-tooltip="{day}"]')
        drawn_rows = self.page.locator('[data-tooltip^="20"]')

        def is_drawn() -> bool:
            days = drawn_rows.evaluate_all("rows => rows.map(row => row.dataset.tooltip)")
            if days and day not in days:
                # The latest day comes first.
                drawn_rows.nth(len(days) // 2).hover()
                self.page.mouse.wheel(0, 300 if day < min(days) else -300)
            return day in days

        wait_until(is_drawn, pause=0.1)
        self.page.mouse.move(VIEW["width"] // 2, 2)
        return row

    def sees_statuses(self, day: str, *colours: str) -> None:
        """The dots beside a day in the list of partitions, and no others."""
        self.scroll_to_day(day)
        dots = f'[data-tooltip="{day}"] ~ div[style*="--color-accent-'
        expect(self.page.locator(f'{dots}"]')).to_have_count(len(colours))
        for colour in colours:
            expect(self.page.locator(f'{dots}{colour}"]')).to_have_count(1)

    def counts(self, asset: str) -> list[int]:
        """The numbers in the row of an asset on the page of a backfill: partitions targeted, in
        progress, succeeded, failed.
        """
        row = self.page.locator(f'a[href="/assets/{asset}"]').locator(
            "xpath=ancestor::div[contains(., 'completed')][count(./div) > 3][1]"
        )
        return [int(number) for number in re.findall(r"^\d+$", row.inner_text(), re.MULTILINE)]

    def bring_up(self, thing: Locator) -> None:
        """Scroll until it stands at the top."""
        thing.evaluate("element => element.scrollIntoView({block: 'start'})")

    def picture(self, name: str) -> Path:
        """What is on the page when it has loaded and no message lies above it."""
        expect(self.page.locator(_LOADING)).to_have_count(0)
        expect(self.page.locator("[class*=Toaster_toastInner]")).to_have_count(0)
        self.page.mouse.move(VIEW["width"] // 2, 2)
        path = self.pictures / f"ui-{name}.png"
        self.page.screenshot(path=path, animations="disabled")
        return path
