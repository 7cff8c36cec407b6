"""Which workers lag much more than the others. Pure: told what each beat says, asked who lags.

A beat tells the share of the time in which the event loop had something to do and neither did it nor computed anything
else: it was stopped, or had no processor. On full cores that happens to all workers alike, so a worker is compared with
the others and never with an absolute bar. See docs/adr/0028.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Set as AbstractSet
from typing import Final

MEMORY_S: Final = 1.5
"""A level remembers about so long. One pause, however long, counts as ``GAP_S_MAX``, which makes nobody a laggard."""

GAP_S_MAX: Final = 0.5
"""Two beats. A worker that is silent for longer loses its lanes anyway (``shards.handing.link``)."""

_GAP_S_MIN: Final = 0.001

LAGS_BY: Final = 0.3
"""So much of the time more than the others: then who waits for this worker waits a third of the time for nothing."""

LAGS_TIMES: Final = 2.0
"""And so many times as much, so that on full cores chance alone does not decide."""

WELL_BY: Final = 0.1
"""Who is no further from the others than this is well again, when that has lasted."""

WELL_S: Final = 3.0
"""For so long; twice as long with each time that it had been well for less than ``STEADY_S``."""

WELL_S_MAX: Final = 48.0

STEADY_S: Final = 60.0

KNOWN_S: Final = 3.0
"""Who was heard for less neither lags nor is compared with: it has just started, and the machine with it."""


class _Standing:
    """What is known of one worker."""

    def __init__(self) -> None:
        self.level = 0.0  # share of the time, smoothed
        self.heard_s: float | None = None
        self.known_s = 0.0  # for how long it was heard
        self.lags = False
        self.near_since_s: float | None = None  # since when it is near the others, while it lags
        self.well_at_s = -math.inf  # when it was last said to be well again
        self.wait_s = WELL_S

    def hear(self, stalled: float, now_s: float) -> None:
        gap_s = GAP_S_MAX if self.heard_s is None else min(max(now_s - self.heard_s, _GAP_S_MIN), GAP_S_MAX)
        self.heard_s = now_s
        self.known_s += gap_s
        weight = 1 - math.exp(-gap_s / MEMORY_S)
        self.level += max(weight, gap_s / self.known_s) * (stalled - self.level)  # at first the mean so far

    def judge(self, others: float, now_s: float) -> None:
        by = self.level - others
        if not self.lags:
            if by >= LAGS_BY and self.level >= LAGS_TIMES * others:
                again = now_s - self.well_at_s < STEADY_S
                self.wait_s = min(2 * self.wait_s, WELL_S_MAX) if again else WELL_S
                self.lags, self.near_since_s = True, None
            return
        if by > WELL_BY:
            self.near_since_s = None
        elif self.near_since_s is None:
            self.near_since_s = now_s
        elif now_s - self.near_since_s >= self.wait_s:
            self.lags, self.well_at_s = False, now_s


class Laggards:
    """Who of the workers of a server lags. All times are ``time.monotonic`` seconds."""

    def __init__(self, workers: int) -> None:
        self._standings = [_Standing() for _ in range(workers)]

    def __repr__(self) -> str:
        return f"Laggards({[(round(one.level, 2), one.lags) for one in self._standings]})"

    def heard(self, number: int, stalled: float, now_s: float) -> None:
        """Takes a beat of a worker: the share of the time since its last one in which it was kept from running."""
        self._standings[number].hear(stalled, now_s)

    def forget(self, number: int) -> None:
        """A process of this number has ended; what is said of it is not said of its successor."""
        self._standings[number] = _Standing()

    def look(self, serving: AbstractSet[int], now_s: float) -> frozenset[int]:
        """Returns the numbers of those who lag, of the workers that serve: never all of them, nor more than half.

        Each is compared with the median of the others, the higher one where there are two.
        """
        known = [number for number in serving if self._standings[number].known_s >= KNOWN_S]
        for number in known:
            others = [self._standings[other].level for other in known if other != number]
            if others:
                self._standings[number].judge(statistics.median_high(others), now_s)
        lagging = frozenset(number for number in serving if self._standings[number].lags)
        return lagging if 2 * len(lagging) <= len(serving) else frozenset()
