"""Child processes of the supervisor: started in groups of their own, watched, ended together.

Each child leads its own process group, so that a Ctrl-C in the terminal reaches the supervisor
alone and it decides the order of the ends. All of them, and whatever they start, carry a mark in
their environment, by which those that outlived a killed supervisor are found.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from lb_pipelines.db.embedded import tail
from lb_pipelines.errors import RunFailed

MARK = "LB_SUPERVISED_BY"
# A run in progress writes its end into Dagster's tables; a browser holds its connection open.
_PATIENCE = 10.0


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Children:
    """All children of one supervisor, known by `mark` (its home)."""

    def __init__(self, mark: str, logs: Path) -> None:
        self.mark = mark
        self.logs = logs
        self._children: list[_Child] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a child whose output goes to `{name}.log`; the last start's log is kept."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, MARK: self.mark},
                start_new_session=True,
            )
        self._children.append(_Child(name, process, log))

    def check(self) -> None:
        """Raise `RunFailed` with the end of its log where a child has ended."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                ended = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"
                raise RunFailed(
                    f"The {child.name} {ended}; the end of {child.log}:\n{tail(child.log)}\n",
                    "Remove the cause that it names and start again",
                )

    def stop(self) -> None:
        """End all children and whatever they started: asked first, killed when they do not."""
        for child in reversed(self._children):
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(deadline - time.monotonic(), 0))
        self._kill(self.alive())
        for child in self._children:
            child.process.wait()
        self._children.clear()

    def end_leftovers(self) -> int:
        """End what a killed supervisor of the same mark left behind; how many there were."""
        found = self.alive()
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        self._kill(psutil.wait_procs(found, timeout=_PATIENCE)[1])
        return len(found)

    def alive(self) -> list[psutil.Process]:
        """Every live process that carries the mark."""
        return [process for process in psutil.process_iter() if self._is_marked(process)]

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(MARK) == self.mark
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.Error, OSError):
            return False

    def _kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=_PATIENCE)
