"""What each metric is made with: its definition, and observations gathered between two writes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

from prometheus_client import Histogram


class Definition(NamedTuple):
    """One metric."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()


class Tally:
    """The observations of one histogram since they were last written."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum")

    def __init__(self, histogram: Histogram, bounds: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # the last one is of what lies above all bounds
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Takes one observation."""
        self._sum += value
        self._counts[bisect_left(self._bounds, value)] += 1

    def write(self) -> None:
        """Adds them to the histogram. Its own method takes them one by one only, so this adds to its parts."""
        histogram: Any = self._histogram
        for bucket, count in zip(histogram._buckets, self._counts, strict=True):  # noqa: SLF001  # see above
            if count:
                bucket.inc(count)
        histogram._sum.inc(self._sum)  # noqa: SLF001  # see above
        self._counts = [0] * len(self._counts)
        self._sum = 0.0
