"""The adaptive limit, against a server that is a formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission.limit import (
    BASE_S_MIN,
    CEILING,
    FLOOR,
    FLOOR_WINDOWS,
    LAG_S_MAX,
    LATE_SHARE,
    SOON_S_MAX,
    SOON_SHARE,
    START,
    TOLERANCE,
    GradientLimit,
    Track,
)


class Station:
    """A server that does so many calls a second, each of which takes so long when it is alone.

    As much is offered as the limit lets in (a closed queue: Little's law), or as is said.
    """

    def __init__(self, limit: GradientLimit, rate: float, alone_s: float) -> None:
        self.limit = limit
        self.rate = rate
        self.alone_s = alone_s
        self.track: Track = limit.track()

    def window(self, offered: int = 1_000_000) -> None:
        """One window of 0.1 s."""
        served = min(offered, self.limit.limit)
        call_s = max(self.alone_s, served / self.rate)
        self.track.count += max(1, round(0.1 * served / call_s))
        self.track.sum_s += self.track.count * call_s
        self.limit.close_window(served)

    def windows(self, count: int, offered: int = 1_000_000) -> None:
        """So many of them."""
        for _ in range(count):
            self.window(offered)


@given(
    rate=st.floats(50, 50_000),
    alone_s=st.floats(0.0005, 0.2),
    tolerance=st.floats(1.0, 4.0),
)
def test_it_settles(rate: float, alone_s: float, tolerance: float) -> None:
    """Under full load the limit comes to rest where calls take about as many times their base as is tolerated."""
    limit = GradientLimit(tolerance=tolerance)
    station = Station(limit, rate, alone_s)
    station.windows(20, offered=4)
    station.windows(600)
    settled = limit.limit
    seen = []
    for _ in range(50):
        station.window()
        seen.append(limit.limit)
    assert max(seen) - min(seen) <= max(2, 0.1 * settled)
    knee = rate * max(alone_s, BASE_S_MIN)  # what is served at once where a queue begins
    if knee > CEILING:
        assert settled == CEILING
    else:
        assert settled <= max(FLOOR, knee) * tolerance * 1.3 + 2 * FLOOR**0.5 + 10


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 500), st.integers(0, 2000), st.floats(0, 5)), max_size=60))
def test_it_stays_within_its_bounds(windows: list[tuple[float, int, int, float]]) -> None:
    """Whatever is measured, the limit is never below its floor and never above its ceiling."""
    limit = GradientLimit(floor=5, ceiling=300)
    track = limit.track()
    for sum_s, count, peak, lag_s in windows:
        track.sum_s, track.count = sum_s, count
        limit.lagged(lag_s)
        limit.close_window(peak)
        assert 5 <= limit.limit <= 300


@pytest.mark.parametrize("slower", [3.0, 20.0])
def test_it_recovers_after_a_step(slower: float) -> None:
    """A store that becomes slow for good, and one that becomes quick again, both end with a limit that fits them."""
    limit = GradientLimit()
    station = Station(limit, rate=20_000, alone_s=0.01)  # knee at 200
    station.windows(20, offered=4)
    station.windows(300)
    before = limit.limit
    assert before > 200
    station.rate, station.alone_s = station.rate / slower, station.alone_s * slower
    station.windows(300)
    assert limit.limit >= FLOOR
    assert limit.limit / station.rate <= 6 * station.alone_s  # no endless queue in the meantime
    station.rate, station.alone_s = station.rate * slower, station.alone_s / slower
    station.windows(300)
    assert limit.limit >= 0.8 * before


def test_the_floor_is_remeasured() -> None:
    """A busy worker that stays at the floor takes the latency there for the base, and so leaves the floor again."""
    limit = GradientLimit(floor=10)
    station = Station(limit, rate=25, alone_s=0.001)
    station.windows(20, offered=1)
    assert station.track.base_s == pytest.approx(0.04)
    station.windows(FLOOR_WINDOWS + 100)
    assert limit.limit > 10
    assert station.track.base_s >= 0.39


def test_an_idle_worker_learns_nothing_about_its_limit() -> None:
    """Calls that come one by one neither raise nor lower the limit, however long they take."""
    limit = GradientLimit()
    station = Station(limit, rate=20_000, alone_s=0.01)
    station.windows(300)
    settled = limit.limit
    for alone_s in (0.001, 1.0, 0.01):
        station.alone_s = alone_s
        station.windows(100, offered=3)
        assert limit.limit == settled


def test_a_late_event_loop_lowers_the_limit() -> None:
    """A loop that is late by more than is allowed counts as latency, though no call was slow."""
    calm, late = GradientLimit(), GradientLimit()
    for limit in (calm, late):
        station = Station(limit, rate=1e6, alone_s=0.01)
        station.windows(300)
        for _ in range(20):
            if limit is late:
                limit.lagged(4 * LAG_S_MAX)
            station.window()
    assert late.limit < calm.limit / 2


@given(st.floats(0.01, 60.0), st.floats(0.001, 10.0))
def test_what_is_done_soon_enough_is_not_slow(left_s: float, call_s: float) -> None:
    """Callers' time decides beside the base: well within it the limit does not shrink, beyond half of it it does."""
    limit = GradientLimit()
    track = limit.track()
    for seconds in (*[0.001] * 50, *[call_s] * 50):  # quick in calm, then as said
        is_calm = seconds != call_s
        track.count, track.sum_s = 100, 100 * seconds
        limit.close_window(1 if is_calm else limit.limit, left_s)
    if call_s <= max(TOLERANCE * BASE_S_MIN, min(SOON_S_MAX, SOON_SHARE * left_s)):
        assert limit.limit == CEILING
    elif call_s > 1.2 * max(TOLERANCE * BASE_S_MIN, SOON_S_MAX, LATE_SHARE * left_s):
        assert limit.limit < START


def test_it_shrinks_once_in_the_time_that_calls_take() -> None:
    """What ends within the time of a call after a step down was begun before it, and takes nothing away again."""
    limit = GradientLimit()
    track = limit.track()
    seen = []
    for _ in range(9):
        track.count, track.sum_s = 100, 100 * 0.75
        limit.close_window(limit.limit, 0.8, length_s=0.125)
        seen.append(limit.limit)
    shrank = [window for window, after in enumerate(seen) if after < (START, *seen)[window]]
    assert shrank == [0, 4, 8]  # half a second lies between, the most that it waits
    track.count, track.sum_s = 100, 100 * 0.01
    limit.close_window(limit.limit, 0.8, length_s=0.125)
    assert limit.limit > seen[-1]  # growing waits for nothing


def test_methods_are_compared_with_themselves() -> None:
    """A change of the mix from quick calls to slow ones is no congestion."""
    limit = GradientLimit()
    quick, slow = limit.track(), limit.track()
    for share in (*[0.9] * 200, *[0.1] * 200):
        for track, part, alone_s in ((quick, share, 0.001), (slow, 1 - share, 0.05)):
            track.count = round(100 * part)
            track.sum_s = track.count * alone_s
        limit.close_window(limit.limit)
    assert limit.limit == CEILING
