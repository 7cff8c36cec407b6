"""The gate under load: what a worker in virtual time serves, in a queue, in rounds, and through pauses of its store."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.admission.gate import Gate, Priority, Verdict
from server.admission.limit import FLOOR, GradientLimit
from tests.support.gate_calls import Call

CRITICAL, NORMAL, LOW = Priority


class Worker:
    """A worker in virtual time: each call takes longer the more are served at once, and so many a second are done."""

    def __init__(self, rate: float, alone_s: float) -> None:
        self.rate = rate
        self.alone_s = alone_s
        self.limit = GradientLimit()
        self.gate = Gate(self.limit, 0.0)
        self.track = self.limit.track()
        self.served: dict[Priority, int] = Counter()
        self.refused: dict[Priority, int] = Counter()
        self.late = 0
        self.done_at: list[float] = []
        self.took_s: dict[Priority, list[float]] = defaultdict(list)
        self._ends: list[tuple[float, int, Call, float]] = []
        self._number = itertools.count()
        self._free_at = 0.0
        self._now = 0.0
        self._sweep_at = 0.0

    def load(self, until: float, rates: dict[Priority, float], chance: random.Random, left_s: float = 1.0) -> None:
        """Offers calls at these rates a second, until then."""
        comes = [(self._now + chance.expovariate(rate), int(p)) for p, rate in rates.items() if rate]
        heapq.heapify(comes)
        while comes and comes[0][0] < until:
            now, number = heapq.heappop(comes)
            priority = Priority(number)
            heapq.heappush(comes, (now + chance.expovariate(rates[priority]), number))
            self._until(now)
            call = Call(self.track, priority, now + left_s)
            call.came = now
            verdict = self.gate.decide(self.track, priority, 1, call.deadline, now)
            if verdict is Verdict.BEGIN:
                self._begin(call)
            elif verdict is Verdict.WAIT:
                call.on_begin = self._begin
                self.gate.put(call, now)
            else:
                self.refused[priority] += 1
        self._until(until)

    def _begin(self, call: Call) -> None:
        self._free_at = max(self._free_at, self._now) + 1 / self.rate
        end = max(self._free_at, self._now + self.alone_s)
        heapq.heappush(self._ends, (end, next(self._number), call, self._now))

    def _until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._now, _, call, began = heapq.heappop(self._ends)
            self._end(call, began)
        self._now = now
        self._sweep()

    def _end(self, call: Call, began: float) -> None:
        self.took_s[Priority(call.priority)].append(self._now - call.came)
        if self._now > call.deadline:
            self.late += 1
        else:
            self.served[Priority(call.priority)] += 1
            self.done_at.append(self._now)
        self.gate.leave(self.track, 1, self._now - began, self._now, is_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        if self._now >= self._sweep_at:
            self._sweep_at = self._now + 0.05
            self.gate.sweep(self._now)


class GroupWorker(Worker):
    """A worker whose calls are done in rounds: one takes so long, and so much more for each call that it holds."""

    ROUND_MAX = 300

    def __init__(self, round_s: float, call_s: float) -> None:
        super().__init__(1.0, 0.0)
        self.round_s = round_s
        self.call_s = call_s
        self._gathered: list[tuple[Call, float]] = []
        self._round: list[tuple[Call, float]] = []
        self._round_end = 0.0

    def _begin(self, call: Call) -> None:
        self._gathered.append((call, self._now))
        if not self._round:
            self._start()

    def pause(self, seconds: float) -> None:
        """The store stands still: the round under way takes so much longer."""
        self._round_end += seconds

    def _start(self) -> None:
        self._round, self._gathered = self._gathered[: self.ROUND_MAX], self._gathered[self.ROUND_MAX :]
        self._round_end = self._now + self.round_s + self.call_s * len(self._round)

    def _until(self, now: float) -> None:
        while self._round and self._round_end <= now:
            self._now = self._round_end
            ended, self._round = self._round, []
            self._start()
            for call, began in ended:
                self._end(call, began)
        self._now = now
        self._sweep()


@settings(max_examples=15, deadline=None)
@given(rate=st.sampled_from([300.0, 2000.0]), alone_s=st.sampled_from([0.002, 0.02]), seed=st.integers(0, 2**32))
def test_it_sheds_nothing_below_capacity(rate: float, alone_s: float, seed: int) -> None:
    """A worker that is asked for less than it can do refuses nobody."""
    worker = Worker(rate, alone_s)
    worker.load(5.0, {CRITICAL: 0.1 * rate, NORMAL: 0.4 * rate, LOW: 0.3 * rate}, random.Random(seed))
    assert not worker.refused
    assert worker.late == 0


@pytest.mark.parametrize("times", [2, 10])
def test_it_serves_at_capacity_beyond_capacity(times: int) -> None:
    """Offered several times what it can do, a worker soon serves as much as it can, in time, by priority."""
    rate = 1000.0
    worker = Worker(rate, 0.002)
    chance = random.Random(times)
    worker.load(1.0, {NORMAL: 0.5 * rate}, chance)
    beyond = {CRITICAL: 0.1 * rate, NORMAL: 0.5 * times * rate, LOW: 0.5 * times * rate}
    worker.load(3.0, beyond, chance)
    worker.served.clear()
    worker.refused.clear()
    worker.late = 0
    worker.load(13.0, beyond, chance)
    assert sum(worker.served.values()) >= 0.95 * 10 * rate
    assert worker.late <= 0.01 * 10 * rate
    critical = worker.served[CRITICAL] / (worker.served[CRITICAL] + worker.refused[CRITICAL])
    assert critical >= 0.995
    assert worker.served[NORMAL] > 10 * worker.served[LOW]
    assert worker.gate.waiting <= rate  # nobody is put in line for longer than a part of his deadline


def test_rounds_that_take_longer_under_load_stay_large() -> None:
    """When each round of commits takes twice as long as it did in calm, smaller rounds would not make it shorter."""
    worker = GroupWorker(round_s=0.08, call_s=0.0002)
    chance = random.Random(5)
    worker.load(3.0, {NORMAL: 300.0}, chance)
    worker.round_s, worker.call_s = 2 * worker.round_s, 2 * worker.call_s
    worker.load(8.0, {CRITICAL: 50.0, NORMAL: 9_000.0}, chance)
    worker.served.clear()
    worker.refused.clear()
    worker.late = 0
    worker.load(18.0, {CRITICAL: 50.0, NORMAL: 9_000.0}, chance)
    best = 10 * worker.ROUND_MAX / (worker.round_s + worker.ROUND_MAX * worker.call_s)
    assert sum(worker.served.values()) >= 0.65 * best
    assert worker.late <= 0.02 * best
    assert worker.refused[CRITICAL] <= 0.005 * worker.served[CRITICAL]


def test_pauses_of_the_store_do_not_wear_the_limit_down() -> None:
    """A round that takes long now and then costs what is in it, and not the size of all rounds that follow."""
    worker = GroupWorker(round_s=0.08, call_s=0.0002)
    chance = random.Random(11)
    worker.load(3.0, {NORMAL: 300.0}, chance)
    worker.round_s, worker.call_s = 1.5 * worker.round_s, 1.5 * worker.call_s
    beyond = {CRITICAL: 50.0, NORMAL: 9_000.0}
    worker.load(5.0, beyond, chance)
    worker.served.clear()
    worker.refused.clear()
    lowest = worker.limit.limit
    for second in range(5, 25):
        if second % 2:
            worker.pause(0.4)
        worker.load(second + 1.0, beyond, chance)
        lowest = min(lowest, worker.limit.limit)
    best = 20 * worker.ROUND_MAX / (worker.round_s + worker.ROUND_MAX * worker.call_s)
    assert lowest >= 350
    assert sum(worker.served.values()) >= 0.55 * best
    assert worker.refused[CRITICAL] <= 0.005 * worker.served[CRITICAL]


def test_critical_calls_lose_no_round_waiting_for_a_place() -> None:
    """Critical calls wait for the round under way and are in the next one; others wait for a place as well."""
    worker = GroupWorker(round_s=0.12, call_s=0.0003)
    chance = random.Random(13)
    worker.load(3.0, {NORMAL: 300.0}, chance)
    worker.load(5.0, {CRITICAL: 50.0, NORMAL: 9_000.0}, chance)
    worker.took_s.clear()
    worker.load(15.0, {CRITICAL: 50.0, NORMAL: 9_000.0}, chance)
    round_s = worker.round_s + worker.ROUND_MAX * worker.call_s
    assert statistics.mean(worker.took_s[CRITICAL]) < 2 * round_s
    assert statistics.mean(worker.took_s[NORMAL]) > 2 * round_s


def test_it_recovers_after_a_burst() -> None:
    """After ten times its load a worker soon serves everybody again."""
    rate = 1000.0
    worker = Worker(rate, 0.002)
    chance = random.Random(7)
    worker.load(5.0, {NORMAL: 10 * rate}, chance)
    worker.load(6.0, {NORMAL: 0.7 * rate}, chance)
    worker.refused.clear()
    worker.load(11.0, {NORMAL: 0.7 * rate}, chance)
    assert not worker.refused


def test_it_follows_a_store_that_becomes_slow() -> None:
    """When a worker can suddenly do a tenth, what is let in is soon done in time again."""
    worker = Worker(2000.0, 0.002)
    chance = random.Random(3)
    worker.load(5.0, {NORMAL: 1000.0}, chance)
    worker.rate = 200.0
    worker.load(8.0, {NORMAL: 1000.0}, chance)
    worker.late = 0
    worker.served.clear()
    worker.load(18.0, {NORMAL: 1000.0}, chance)
    assert worker.served[NORMAL] >= 0.9 * 10 * 200
    assert worker.late <= 0.05 * worker.served[NORMAL]
    assert worker.limit.limit >= FLOOR
