"""Run the tests that ask for the present on days on which such tests go wrong: `make test-dates`.

A test that asks for the present carries the marker `present`. On every one of `DATES` they run in a
pytest of their own, which has a moved clock from its first moment, as have all processes that it
starts: PostgreSQL, Dagster's daemon and webserver, runs. What moves it is Debian's libfaketime:

- by an offset, not to an instant, so that processes agree whenever they started;
- without the monotonic clock, by which waits are measured (but see `moved_clock/sitecustomize`);
- without the times of files, or every bytecode cache would be out of date on every date.

Where tests start whole products or fill large histories (`COSTLY`), a date costs minutes: they run
on the few dates that say so.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lb_pipelines.clock import utc_now

PROJECT = Path(__file__).resolve().parents[1]
PRESENT = "LB_TEST_PRESENT"
"""The environment variable that says which instant the moved clock began with."""

_LIBRARY = "faketime/libfaketimeMT.so.1"
_LIBRARIES = ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")

TESTS = PROJECT / "lb_pipelines_tests"
COSTLY = ("browser_story", "operations_history", "orchestration_daemon", "run", "staleness")
"""Files of tests (`test_....py`) that run only on the dates that name them."""


@dataclass(frozen=True)
class Date:
    """An instant (UTC) at which the clock begins, what is special about it, and the system's zone.

    `costly` are those of `COSTLY` that run then, in a pytest of their own.
    """

    begins: str
    why: str
    zone: str = "UTC"
    costly: tuple[str, ...] = ()

    @property
    def instant(self) -> datetime:
        """When the clock begins."""
        return datetime.fromisoformat(self.begins).replace(tzinfo=UTC)


# The costly ones first: they take longest. Some begin so shortly before a midnight or a change
# of the clocks that it comes while the tests run.
DATES = (
    Date("2026-11-30T12:00:00", "the 30th", costly=("browser_story",)),
    Date("2028-02-29T12:00:00", "leap day", costly=("orchestration_daemon",)),
    Date(
        "2026-12-31T23:59:30",
        "New Year's Eve to New Year, in ISO week 53",
        costly=("run",),
    ),
    Date("2026-11-01T05:59:30", "the 1st; New York's clocks go back", "America/New_York"),
    Date("2027-01-29T12:00:00", "the 29th, no such day in the next month"),
    Date("2027-03-31T12:00:00", "the 31st, after a month of 28 days", costly=("staleness",)),
    Date("2027-08-31T12:00:00", "the 31st, after a month of 31 days", "Pacific/Kiritimati"),
    Date("2027-02-28T23:59:30", "the end of February, no leap year"),
    Date("2028-02-28T23:59:30", "the 28th of February to leap day"),
    Date("2027-01-03T12:00:00", "Sunday, the last day of ISO week 53 of the year before"),
    Date("2027-01-04T00:00:00", "Monday of ISO week 1"),
    Date("2027-03-14T06:59:30", "New York's clocks go forward", "America/New_York"),
    Date(
        "2027-03-28T00:59:30",
        "Europe's clocks go forward",
        "Europe/Berlin",
        ("operations_history",),
    ),
    Date("2026-10-25T00:59:30", "Europe's clocks go back", "Europe/Berlin"),
)


@dataclass(frozen=True)
class _Session:
    """One pytest on one date."""

    date: Date
    selection: tuple[str, ...]
    what: str

    def run(self, library: Path, options: Sequence[str]) -> tuple[int, str, float]:
        """Exit code, all output, seconds."""
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *self.selection]
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [*command, *options],
                cwd=PROJECT,
                env=moved_environment(self.date, library),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            output.seek(0)
            return done.returncode, output.read(), time.monotonic() - began


def moved_environment(date: Date, library: Path) -> dict[str, str]:
    """Return the environment of a process whose clock, from now on, goes on from `date`."""
    offset = round((date.instant - utc_now()).total_seconds())
    paths = [str(Path(__file__).parent / "moved_clock"), str(PROJECT)]
    return {
        **os.environ,
        PRESENT: date.instant.isoformat(),
        "TZ": date.zone,
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def find_library() -> Path | None:
    """Return libfaketime's library for programs with threads; None where it is not installed."""
    for pattern in _LIBRARIES:
        for found in Path("/").glob(f"{pattern[1:]}/{_LIBRARY}"):
            return found
    return None


def _sessions(dates: Sequence[Date]) -> Iterator[_Session]:
    for date in dates:
        if date.costly:
            files = (str(TESTS / f"test_{name}.py") for name in date.costly)
            yield _Session(date, ("-m", "present", *files), f" ({', '.join(date.costly)})")
    # To collect a file takes time too: none without the marker.
    others = [
        str(path)
        for path in sorted(TESTS.glob("test_*.py"))
        if path.stem.removeprefix("test_") not in COSTLY and "mark.present" in path.read_text()
    ]
    for date in dates:
        yield _Session(date, ("-m", "present", *others), "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sessions, some at a time; 0 where every one of them passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--date", action="append", metavar="DAY", help="of DATES, these alone")
    parser.add_argument("--processes", type=int, default=2, help="sessions at a time")
    parser.add_argument("--light", action="store_true", help="without the files that take long")
    parser.add_argument("--list", action="store_true", help="say which dates there are")
    options, rest = parser.parse_known_args(arguments)
    dates = [date for date in DATES if not options.date or date.begins[:10] in options.date]
    if options.list:
        for date in dates:
            print(f"{date.begins}Z  {date.why}")  # noqa: T201
        return 0
    library = find_library()
    if library is None:
        sys.exit("libfaketime is not installed: apt-get install libfaketime")
    if not dates:
        sys.exit("There is no such date; --list says which there are")
    sessions = [s for s in _sessions(dates) if not (options.light and s.what)]
    failed = 0
    with ThreadPoolExecutor(options.processes) as pool:
        done = pool.map(lambda session: session.run(library, rest), sessions)
        for session, (code, output, seconds) in zip(sessions, done, strict=True):
            if code:
                failed += 1
                print(output)  # noqa: T201
            counts = re.findall(r"^=*\s*(\d+ \w+.*) in ", output, re.MULTILINE) or ["no tests"]
            print(  # noqa: T201
                f"{session.date.begins}Z {session.date.why}{session.what}:"
                f" {counts[-1]} ({seconds:.0f} s, exit code {code})",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
