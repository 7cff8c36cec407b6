"""How fast to copy: a closed loop on what callers feel. Pure but for the waiting.

Additive increase, multiplicative decrease (Chiu and Jain, 1989): the rate rises by a step as long as callers do not
feel the copying, and is cut when they do; under the lowest rate it stops, and begins again by itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from shards.leases import Telemetry
from shards.rebalance.record import Options

RATE_MIN: Final = 50.0
"""Rows a second; below it the copying waits altogether."""

RATE_FIRST: Final = 2_000.0
RATE_MAX: Final = 100_000.0
_STEP: Final = 0.1  # of the rate, and at least as much as the lowest rate
_CUT: Final = 0.5
CALM_SHARE: Final = 0.8
"""Of what is to be kept: above it the rate stays, or it would swing."""

_FELT_S: Final = 3.0
"""What a worker tells covers about so long: copying that was slowed down shows in it after that, and is not slowed down
again for the same moment before."""

ENOUGH_PER_S: Final = 35.0
"""Operations a second, of which 99 of 100 can be told from the slowest in that time."""

_WAIT_S: Final = 3.0  # stopped: so long nothing is copied before it is tried again at the lowest rate
_LONG_S: Final = 30.0  # stopped for so long: what callers feel is what they usually feel
_BURST_S: Final = 0.1  # the bucket of tokens holds so much of a second
_LOOK_S: Final = 0.25  # between two looks, while waiting, whether it is still wanted


def with_room_ms(usual_ms: float) -> int:
    """Returns the least limit under which the rate still rises where callers feel ``usual_ms``."""
    return math.ceil(usual_ms / CALM_SHARE)


class Felt(NamedTuple):
    """What callers feel, by the workers' telemetry: the worst worker counts."""

    p99_ms: float
    error_rate: float
    """Share of operations that failed, 0-1."""


def felt_of(told: Sequence[Telemetry]) -> Felt | None:
    """Returns what callers feel: what the worst worker tells of any shard; None where none has told. Pure.

    The latency of a few operations counts only where nobody has more: 99 of 100 of ten is the slowest of them.
    """
    if not told:
        return None
    enough = [one for one in told if one.rate >= ENOUGH_PER_S] or told
    return Felt(max(one.p99_ms for one in enough), max(one.error_rate for one in told))


class Unwanted(Exception):
    """What was to be copied is not wanted any more. None of it is paused."""


class Throttle:
    """The rate of copying, and who may copy how much when."""

    def __init__(
        self,
        options: Options,
        clock: Callable[[], float] = time.monotonic,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """``is_wanted``: asked before rows are let through, and again and again while they wait."""
        self._options = options
        self._clock = clock
        self._is_wanted = is_wanted
        self._is_felt = False
        self._tokens = 0.0
        self._filled_at = clock()
        self.reason: str
        """Why the rate is what it is; one line for the operator."""
        self._begin()

    def _begin(self) -> None:
        keep_p99, most = self._options.keep_p99_ms, self._options.rows_per_s_max
        self._most = min(RATE_MAX, float(most or RATE_MAX))
        self._rate = min(RATE_FIRST, self._most) if keep_p99 is not None else self._most
        self._stopped_until = 0.0
        self._cut_at = -math.inf
        self._waits_since: float | None = None
        self.reason = "starting"

    def __repr__(self) -> str:
        return f"Throttle({self._rate:.0f} rows/s, {self.reason})"

    @property
    def rate(self) -> float:
        """Rows a second that may be copied now; 0 while it waits."""
        return 0.0 if self._clock() < self._stopped_until else self._rate

    @property
    def is_felt(self) -> bool:
        """Whether callers felt more than they are to, when that was last told."""
        return self._is_felt

    def follow(self, options: Options) -> None:
        """Begins anew where these options are others than before."""
        if options != self._options:
            self._options = options
            self._begin()

    def observe(self, felt: Felt | None) -> None:
        """Takes in what callers feel now; to be called about once a second. None: no worker has told yet."""
        keep_p99, keep_errors = self._options.keep_p99_ms, self._options.keep_error_rate
        self._is_felt = felt is not None and (
            felt.error_rate > keep_errors or (keep_p99 is not None and felt.p99_ms > keep_p99)
        )
        if felt is None:
            self.reason = "no worker tells what callers feel"
            return
        told = f"p99 {felt.p99_ms:.0f} ms, errors {felt.error_rate:.1%}"
        if felt.error_rate > keep_errors:
            self._cut(f"{told}: more errors than {keep_errors:.1%}", felt)
        elif keep_p99 is not None and felt.p99_ms > keep_p99:
            self._cut(f"{told}: above {keep_p99:.0f} ms", felt)
        elif keep_p99 is not None and felt.p99_ms > keep_p99 * CALM_SHARE:
            self.reason = f"{told}: near {keep_p99:.0f} ms, rate kept"
        elif self._clock() >= self._stopped_until:
            self._waits_since = None
            self._rate = min(self._most, self._rate + max(RATE_MIN, self._rate * _STEP))
            self.reason = f"{told}: at full rate" if self._rate == self._most else f"{told}: speeding up"

    async def take(self, rows: int) -> None:
        """Returns when so many rows may be copied. Raises ``Unwanted``."""
        while self._is_wanted():
            now = self._clock()
            rate = self.rate
            # a call may take more than a burst holds; then the bucket goes below zero, and the next one waits longer
            self._tokens = min(max(rate * _BURST_S, 1.0), self._tokens + (now - self._filled_at) * rate)
            self._filled_at = now
            if rate and self._tokens > 0:
                self._tokens -= rows
                return
            await asyncio.sleep(min(_LOOK_S, -self._tokens / rate + 0.001) if rate else _LOOK_S)
        raise Unwanted

    def _cut(self, why: str, felt: Felt) -> None:
        now = self._clock()
        is_stopped = now < self._stopped_until
        if now < self._cut_at + _FELT_S and not is_stopped:
            self.reason = f"{why}; slowed down"
            return
        self._cut_at = now
        if not is_stopped and self._rate * _CUT >= RATE_MIN:
            self._rate *= _CUT
            self._waits_since = None
            self.reason = f"{why}; slowed down"
            return
        self._rate = min(RATE_MIN, self._most)
        self._stopped_until = now + _WAIT_S
        since = self._waits_since = now if self._waits_since is None else self._waits_since
        self.reason = f"{why}; waiting"
        keep_ms = self._options.keep_p99_ms
        if now - since >= _LONG_S and keep_ms is not None and felt.p99_ms > keep_ms:
            # by now nothing of it comes from the copying
            enough_ms = with_room_ms(felt.p99_ms)
            self.reason += f" for {now - since:.0f} s already: `pause`, then `resume --keep-p99-ms {enough_ms}` goes on"
