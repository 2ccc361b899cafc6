"""What `make run` starts: everything on this machine, from an empty directory to the UI.

A supervisor. It brings up the database, the schema, data where there is none, Dagster's code
server, webserver and daemon, and has the last days materialized by runs of Dagster's own; then it
watches. When it is told to stop (Ctrl-C, SIGTERM, a closed terminal), or one of its parts ends,
it stops all it has started, in the opposite order. Every step finds what an earlier start has
done, so that the second start takes seconds and one that was killed goes on where it was.

What the steps are made of lies in the package `supervisor`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.db import migrate
from lb_pipelines.db.embedded import private_directory
from lb_pipelines.db.engine import Database
from lb_pipelines.errors import LeaderboardError, RunFailed
from lb_pipelines.settings import DAGSTER_SCHEMA, Settings, dagster_storage_url
from lb_pipelines.supervisor.children import Children
from lb_pipelines.supervisor.dagster_client import FINISHED, DagsterClient
from lb_pipelines.supervisor.demo import DAYS_SHOWN, Demo

LOCATION = "lb_pipelines"

_PROJECT = Path(__file__).resolve().parents[1]
_START_SECONDS = 900.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    """A signal asked for the end."""


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop. The exit code is 0 then, and 1 after a `LeaderboardError`."""
    parser = argparse.ArgumentParser(prog="make run", description="Start everything.")
    parser.add_argument(
        "--oulad", type=Path, metavar="DIR", help="import the Open University's data from DIR"
    )
    parser.add_argument(
        "--destroy", action="store_true", help="delete the embedded server and its data instead"
    )
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        for number in _SIGNALS:
            signal.signal(number, _stop)
        settings = Settings.from_env()
        if options.destroy:
            settings.embedded.destroy()
        else:
            _supervise(settings, console, options.oulad)
    except _Stopped:
        return 0
    except LeaderboardError as error:
        console.print(f"\n{type(error).__name__}: {error.thing}", markup=False, style="red")
        console.print(error.remedy, markup=False, style="bold")
        return 1
    return 0


def _supervise(settings: Settings, console: Console, oulad: Path | None) -> None:
    with ExitStack() as stack:
        supervisor = Supervisor(settings, console, stack)
        try:
            supervisor.bring_up(oulad)
            supervisor.watch()
        finally:
            # From here on an impatient second Ctrl-C must not leave half of it running.
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            console.print("\nStopping everything ...")
            stack.close()
            console.print("Stopped. The data stays.")


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


