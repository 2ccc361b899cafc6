"""Work side by side: everything comes, each piece in its order, and nobody is left behind."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import pytest

from lb_pipelines.core.concurrently import Ended, Yielded, side_by_side
from lb_pipelines_tests.waiting import LIMIT_SECONDS


def counting(number: int) -> Iterator[int]:
    yield from range(number)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_everything_comes_once_and_in_order(threads: int) -> None:
    work = {number: partial(counting, number * 30) for number in range(9)}
    came: dict[int, list[int]] = defaultdict(list)
    ended = []
    for done in side_by_side(work, threads):
        if isinstance(done, Yielded):
            assert done.name not in ended
            came[done.name].append(done.value)
        else:
            assert done.error is None
            ended.append(done.name)
    assert sorted(ended) == sorted(work)
    assert {number: came[number] for number in work} == {n: list(range(n * 30)) for n in work}
    assert list(side_by_side({}, threads)) == []


def test_two_are_at_work_at_once_and_no_more() -> None:
    meet, at_work, most = threading.Barrier(2), threading.Semaphore(2), []

    def meeting(number: int) -> Iterator[int]:
        assert at_work.acquire(blocking=False), "a third was at work"
        # Passed only by two together.
        meet.wait(LIMIT_SECONDS)
        yield number
        at_work.release()

    for done in side_by_side({number: partial(meeting, number) for number in range(6)}, 2):
        if isinstance(done, Ended):
            assert done.error is None
            most.append(done.name)
    assert sorted(most) == list(range(6))


@pytest.mark.parametrize("threads", [2, 3])
def test_heavy_pieces_do_not_meet(threads: int) -> None:
    meet, begun = threading.Barrier(threads), []

    def meeting(weight: int) -> Iterator[int]:
        begun.append(weight)
        # So that no thread takes two before each has one.
        meet.wait(LIMIT_SECONDS)
        yield weight

    weights = {9: 90, 1: 10, 8: 80, 7: 70, 3: 30, 2: 20}
    for done in side_by_side({name: partial(meeting, name) for name in weights}, threads, weights):
        assert not isinstance(done, Ended) or done.error is None
    assert sorted(begun[:2]) == [1, 9] if threads == 2 else sorted(begun[:3]) == [1, 2, 9]
    assert sorted(begun) == sorted(weights)


def test_a_piece_that_fails_ends_itself_alone() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    work = {"a": partial(counting, 3), "bad": failing, "c": partial(counting, 3)}
    ended = {done.name: done.error for done in side_by_side(work, 2) if isinstance(done, Ended)}
    assert str(ended.pop("bad")) == "broken"
    assert ended == {"a": None, "c": None}


def test_what_ends_a_process_ends_the_taking_too() -> None:
    def interrupted() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(side_by_side({"a": interrupted, "b": partial(counting, 1_000)}, 2))
    assert not [t for t in threading.enumerate() if t.name.startswith("side-by-side-")]


def test_who_stops_taking_stops_the_work() -> None:
    begun: list[str] = []
    closed: list[str] = []

    def endless(name: str) -> Iterator[int]:
        begun.append(name)
        number = 0
        try:
            while True:
                yield (number := number + 1)
        finally:
            closed.append(name)

    results = side_by_side({name: partial(endless, name) for name in "abcd"}, 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("side-by-side-")]
    assert sorted(closed) == sorted(begun)
    assert len(begun) <= 2
