"""Rates of callers: the cell rate algorithm, and workers that share a count which may be away."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from server.admission import rates as module
from server.admission.rates import CALLERS_MAX, REST_S, Ask, Grant, RateLimit, Rates

LIMITS = st.builds(RateLimit, st.floats(0.5, 2000), st.integers(1, 500))


@given(LIMITS, st.lists(st.floats(0, 3), max_size=80))
def test_no_stretch_of_time_holds_more_than_its_share(limit: RateLimit, gaps: list[float]) -> None:
    """Between any two calls that were let in lie as many as rate and burst allow, and no more."""
    now, due, let_in = 1000.0, 0.0, []
    for gap in gaps:
        now += gap / limit.per_second
        due, retry_s = limit.take(due, now, 1)
        if not retry_s:
            let_in.append(now)
    for first, start in enumerate(let_in):
        for last in range(first, len(let_in)):
            allowed = (let_in[last] - start) * limit.per_second + limit.burst
            assert last - first + 1 <= allowed + 1e-6 * len(let_in)


@given(LIMITS, st.integers(1, 40))
def test_who_waits_as_long_as_told_is_let_in(limit: RateLimit, cells: int) -> None:
    """A refusal says after how long there is room, and then there is; before that there is none."""
    now, due = 5.0, 0.0
    while True:
        due, retry_s = limit.take(due, now, cells)
        if retry_s:
            break
    assert limit.take(due, now + retry_s * 0.99, cells)[1] > 0
    assert limit.take(due, now + retry_s * 1.000001 + 1e-6, cells)[1] == 0


class Shared:
    """The shared count, which answers after a while or not at all."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.is_away = False
        self.due = 0.0
        self.asks: deque[tuple[Rates, Ask]] = deque()

    def worker(self, workers: int) -> Rates:
        """A worker's rates over this count."""
        rates = Rates(self.limit, workers, lambda ask: self.asks.append((rates, ask)))
        return rates

    def answer(self, now: float) -> None:
        """Answers all that is asked, as rates.lua does."""
        while self.asks:
            rates, ask = self.asks.popleft()
            if self.is_away:
                rates.answered(ask, None, now)
                continue
            interval_s = self.limit.interval_s
            due = max(self.due, now) + ask.spent * interval_s
            room = int((now + self.limit.burst * interval_s - due) / interval_s + 1e-9)
            cells = max(0, min(ask.wanted, room))
            self.due = due + cells * interval_s
            retry_s = max(0.0, self.due + interval_s - self.limit.burst * interval_s - now)
            rates.answered(ask, Grant(cells, retry_s), now)


def let_in(shared: Shared, workers: list[Rates], seconds: float, offered: float, chance: random.Random) -> int:
    """Calls of one caller that all workers let in, of so many offered a second; the count answers every 2 ms."""
    count, answered = 0, 0.0
    for call in range(int(offered * seconds)):
        now = 1.0 + call / offered
        count += not chance.choice(workers).check("shop", 1, now)
        if now - answered >= 0.002:
            shared.answer(now)
            answered = now
    return count


@settings(max_examples=12, deadline=None)
@given(
    limit=st.builds(RateLimit, st.sampled_from([20.0, 300.0, 800.0]), st.integers(20, 300)),
    workers=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_workers_together_let_in_what_one_caller_may(limit: RateLimit, workers: int, seed: int) -> None:
    """However many workers a caller spreads five times its rate over, it gets its rate and not much more."""
    shared = Shared(limit)
    rates = [shared.worker(workers) for _ in range(workers)]
    seconds = 4.0
    count = let_in(shared, rates, seconds, 5 * limit.per_second, random.Random(seed))
    share_bursts = workers * max(1, limit.burst // workers)
    assert count <= limit.per_second * seconds + limit.burst + share_bursts + workers
    assert count >= 0.8 * limit.per_second * seconds - workers


@settings(max_examples=5, deadline=None)
@given(workers=st.integers(1, 8), seed=st.integers(0, 99))
def test_without_the_count_each_has_its_share(workers: int, seed: int) -> None:
    """While the shared count is away all workers together let in the rate, by their shares, and nobody waits."""
    limit = RateLimit(400.0, 80)
    shared = Shared(limit)
    shared.is_away = True
    rates = [shared.worker(workers) for _ in range(workers)]
    count = let_in(shared, rates, 4.0, 4000.0, random.Random(seed))
    assert 0.9 * 400 * 4 <= count <= 400 * 4 + 80 + 2 * workers


def test_a_modest_caller_is_never_refused() -> None:
    """Who calls at half of its rate is let in each time, whether the count is there, goes, or comes back."""
    shared = Shared(RateLimit(100.0, 20))
    rates = shared.worker(2)
    for call in range(600):
        now = 1.0 + call / 50
        shared.is_away = 200 <= call < 400
        assert rates.check("shop", 1, now) == 0
        shared.answer(now)


def test_a_count_that_is_away_is_left_alone_for_a_while() -> None:
    """After no answer nothing is asked for a moment, however many calls come."""
    shared = Shared(RateLimit(1000.0, 1000))
    rates = shared.worker(1)
    shared.is_away = True
    rates.check("shop", 1, 1.0)
    shared.answer(1.0)
    for call in range(100):
        rates.check("shop", 1, 1.0 + REST_S * call / 101)
    assert not shared.asks
    rates.check("shop", 1, 1.0 + REST_S)
    assert len(shared.asks) == 1


def test_callers_are_bounded() -> None:
    """Beyond so many callers those that come share one count; when others have been idle these are forgotten."""
    rates = Rates(RateLimit(1.0, 2), 1)
    for number in range(CALLERS_MAX):
        assert rates.check(f"caller-{number}", 1, 10.0) == 0
    assert rates.check("one more", 1, 10.0) == 0
    assert rates.check("another", 1, 10.0) == 0
    assert rates.check("and another", 1, 10.0) > 0
    assert len(rates._callers) <= CALLERS_MAX + 1
    assert rates.check("later", 1, 1000.0) == 0
    assert len(rates._callers) < 10
    assert module.OTHERS not in rates._callers


def test_callers_beyond_the_bound_are_counted_together_everywhere() -> None:
    """The shared count knows those who share one count by one name, and is asked again when they call again."""
    shared = Shared(RateLimit(1.0, 2))
    rates = shared.worker(1)
    for number in range(CALLERS_MAX):
        rates.check(f"caller-{number}", 1, 10.0)
    shared.asks.clear()
    for name in ("one more", "another"):
        rates.check(name, 1, 10.0)
        assert [ask.caller for _, ask in shared.asks] == [module.OTHERS]
        shared.answer(10.0)


def test_callers_that_cannot_be_kept_are_cheap() -> None:
    """Where there is no room, idle callers are looked for ten times a second at most, whoever calls meanwhile."""
    rates = Rates(RateLimit(1.0, 2), 1)
    for number in range(CALLERS_MAX):
        rates.check(f"caller-{number}", 1, 10.0)  # each is idle from 11.0 on
    for now, is_full in ((10.99, True), (10.99 + module.SWEEP_S / 2, True), (10.99 + 2 * module.SWEEP_S, False)):
        rates.check("one more", 1, now)
        assert (len(rates._callers) >= CALLERS_MAX) is is_full
