"""The gate before a worker's calls: begun at once, put in line, or refused at once.

Who waits is served by priority, and within one in the order of arrival: a call is put in line only when it will be done
in time, so the late comers that a stack (LIFO) would save are not let in, and nobody is overtaken for nothing. A call
that cannot be done by its deadline is never begun, whether that shows when it comes or when its turn comes.

Criticality and refusing early: "Handling Overload", in Site Reliability Engineering (Google 2016); queueing time as the
sign of overload: DAGOR (Zhou et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from server.admission.limit import WINDOW_S, GradientLimit, Track

WINDOW_DONE_MIN: Final = 10
"""Units done that a window needs before it ends, unless ten times its length has passed: fewer say little."""

QUEUE_UNITS_MAX: Final = 16_384
"""In line at once; a unit is a call of up to 1 KiB, so this is 16 MiB at most."""

WAIT_S_MAX: Final = 10.0
"""Nobody is put in line for longer, however patient. Most are less: see ``DEADLINE_SHARE``."""

DEADLINE_SHARE: Final = 0.3
"""Of the time left to a call that it may wait in line; the rest is for being served, and for a rate that halves."""

SLACK: Final = (1.0, 2.0, 2.0)
"""Times its usual time that a call is thought to need once it is begun, by priority. Half of all take longer than
usual, so twice; but a critical one is tried with half a chance: to refuse it is to lose it for certain."""

RATED_WINDOWS: Final = 6
"""Windows with a line in them before their rate counts. What the first calls of a worker take, or those that a store's
pause held up, says nothing of its capacity, and a burst that is over in a second is served rather than refused."""

RESERVE_SHIFT: Final = 3
"""Critical calls may be served beyond the limit, by an eighth of it: they begin at once where others wait for a place.
Places become free when a round of commits ends, so whoever waits for one loses a round, and then waits for his own."""

_RATE_GAIN: Final = 0.3
_LATE_DECAY: Final = 0.98
_LATE_DECAY_S: Final = 0.02
"""A refusal for want of time takes so much off what its method is thought to take, this often at most and only while
none of its calls ends: or one that was slow once and is refused ever since would never be known to be quick again. If
each refusal did, ten times the load would forget in a moment what calls take, and begin what must be late."""


class Priority(enum.IntEnum):
    """The classes of callers; the lower number goes first."""

    CRITICAL = 0
    """What loses money when it fails: payments."""
    NORMAL = 1
    """What makes orders, and moves them on."""
    LOW = 2
    """What a person can ask for again: reading and listing."""


class Verdict(enum.IntEnum):
    """What becomes of a call that comes."""

    BEGIN = 0
    WAIT = 1
    FULL = 2
    """Refused: too many wait."""
    LATE = 3
    """Refused: it would not be done by its deadline."""


BEGIN: Final = Verdict.BEGIN
"""Names of the module, because to look them up in the class costs as much as the decision."""
WAIT: Final = Verdict.WAIT
FULL: Final = Verdict.FULL
LATE: Final = Verdict.LATE

_CLASSES: Final = len(Priority)


class Standing(NamedTuple):
    """What a gate looks like at one moment, in units: a unit is a call of up to 1 KiB."""

    limit: int
    in_flight: int
    waiting: Mapping[str, int]
    """By priority, its name in small letters."""


class Waiter(Protocol):
    """A call in line."""

    track: Track
    priority: int
    units: int
    deadline: float
    """Absolute ``time.monotonic`` seconds."""
    until: float
    """When waiting ends; set by the gate."""
    gone: bool
    """Its caller left: it is passed over."""

    def begin(self) -> None:
        """Its turn has come; ``Gate.leave`` is to be called at its end. Must not raise."""

    def turn_away(self, verdict: Verdict) -> None:
        """It is refused after all. Must not raise."""


class Gate:
    """One for a worker, in one thread. ``now`` is ``time.monotonic`` seconds everywhere."""

    def __init__(self, limit: GradientLimit, now: float) -> None:
        self.limit = limit
        self.in_flight = 0
        """Units being served."""
        self.waiting = 0
        """Units in line, those of callers who left included until their turn."""
        self.wait_s = 0.0
        """How long the call would have waited that was refused last."""
        self._lines: tuple[deque[Waiter], ...] = tuple(deque() for _ in Priority)
        self._units = [0] * _CLASSES
        self._rate = 0.0
        self._rated = 0
        self._window_from = now
        self._done = 0
        self._peak = 0
        self._was_full = False
        self._decay_at = now
        self._came = 0
        self._left_s = 0.0
        """Time until the deadlines of all calls that came in this window; none counts for more than may be waited."""

    def __repr__(self) -> str:
        return f"Gate({self.in_flight}/{self.limit.limit} units served, {self.waiting} wait, {self._rate:.0f}/s)"

    @property
    def rate(self) -> float:
        """Units a second that were done while others waited, smoothed; 0 as long as none did."""
        return self._rate

    def decide(self, track: Track, priority: int, units: int, deadline: float, now: float) -> Verdict:
        """Decides about a call that comes.

        After BEGIN it counts as served until ``leave``. After WAIT it is to be given to ``put``, before anything else.
        """
        left_s = deadline - now
        self._came += 1
        self._left_s += min(WAIT_S_MAX, left_s)
        ahead = self.waiting if priority else self._units[0]
        if self.in_flight < self._places(priority) and not ahead:
            if left_s > track.base_s:
                self.in_flight += units
                self._peak = max(self._peak, self.in_flight)
                return BEGIN
            track.base_s *= self._decay(track, now)
            return LATE
        self._was_full = True
        wait_s = self._expected_wait_s(track, priority, units)
        self.wait_s = wait_s
        if wait_s > WAIT_S_MAX:
            return FULL
        if wait_s > left_s * DEADLINE_SHARE or wait_s + SLACK[priority] * track.mean_s > left_s:
            track.mean_s *= self._decay(track, now)
            return LATE
        if self.waiting + units > QUEUE_UNITS_MAX and not self._makes_room(priority, units):
            return FULL
        return WAIT

    def put(self, waiter: Waiter, now: float) -> None:
        """Puts a call in line about which ``decide`` has just said WAIT."""
        waiter.until = min(now + WAIT_S_MAX, waiter.deadline - SLACK[waiter.priority] * waiter.track.mean_s)
        self._lines[waiter.priority].append(waiter)
        self._units[waiter.priority] += waiter.units
        self.waiting += waiter.units

    def leave(self, track: Track, units: int, seconds: float, now: float, *, is_ok: bool) -> None:
        """Ends a call that was begun, after so many seconds; begins those whose turn it is.

        One that failed says nothing of latency unless it was slow, since most failures are quick.
        """
        self.in_flight -= units
        self._done += units
        if is_ok or seconds > track.mean_s:
            track.sum_s += seconds
            track.count += 1
        if now - self._window_from >= WINDOW_S:
            self._close_window(now)
        if self.waiting:
            self._begin_next(now)

    def sweep(self, now: float) -> None:
        """Turns away who has waited too long. To be called a few times a second while anyone waits."""
        if now - self._window_from >= WINDOW_S:
            self._close_window(now)
        for priority, line in enumerate(self._lines):
            kept: deque[Waiter] = deque()
            while line:
                waiter = line.popleft()
                if not waiter.gone and waiter.until > now:
                    kept.append(waiter)
                    continue
                self._units[priority] -= waiter.units
                self.waiting -= waiter.units
                if not waiter.gone:
                    waiter.turn_away(LATE if waiter.deadline - SLACK[priority] * waiter.track.mean_s <= now else FULL)
            line.extend(kept)
        if self.waiting:
            self._begin_next(now)

    def empty(self) -> list[Waiter]:
        """Takes all out of the line and returns them: the worker stops."""
        left = [waiter for line in self._lines for waiter in line if not waiter.gone]
        for line in self._lines:
            line.clear()
        self._units = [0] * _CLASSES
        self.waiting = 0
        return left

    def standing(self) -> Standing:
        """Returns what the gate looks like now."""
        waiting = {priority.name.lower(): self._units[priority] for priority in Priority}
        return Standing(self.limit.limit, self.in_flight, waiting)

    def _places(self, priority: int) -> int:
        """Returns how many units may be served at once before a call of this priority waits."""
        limit = self.limit.limit
        return limit if priority else limit + (limit >> RESERVE_SHIFT)

    def _begin_next(self, now: float) -> None:
        for priority, line in enumerate(self._lines):
            places = self._places(priority)
            while line:
                if self.in_flight >= places:
                    break
                waiter = line.popleft()
                self._units[priority] -= waiter.units
                self.waiting -= waiter.units
                if waiter.gone:
                    continue
                if now + SLACK[priority] * waiter.track.mean_s > waiter.deadline:
                    waiter.track.mean_s *= self._decay(waiter.track, now)
                    waiter.turn_away(LATE)
                    continue
                self.in_flight += waiter.units
                self._peak = max(self._peak, self.in_flight)
                waiter.begin()

    def _expected_wait_s(self, track: Track, priority: int, units: int) -> float:
        """Returns how long a call would wait behind those that go before it."""
        ahead = units + sum(self._units[: priority + 1])
        # Little's law where no rate has been seen yet
        return ahead / self._rate if self._rate else ahead * track.mean_s / self.limit.limit

    def _makes_room(self, priority: int, units: int) -> bool:
        """Turns the last of the lowest priorities away for one of a higher one; False when there are not enough."""
        if sum(self._units[priority + 1 :]) < units:
            return False
        for lower in range(_CLASSES - 1, priority, -1):
            line = self._lines[lower]
            while line and self.waiting + units > QUEUE_UNITS_MAX:
                waiter = line.pop()
                self._units[lower] -= waiter.units
                self.waiting -= waiter.units
                if not waiter.gone:
                    waiter.turn_away(FULL)
        return True

    def _decay(self, track: Track, now: float) -> float:
        """Returns what a refusal for want of time leaves of the time that its method is thought to take."""
        if now < self._decay_at or track.count:
            return 1.0
        self._decay_at = now + _LATE_DECAY_S
        return _LATE_DECAY

    def _close_window(self, now: float) -> None:
        length_s = now - self._window_from
        if self._done < WINDOW_DONE_MIN and length_s < 10 * WINDOW_S:
            return
        rate = self._done / length_s
        if self._was_full and self._rated < RATED_WINDOWS:
            # the very first ends amid a group of commits, and says too little
            self._rate = max(self._rate, rate) if self._rated else 0.0
            self._rated += 1
        elif self._was_full:
            self._rate += _RATE_GAIN * (rate - self._rate)
        elif rate > self._rate:
            self._rate = rate if self._rate else 0.0
        self.limit.close_window(self._peak, self._left_s / self._came if self._came else 0.0, length_s)
        self._left_s, self._came = 0.0, 0
        self._window_from, self._done, self._peak = now, 0, self.in_flight
        self._was_full = self.waiting > 0
