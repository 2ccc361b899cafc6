"""What measurements share: the server, the machine's line, time and memory, tables.

What is measured lives in the scripts beside; nothing here knows a board.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import psutil

from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import Database

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_SAMPLES_A_SECOND = 20


def add_database_options(parser: argparse.ArgumentParser) -> None:
    """`--url` or `--data`: which database."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="a database of yours; an empty one where something is built")
    where.add_argument(
        "--data",
        type=Path,
        help="a directory for a server of the benchmarks' own, set up as `make run` does",
    )


@contextmanager
def database_of(options: argparse.Namespace) -> Iterator[Database]:
    """The database that the options name; its server runs as long as the block."""
    if options.url:
        database = Database(options.url)
        try:
            yield database
        finally:
            database.close()
        return
    with EmbeddedServer(options.data) as url:
        database = Database(url)
        try:
            yield database
        finally:
            database.close()


def machine(database: Database) -> dict[str, Any]:
    """Cores, memory, versions, the server's settings that matter, and the load before."""
    with database.transaction() as connection:
        version = connection.info.server_version
        settings = dict(
            connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name IN"
                " ('shared_buffers', 'fsync', 'synchronous_commit', 'wal_level', 'work_mem',"
                " 'full_page_writes', 'wal_compression', 'max_wal_size')"
            ).fetchall()
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "postgresql": f"{version // 10_000}.{version % 10_000}",
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "server": settings,
        "load_before": round(os.getloadavg()[0], 2),
        "commit": commit,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """The same for people."""
    server = facts["server"]
    return (
        f"{facts['cores']} cores, {facts['memory_gb']:.0f} GB, PostgreSQL {facts['postgresql']}"
        f" (shared_buffers {server['shared_buffers']}, fsync {server['fsync']}, synchronous_commit"
        f" {server['synchronous_commit']}), Python {facts['python']}, NumPy {facts['numpy']},"
        f" load before {facts['load_before']}, commit {facts['commit']}, {facts['at'][:10]}"
    )


def own_peak_mb() -> float:
    """Peak resident memory of this process in MB.

    VmHWM, because `ru_maxrss` of a child begins with what its parent had.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


class ServerMemory:
    """Peak private memory of all processes of a database's server while the block runs, in MB.

    Shared buffers do not count. None where the server is not on this machine.
    """

    def __init__(self, database: Database) -> None:
        self.peak_mb: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        with database.transaction() as connection:
            backend = connection.info.backend_pid
        self._server: psutil.Process | None = None
        with suppress(psutil.Error):
            parent = psutil.Process(backend).parent()
            self._server = parent if parent and parent.name() == "postgres" else None

    def __enter__(self) -> ServerMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._server and not self._over.wait(1 / _SAMPLES_A_SECOND):
            with suppress(psutil.Error):
                pids = [process.pid for process in self._server.children()]
                self.peak_mb = max(self.peak_mb or 0, sum(map(_private_kb, pids)) / 1024)


def _private_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))


def in_a_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments`, and give the JSON of its last line.

    Whatever it measures of its memory is then its own.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


class Stopwatch:
    """Seconds by part, in order; `mark` ends a part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._began = self._last = time.perf_counter()

    def mark(self, part: str) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.parts[part] = self.parts.get(part, 0.0) + seconds
        return seconds

    @property
    def total(self) -> float:
        return self._last - self._began


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, aligned for the terminal too."""
    print("\n".join(markdown(header, rows)))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(
        "-" * (width + 1) + ("-" if at == 0 else ":") for at, width in enumerate(widths)
    )
    return [line(header), rule + "|", *(line(row) for row in rows)]


def save(name: str, result: dict[str, Any]) -> Path:
    """Keep a result for the report."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=False) + "\n")
    return path


def load(name: str) -> dict[str, Any]:
    """A result that was kept; empty where there is none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found
