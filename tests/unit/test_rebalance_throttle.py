"""The throttle of copying: slows down when callers feel it, waits, and goes on by itself."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.leases import Telemetry
from shards.rebalance.record import Options
from shards.rebalance.throttle import RATE_FIRST, RATE_MAX, RATE_MIN, Felt, Throttle, Unwanted, felt_of
from tests.simulation.virtual_time import run

CALM, HURT = Felt(10, 0.0), Felt(200, 0.0)


class Clock:
    """A clock that goes on when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Returns the time."""
        return self.now


def throttle(clock: Clock, most: int | None = None) -> Throttle:
    """A throttle that keeps 50 ms."""
    return Throttle(Options(keep_p99_ms=50, rows_per_s_max=most), clock)


def test_calm_callers_let_it_speed_up_and_hurt_ones_slow_it_down() -> None:
    """The rate rises step by step while callers feel nothing, is halved when they do, and says why."""
    clock = Clock()
    told = throttle(clock)
    told.observe(CALM)
    assert told.rate == RATE_FIRST * 1.1
    assert "speeding up" in told.reason
    told.observe(HURT)
    assert told.rate == RATE_FIRST * 0.55
    assert "p99 200 ms" in told.reason
    assert "above 50 ms" in told.reason
    told.observe(Felt(45, 0.0))
    assert told.rate == RATE_FIRST * 0.55
    assert "near 50 ms" in told.reason


def test_it_tells_whether_callers_feel_too_much() -> None:
    """Callers feel too much from when they tell so until they tell otherwise; nobody telling is not too much."""
    told = throttle(Clock())
    assert not told.is_felt
    for felt, is_felt in ((HURT, True), (Felt(45, 0.0), False), (Felt(1, 0.5), True), (None, False)):
        told.observe(felt)
        assert told.is_felt is is_felt


def test_it_waits_and_goes_on_by_itself() -> None:
    """Callers who are hurt at the lowest rate make it wait; once they are not it begins again, slowly."""
    clock = Clock()
    told = throttle(clock)
    for _ in range(40):
        told.observe(HURT)
        clock.now += 0.5
    assert told.rate == 0
    assert "waiting" in told.reason
    clock.now += 60
    assert told.rate == RATE_MIN
    told.observe(CALM)
    assert told.rate == 2 * RATE_MIN


def test_other_options_begin_anew_and_the_same_ones_change_nothing() -> None:
    """Options that an operator has changed count at once, also for who waits; told again they change nothing."""
    clock = Clock()
    told = throttle(clock, 60)
    told.observe(HURT)
    told.follow(Options(keep_p99_ms=50, rows_per_s_max=60))
    assert told.rate == 0
    assert "waiting" in told.reason
    told.follow(Options(keep_p99_ms=500))
    assert told.rate == RATE_FIRST
    told.observe(HURT)
    assert "speeding up" in told.reason
    told.follow(Options())
    assert told.rate == RATE_MAX


def test_who_waits_for_long_is_told_what_would_go_on() -> None:
    """After half a minute of waiting the reason names a limit under which copying would go on; calm forgets it."""
    clock = Clock()
    told = throttle(clock)
    for _ in range(60):
        told.observe(HURT)
        clock.now += 1
    assert told.rate == 0
    assert "`resume --keep-p99-ms 250` goes on" in told.reason
    clock.now += 60
    told.observe(CALM)
    for _ in range(3):
        told.observe(HURT)
        clock.now += 3
    assert "waiting" in told.reason
    assert "--keep-p99-ms" not in told.reason


def test_one_bad_moment_halves_the_rate_once() -> None:
    """What workers tell covers some seconds: the same bad moment is in it again and again, and counts once."""
    clock = Clock()
    told = throttle(clock)
    for _ in range(6):
        told.observe(HURT)
        clock.now += 0.5
    assert told.rate == RATE_FIRST / 2
    assert "slowed down" in told.reason
    told.observe(HURT)
    assert told.rate == RATE_FIRST / 4


def test_a_few_operations_are_no_measure_while_others_have_many() -> None:
    """The worst worker counts, but one with hardly an operation only where all are so; failures always do."""
    many, few = Telemetry(40, 0.0, 70), Telemetry(900, 0.5, 2)
    assert felt_of([many, few]) == Felt(40, 0.5)
    assert felt_of([Telemetry(60, 0.1, 50), many]) == Felt(60, 0.1)
    assert felt_of([few, Telemetry(10, 0.0, 1)]) == Felt(900, 0.5)
    assert felt_of([]) is None


def test_errors_slow_it_down_whatever_the_latency() -> None:
    """Failing operations count without any latency to keep."""
    told = Throttle(Options(keep_p99_ms=None), Clock())
    assert told.rate == RATE_MAX
    told.observe(Felt(1, 0.5))
    assert told.rate == RATE_MAX / 2
    assert "more errors than 1.0%" in told.reason


@given(st.lists(st.sampled_from([CALM, HURT, Felt(45, 0), Felt(1, 0.2), None]), max_size=80), st.integers(1, 10_000))
def test_the_rate_stays_within_its_bounds(felt: list[Felt | None], most: int) -> None:
    """Whatever callers feel, the rate is 0 or between the lowest and what the operator allows."""
    clock = Clock()
    told = throttle(clock, most)
    for one in felt:
        told.observe(one)
        clock.now += 1
        assert told.rate == 0 or min(RATE_MIN, most) / 2 <= told.rate <= most


def test_rows_are_let_through_at_the_rate() -> None:
    """Over some seconds as many rows pass as the rate allows, in chunks of any size."""

    async def take() -> float:
        told = Throttle(Options(rows_per_s_max=1_000), asyncio.get_running_loop().time)
        began = asyncio.get_running_loop().time()
        for _ in range(40):
            await told.take(250)
        return asyncio.get_running_loop().time() - began

    assert 9.0 < run(take()) < 10.5


def test_nothing_is_let_through_nor_waits_that_is_not_wanted() -> None:
    """Whoever waits for his turn is sent away as soon as what he would copy is not wanted, and who comes then, too."""

    async def take() -> float:
        clock = asyncio.get_running_loop().time
        began = clock()
        told = Throttle(Options(rows_per_s_max=1), clock, lambda: clock() - began < 20)
        await told.take(250)  # more than comes in a minute
        with pytest.raises(Unwanted):
            await told.take(250)
        waited = clock() - began
        with pytest.raises(Unwanted):
            await told.take(0)
        return waited

    assert 20 <= run(take()) < 21
