"""How far a long load has come, for whoever wants to see it.

A source calls `progress(stage, done, total)`; it knows nothing of screens. `shown` puts bars with
rates on a terminal and is silent where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.text import Text

Progress = Callable[[str, int, int | None], None]
"""Called with a stage's name, its rows done so far, and its rows in all where that is known."""


def silent(stage: str, done: int, total: int | None) -> None:
    """Show nothing."""


class _Rate(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "", style="progress.data.speed")


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """A `Progress` with one bar a stage, for as long as the block lasts."""
    bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<28}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[count]:>24}"),
        _Rate(),
        rich.progress.TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    stages: dict[str, rich.progress.TaskID] = {}

    def show(stage: str, done: int, total: int | None) -> None:
        count = f"{done:,} of {total:,}" if total is not None else f"{done:,}"
        if stage not in stages:
            stages[stage] = bars.add_task(stage, total=total, count=count)
        bars.update(stages[stage], completed=done, total=total, count=count)

    with bars:
        yield show