class Supervisor:
    """One start of everything; what has to be undone at its end is put on `stack`."""

    def __init__(
        self, settings: Settings, console: Console, stack: ExitStack, now: Clock = utc_now
    ) -> None:
        self.settings = settings
        self.home = settings.home
        self.console = console
        self.stack = stack
        self.now = now
        self.children = Children(str(self.home), self.home / "logs")
        self.dagster_home = self.home / "dagster"
        self.environment: dict[str, str] = {}

    def bring_up(self, oulad: Path | None) -> None:
        """Start every part, and print the UI's address last."""
        self._claim_home()
        with self._step("Database") as say:
            database = self._start_database()
            embedded = f"embedded in {self.settings.embedded.directory}"
            where = "at LB_DATABASE_URL" if self.settings.external_url else embedded
            say(f"PostgreSQL {database.check_server()}, {where}")
        code_server = self._start_code_server()
        with self._step("Schema") as say:
            migrate.upgrade(database)
            with database.transaction() as connection:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
            say("up to date")
        demo = Demo(database, self.home / "demo.json")
        with self._step("Data", moves=True) as say:
            invent = self.settings.external_url is None
            say(
                demo.bring(
                    oulad_directory=oulad, invent=invent, now=self.now(), console=self.console
                )
            )
        with self._step("Dagster") as say:
            self._wait("code server", lambda: _accepts(code_server))
            client = self._start_webserver()
            asked, retried = self._fill_queue(database, demo, client, code_server)
            again = f"; {retried} interrupted runs will be tried again" if retried else ""
            say(f"code server and webserver{again}")
        # After the queue is filled, so that the schedules see what is already on its way.
        self._start("daemon", "dagster._daemon", "run", "--workspace", self._workspace)
        if asked:
            with self._step("Boards") as say:
                say(self._await_runs(client, asked))
        self.console.print("\nThe UI is up. Ctrl-C stops everything.")
        self._note_address(client.address)
        self.console.print(client.address, style="bold", markup=False)

    def watch(self) -> None:
        """Stay until a signal comes (`_Stopped`) or a part ends (`RunFailed`)."""
        while True:
            self.children.check()
            time.sleep(0.5)

    # The parts.

    def _claim_home(self) -> None:
        """One supervisor a home; ends what one that was killed has left."""
        self.home.mkdir(parents=True, exist_ok=True)
        lock = self.stack.enter_context((self.home / "run.lock").open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RunFailed(
                f"It is running already: {lock.read().strip() or 'still starting'}",
                "Use that one, or stop it (Ctrl-C) and start again",
            ) from None
        self._lock = lock
        self._note_address("")
        self.stack.callback(self._note_address, "")
        leftovers = self.children.end_leftovers()
        if leftovers:
            self.console.print(f"Ended {leftovers} processes of a start that was killed.")

    def _note_address(self, address: str) -> None:
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(address)
        self._lock.flush()

    def _start_database(self) -> Database:
        url = self.stack.enter_context(self.settings.server())
        database = Database(url)
        self.stack.callback(database.close)
        # On the stack after the server: children end while they can still write how they ended.
        self.stack.callback(self.children.stop)
        self.dagster_home.mkdir(exist_ok=True)
        shutil.copyfile(_PROJECT / "dagster.yaml", self.dagster_home / "dagster.yaml")
        added = {
            "LB_DATABASE_URL": url,
            "LB_DAGSTER_DATABASE_URL": dagster_storage_url(url),
            "LB_HOME": str(self.home),
            "DAGSTER_HOME": str(self.dagster_home),
        }
        os.environ.update(added)  # For the moments in which this process is Dagster's client.
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        return database

    def _start_code_server(self) -> str:
        """One process has the definitions loaded, for webserver and daemon alike."""
        # The same place at every start of this home on this machine, and short enough.
        mark = hashlib.sha256(f"{platform.node()}:{self.home}".encode()).hexdigest()[:12]
        directory = Path("/tmp") / f"lb_pipelines-dagster-{mark}"
        private_directory(directory)
        self.stack.callback(shutil.rmtree, directory, ignore_errors=True)
        address = directory / "code"
        address.unlink(missing_ok=True)
        server = {"grpc_server": {"socket": str(address), "location_name": LOCATION}}
        # JSON is YAML.
        Path(self._workspace).write_text(json.dumps({"load_from": [server]}))
        self._start(
            "code-server", "dagster", "api", "grpc", "--socket", str(address),
            "--module-name", "lb_pipelines.definitions", "--location-name", LOCATION,
            "--log-level", "warning",
        )  # fmt: skip
        return str(address)

    def _start_webserver(self) -> DagsterClient:
        host, port = self.settings.ui_host, self._free_port()
        self._start(
            "webserver", "dagster_webserver", "--workspace", self._workspace,
            "--host", host, "--port", str(port),
        )  # fmt: skip
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        client = DagsterClient(f"http://{shown}:{port}", LOCATION)
        self._wait("webserver", client.ready)
        return client

    def _fill_queue(
        self, database: Database, demo: Demo, client: DagsterClient, code_server: str
    ) -> tuple[list[str], int]:
        """Runs launched for days without boards, and how many runs an earlier end interrupted."""
        now = self.now()
        at_work = client.at_work()
        missing = demo.missing(now) if demo else {}
        if not at_work and not missing:
            return [], 0
        from lb_pipelines.supervisor import backlog

        lost = backlog.fail_lost_runs(self.dagster_home, at_work, code_server)
        launched = backlog.launch_missing(
            self.dagster_home, database, missing, client.launch, now, retried=lost
        )
        return launched, len(lost)

    @property
    def _workspace(self) -> str:
        return str(self.dagster_home / "workspace.yaml")

    def _start(self, name: str, module: str, *arguments: str) -> None:
        self.children.start(name, [sys.executable, "-m", module, *arguments], self.environment)

    def _free_port(self) -> int:
        first = self.settings.ui_port
        for port in range(first, min(first + 100, 65_536)):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.settings.ui_host, port))
                except OSError:
                    continue
                return port
        raise RunFailed(
            f"No port from {first} on is free at {self.settings.ui_host}",
            "Set LB_UI_PORT to a free one, or LB_UI_HOST to an address of this machine",
        )

    # Waiting and telling.

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            self.children.check()
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"The {name} was not ready after {_START_SECONDS:.0f} s",
                    f"See the logs in {self.children.logs}, and start again",
                )
            time.sleep(0.05)

    def _await_runs(self, client: DagsterClient, run_ids: list[str]) -> str:
        """Wait until these runs have ended; in words, how."""
        while True:
            self.children.check()
            statuses = client.statuses(run_ids)
            if all(statuses.get(run_id) in FINISHED for run_id in run_ids):
                break
            time.sleep(0.5)
        bad = [run_id for run_id in run_ids if statuses[run_id] != "SUCCESS"]
        for run_id in bad:
            self.console.print(
                f"A run ended with {statuses[run_id]}: {client.address}/runs/{run_id}",
                style="red",
                markup=False,
            )
        good = len(run_ids) - len(bad)
        return f"the last {DAYS_SHOWN} days, by Dagster in {len(run_ids)} run(s), {good} good"

    @contextmanager
    def _step(self, name: str, *, moves: bool = False) -> Iterator[Callable[[str], None]]:
        """A line of progress: what was done and how long it took; `moves` shows bars of its own."""
        began = time.monotonic()
        said: list[str] = []
        if self.console.is_terminal and not moves:
            with self.console.status(f"{name} ..."):
                yield said.append
        else:
            yield said.append
        seconds = time.monotonic() - began
        self.console.print(f"{name:<10}{said[-1]}  ({seconds:.1f} s)", markup=False)


def _accepts(address: str) -> bool:
    """Whether something accepts connections at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())
