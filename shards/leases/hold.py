"""A worker's lease on one shard, as the operations that need it see it, and how those operations go."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from shards.leases.states import Telemetry

_MS_MAX: Final = 1_000
"""Operations that took longer count as having taken so long."""

_PARTS: Final = 3
"""Renewals whose measures are told together: the last few seconds."""


def boottime_s() -> float:
    """Returns seconds of a clock that runs on while the machine sleeps, and is the same for all its processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Hold:
    """What a lease allows. ``until_s`` is read before and after every operation; the keeper moves it."""

    __slots__ = ("_began_s", "_counts", "_errors", "_extended", "_parts", "until_s")

    def __init__(self, until_s: float = float("-inf")) -> None:
        """``float("inf")`` is for a router whose shards nobody moves."""
        self.until_s = until_s
        """Seconds of ``CLOCK_BOOTTIME``: before this, answers of the shard may be given."""
        self._extended = asyncio.Event()  # replaced each time it is set
        self._counts = [0] * (_MS_MAX + 1)
        self._errors = 0
        self._began_s = time.monotonic()
        self._parts: deque[tuple[float, list[int], int]] = deque(maxlen=_PARTS)

    def __repr__(self) -> str:
        return f"Hold(until_s={self.until_s:.3f})"

    def extend(self, until_s: float) -> None:
        """Lets the lease last until then, or longer if it does already."""
        if until_s > self.until_s:
            self.until_s = until_s
            self._extended.set()
            self._extended = asyncio.Event()

    def end(self) -> None:
        """Ends the lease at once."""
        self.until_s = float("-inf")

    async def extended(self) -> None:
        """Returns when the lease is extended the next time."""
        await self._extended.wait()

    def took(self, seconds: float) -> None:
        """Notes an operation that was answered."""
        self._counts[int(seconds * 1_000) if seconds < 1.0 else _MS_MAX] += 1

    def failed(self) -> None:
        """Notes an operation that failed because of the shard."""
        self._errors += 1

    def telemetry(self) -> Telemetry:
        """Returns how operations went since the ``_PARTS``-th last call; meant to be called about once a second."""
        now_s = time.monotonic()
        self._parts.append((now_s - self._began_s, self._counts, self._errors))
        self._counts, self._errors, self._began_s = [0] * (_MS_MAX + 1), 0, now_s
        seconds = sum(part[0] for part in self._parts)
        errors = sum(part[2] for part in self._parts)
        counts = [sum(column) for column in zip(*(part[1] for part in self._parts), strict=True)]
        answered = sum(counts)
        asked = answered + errors
        if not asked or seconds <= 0:
            return Telemetry()
        rest, p99_ms = answered // 100, 0
        for ms in range(_MS_MAX, -1, -1):
            rest -= counts[ms]
            if rest < 0:
                p99_ms = ms + 1
                break
        return Telemetry(float(p99_ms), errors / asked, asked / seconds)
