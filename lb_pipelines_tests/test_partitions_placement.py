"""The plan of who is dedicated: pure, so every rule is held over many made-up districts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_pipelines.core.words import BoardType
from lb_pipelines.db.partitions.names import (
    LEAVES_PER_MONTH,
    SHARED,
    Root,
    board_leaves,
    branch,
    event_leaf,
    month_of,
    months_between,
    owner_of,
    top,
)
from lb_pipelines.db.partitions.placement import (
    EXCHANGE_RATIO,
    HEADROOM_MONTHS,
    Direction,
    Holding,
    Move,
    plan_placement,
)
from lb_pipelines.errors import InvalidPartition

MONTHS = [date(2023, month, 1) for month in range(1, 13)]
COMING = MONTHS[-2:]

ids = st.text("abcxyz_-019AZ", min_size=1, max_size=40).filter(
    lambda id: id != SHARED and not id.startswith("archive_")
)


@st.composite
def districts(draw: st.DrawFn) -> tuple[list[Holding], int, frozenset[date]]:
    """Holdings, a budget that may be too small, and the months of the shared subtree."""
    holdings = draw(
        st.lists(
            st.builds(
                Holding,
                institution_id=ids,
                size=st.integers(0, 50),
                dedicated=st.booleans(),
                months=st.frozensets(st.sampled_from(MONTHS), max_size=5),
                active=st.booleans(),
            ),
            max_size=7,
            unique_by=lambda h: h.institution_id,
        )
    )
    in_shared = frozenset(m for h in holdings if not h.dedicated for m in h.months)
    extra = draw(st.frozensets(st.sampled_from(MONTHS), max_size=2))
    return holdings, draw(st.integers(0, 400)), in_shared | extra


def after(
    holdings: Iterable[Holding], moves: list[Move], shared_months: frozenset[date]
) -> tuple[list[Holding], frozenset[date]]:
    """The district once the moves are done and the coming months are made."""
    directions = {move.institution_id: move.direction for move in moves}
    done, shared = [], set(shared_months)
    for holding in holdings:
        direction = directions.get(holding.institution_id)
        dedicated = holding.dedicated if direction is None else direction is Direction.PROMOTE
        months = holding.months
        if holding.active and dedicated:
            months |= frozenset(COMING)
        if holding.active and not dedicated:
            shared |= set(COMING)
        if not dedicated:
            shared |= months
        done.append(replace(holding, dedicated=dedicated, months=months))
    return done, frozenset(shared)


def leaves(holdings: Iterable[Holding], shared_months: frozenset[date]) -> int:
    own = sum(len(h.months) for h in holdings if h.dedicated)
    return LEAVES_PER_MONTH * (own + len(shared_months))


@given(districts())
def test_the_budget_is_kept_or_nobody_is_dedicated(
    district: tuple[list[Holding], int, frozenset[date]],
) -> None:
    holdings, budget, shared = district
    moves = plan_placement(holdings, budget, coming=COMING, shared_months=shared)
    done, shared_after = after(holdings, moves, shared)
    assert leaves(done, shared_after) <= budget or not any(h.dedicated for h in done)
    if moves:
        assert moves[-1].leaves_after == leaves(done, shared_after)


@given(districts())
def test_planning_again_after_the_moves_gives_none(
    district: tuple[list[Holding], int, frozenset[date]],
) -> None:
    holdings, budget, shared = district
    moves = plan_placement(holdings, budget, coming=COMING, shared_months=shared)
    done, shared_after = after(holdings, moves, shared)
    assert plan_placement(done, budget, coming=COMING, shared_months=shared_after) == []


@given(districts(), st.randoms())
def test_the_order_of_institutions_does_not_matter(
    district: tuple[list[Holding], int, frozenset[date]], random: object
) -> None:
    holdings, budget, shared = district
    moves = plan_placement(holdings, budget, coming=COMING, shared_months=shared)
    shuffled = holdings.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_placement(shuffled, budget, coming=COMING, shared_months=shared) == moves


@given(districts())
def test_each_institution_moves_at_most_once_and_demotions_come_first(
    district: tuple[list[Holding], int, frozenset[date]],
) -> None:
    holdings, budget, shared = district
    moves = plan_placement(holdings, budget, coming=COMING, shared_months=shared)
    was_dedicated = {h.institution_id: h.dedicated for h in holdings}
    assert len({move.institution_id for move in moves}) == len(moves)
    for move in moves:
        assert was_dedicated[move.institution_id] is (move.direction is Direction.DEMOTE)
    assert moves == sorted(moves, key=lambda move: move.direction is Direction.PROMOTE)


def held(id: str, size: int, months: int = 3) -> Holding:
    return Holding(id, size, dedicated=True, months=frozenset(MONTHS[:months]))


def shared(id: str, size: int, months: int = 3) -> Holding:
    return replace(held(id, size, months), dedicated=False)


def test_over_the_budget_the_smallest_leave_until_it_is_kept() -> None:
    holdings = [held("large", 30), held("middle", 20), held("small", 10)]
    # 54 leaves; the shared subtree needs 18 for the first that comes, so one alone gains nothing.
    moves = plan_placement(holdings, 53)
    assert [(m.direction, m.institution_id) for m in moves] == [
        (Direction.DEMOTE, "small"),
        (Direction.DEMOTE, "middle"),
    ]
    assert [m.leaves_after for m in moves] == [54, 36]
    assert plan_placement(holdings, 54) == []


def test_a_newcomer_is_dedicated_while_the_coming_months_fit() -> None:
    newcomer = Holding("new", 5, dedicated=False)
    assert [m.institution_id for m in plan_placement([newcomer], 12, coming=COMING)] == ["new"]
    assert plan_placement([newcomer], 11, coming=COMING) == []


def test_rows_leave_shared_only_with_headroom() -> None:
    district = [shared("a", 10)]
    months = frozenset(MONTHS[:3])
    enough = LEAVES_PER_MONTH * (3 + 3 + HEADROOM_MONTHS)
    assert plan_placement(district, enough - 1, shared_months=months) == []
    moves = plan_placement(district, enough, shared_months=months)
    assert [m.direction for m in moves] == [Direction.PROMOTE]


def test_an_institution_takes_the_place_of_one_not_half_its_size() -> None:
    months = frozenset(MONTHS[:3])
    budget = LEAVES_PER_MONTH * 6
    same = plan_placement(
        [held("a", 10), shared("b", 10 * EXCHANGE_RATIO)], budget, shared_months=months
    )
    assert same == []
    moves = plan_placement(
        [held("a", 10), shared("b", 10 * EXCHANGE_RATIO + 1)], budget, shared_months=months
    )
    assert [str(m).split(" (")[0] for m in moves] == ["demote a", "promote b"]


def test_inactive_institutions_stay_where_they_are_while_the_budget_lasts() -> None:
    asleep = replace(shared("asleep", 100), active=False)
    assert plan_placement([asleep], 3_000, shared_months=frozenset(MONTHS[:3])) == []


@given(st.lists(ids, min_size=2, max_size=6, unique=True))
def test_no_two_names_meet(institution_ids: list[str]) -> None:
    owners = [*institution_ids, SHARED]
    months = months_between(date(2023, 7, 1), date(2023, 9, 30))
    names = [leaf.name for owner in owners for leaf in board_leaves(owner, months)]
    names += [top(owner, root) for owner in owners for root in Root]
    names += [branch(owner, type, root) for owner in owners for type in BoardType for root in Root]
    names += [event_leaf(month).name for month in months]
    assert len(set(names)) == len(names)
    assert max(len(name.encode()) for name in names) <= 63


@given(ids, st.sampled_from(MONTHS))
def test_owner_and_month_can_be_read_off_the_names(institution_id: str, month: date) -> None:
    for root in Root:
        assert owner_of(top(institution_id, root)) == institution_id
    for leaf in board_leaves(institution_id, [month]):
        assert month_of(leaf.name) == month


def test_the_longest_names_just_fit() -> None:
    longest = max(len(leaf.name) for leaf in board_leaves("x" * 40, MONTHS))
    assert longest == 63


def test_months_that_run_backwards_are_refused() -> None:
    with pytest.raises(InvalidPartition, match="backwards"):
        months_between(date(2023, 8, 1), date(2023, 7, 31))
    assert months_between(date(2023, 12, 31), date(2024, 1, 1)) == [
        date(2023, 12, 1),
        date(2024, 1, 1),
    ]
