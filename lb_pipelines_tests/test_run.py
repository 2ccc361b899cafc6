"""`make run` as a person meets it: one command, one address, one key to stop it all.

The tests share one home and stand in the order in which a person would live through them.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from lb_pipelines.run import LOCATION
from lb_pipelines.settings import Settings
from lb_pipelines.supervisor.children import Children
from lb_pipelines.supervisor.dagster_client import DagsterClient
from lb_pipelines_tests.test_embedded import servers_in
from lb_pipelines_tests.waiting import LIMIT_SECONDS

# Daemon, schedules and sensors go by the present.
pytestmark = pytest.mark.present


class Start:
    """One `make run` without make, and what it says."""

    def __init__(self, home: Path, **environment: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LB_", "DAGSTER_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lb_pipelines.run"],
            env={**inherited, "LB_HOME": str(home), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def await_address(self) -> str:
        """The line with the address, which is the last one; fails if it ends before."""
        while (line := self._lines.get(timeout=LIMIT_SECONDS)) is not None:
            self.said.append(line)
            if line.startswith("http://"):
                return line
        raise AssertionError("it ended without an address:\n" + "\n".join(self.said))

    def await_end(self) -> int:
        """The exit code; all that was said is in `said` then."""
        code = self.process.wait(LIMIT_SECONDS)
        while (line := self._lines.get(timeout=LIMIT_SECONDS)) is not None:
            self.said.append(line)
        return code

    def press_ctrl_c(self) -> int:
        """Signal as a terminal does, which means the whole group of processes; the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.await_end()

    def terminate(self) -> int:
        """Signal as a service manager does; the exit code."""
        self.process.terminate()
        return self.await_end()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lb-run-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    Children(str(path), path).end_leftovers()
    Settings(home=path).embedded.destroy()
    shutil.rmtree(path)


def nothing_is_left(home: Path) -> bool:
    """No process of this home's, neither Dagster's nor PostgreSQL's."""
    return not Children(str(home), home).alive() and not servers_in(home)


def test_a_first_start_ends_with_boards_and_the_address(home: Path) -> None:
    start = Start(home)
    try:
        client = DagsterClient(start.await_address(), LOCATION)
        assert client.ready()
        with urllib.request.urlopen(client.address, timeout=LIMIT_SECONDS) as page:
            assert b"</html>" in page.read()
        with psycopg.connect(Settings(home=home).database_url) as connection:
            boards = connection.execute(
                "SELECT institution_id, count(DISTINCT snapshot_date)"
                " FROM lb.leaderboard_snapshots GROUP BY 1"
            ).fetchall()
            trends = connection.execute(
                "SELECT count(DISTINCT (institution_id, snapshot_date)) FROM lb.leaderboard_trends"
            ).fetchone()
            runs = connection.execute(
                "SELECT count(*) FILTER (WHERE status = 'SUCCESS'),"
                " count(*) FILTER (WHERE status IN ('FAILURE', 'CANCELED'))"
                " FROM dagster.runs WHERE pipeline_name = 'daily_leaderboards'"
            ).fetchone()
        # The schedule may by now have added the day that is over in the east alone.
        assert len(boards) == 3
        assert all(days >= 14 for _, days in boards)
        assert trends is not None
        assert trends[0] >= 42
        assert runs is not None
        assert runs[0] >= 1
        assert runs[1] == 0
    finally:
        code = start.press_ctrl_c()
    assert code == 0
    assert nothing_is_left(home)


def test_a_second_start_keeps_the_data_and_makes_no_new_runs(home: Path) -> None:
    start = Start(home)
    try:
        address = start.await_address()
        assert not [line for line in start.said if line.startswith("Boards")]
        other = Start(home)
        assert other.await_end() == 1
        assert f"It is running already: {address}" in "\n".join(other.said)
        with psycopg.connect(Settings(home=home).database_url) as connection:
            assert connection.execute(
                "SELECT count(DISTINCT snapshot_date) >= 14 FROM lb.leaderboard_snapshots"
            ).fetchone() == (True,)
    finally:
        code = start.terminate()
    assert code == 0
    assert nothing_is_left(home)


def test_after_a_kill_the_next_start_clears_up_and_a_part_that_dies_is_named(home: Path) -> None:
    start = Start(home)
    first_address = start.await_address()
    start.process.kill()
    start.await_end()
    assert not nothing_is_left(home)
    again = Start(home)
    assert again.await_address() == first_address
    assert any(line.startswith("Ended ") for line in again.said)
    daemon = [
        process
        for process in Children(str(home), home).alive()
        if "dagster._daemon" in process.cmdline()
    ]
    assert len(daemon) == 1
    daemon[0].kill()
    assert again.await_end() == 1
    assert "The daemon was killed by signal 9" in "\n".join(again.said)
    assert nothing_is_left(home)


def test_a_variable_that_cannot_be_used_is_named_before_anything_starts(tmp_path: Path) -> None:
    start = Start(tmp_path / "home", LB_START_DAY="soon")
    assert start.await_end() == 1
    assert "LB_START_DAY is 'soon'" in "\n".join(start.said)
    assert not (tmp_path / "home").exists()


def test_a_server_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://somebody:secret@127.0.0.1:1/school"
    start = Start(tmp_path / "home", LB_DATABASE_URL=url)
    assert start.await_end() == 1
    said = "\n".join(start.said)
    assert "DatabaseUnavailable" in said
    assert "127.0.0.1:1" in said
    assert "secret" not in said
