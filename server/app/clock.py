"""The wall clock, as an argument, so that tests can set it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Clocks of different workers may differ; nothing that must be right depends on them."""

    def now_us(self) -> int:
        """Returns Unix time in microseconds."""


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Returns Unix time in microseconds."""
        return time.time_ns() // 1_000
