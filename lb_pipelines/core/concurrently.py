"""Several pieces of work side by side in threads, what they yield in one stream.

While one institution's rows are on their way into PostgreSQL, another's are ranked: NumPy, Arrow
and the wait for the database leave the interpreter to the other threads. Nothing here knows what
the work is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from queue import Queue
from typing import Generic, TypeVar

T = TypeVar("T")
Name = TypeVar("Name")

# Results that wait to be taken; each is a few numbers.
_WAITING = 64


@dataclass(frozen=True)
class Yielded(Generic[Name, T]):
    """One thing that a piece of work has yielded."""

    name: Name
    value: T


@dataclass(frozen=True)
class Ended(Generic[Name]):
    """A piece of work has come to its end, or to an `error`."""

    name: Name
    error: Exception | None = None


def side_by_side(
    work: Mapping[Name, Callable[[], Iterator[T]]],
    threads: int,
    weights: Mapping[Name, int] | None = None,
) -> Iterator[Yielded[Name, T] | Ended[Name]]:
    """Do all the work, so many pieces of it at a time: one thread from the heaviest on, the others
    from the lightest, so that heavy ones do not meet while there are others. Without weights, all
    in the order of the mapping.

    Of each piece everything comes in its order, `Ended` last. Whoever stops taking stops the work:
    each piece in progress is closed at its next result.
    """
    results: Queue[Yielded[Name, T] | Ended[Name] | BaseException] = Queue(_WAITING)
    weights = weights or {}
    left = deque(sorted(work, key=lambda name: -weights.get(name, 0)))
    begin = threading.Lock()
    stopped = threading.Event()

    def work_on(heaviest: bool) -> None:
        while not stopped.is_set():
            with begin:
                if not left:
                    return
                name = left.popleft() if heaviest else left.pop()
            error = None
            try:
                for value in work[name]():
                    results.put(Yielded(name, value))
                    if stopped.is_set():
                        return
            except Exception as raised:
                error = raised
            except BaseException as raised:
                # Not of this piece: whoever takes the results is to be ended by it.
                results.put(raised)
                return
            results.put(Ended(name, error))

    workers = [
        threading.Thread(
            target=work_on,
            args=(number == 0 or not weights,),
            name=f"side-by-side-{number}",
            daemon=True,
        )
        for number in range(min(threads, len(work)))
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(len(work)):
            while not isinstance(result := results.get(), Ended):
                if isinstance(result, BaseException):
                    raise result
                yield result
            yield result
    finally:
        stopped.set()
        # What is full is emptied, so that nobody waits to put a last result.
        while any(worker.is_alive() for worker in workers):
            while not results.empty():
                results.get_nowait()
            for worker in workers:
                worker.join(0.02)
