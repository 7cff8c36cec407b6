"""The least version of each order that this process may answer from a cache. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from shards.keys import Key

_FIRST_VERSION: Final = 1
"""Nothing is older, so nothing is to be noted of it."""


class Floors:
    """Notes the versions that this process wrote, for ``keep_s`` seconds: as long as a cache may hold an older one.

    Of at most ``floors_max`` orders. When there are more the earliest is dropped, and nothing at all is allowed until
    its time is over: more reads of the store, never a wrong answer. Times are ``time.monotonic`` seconds.
    """

    def __init__(self, *, keep_s: float, floors_max: int) -> None:
        self._keep_s = keep_s
        self._floors_max = floors_max
        self._floors: OrderedDict[Key, tuple[int, float]] = OrderedDict()  # version, when to forget; earliest first
        self._shut_until = float("-inf")

    def __repr__(self) -> str:
        return f"Floors({len(self._floors)}/{self._floors_max})"

    def raise_to(self, key: Key, version: int, now: float) -> None:
        """Notes that a version was written."""
        if version <= _FIRST_VERSION:
            return
        floors = self._floors
        floor = floors.get(key)
        if floor is not None and floor[0] > version:
            return
        floors[key] = (version, now + self._keep_s)
        floors.move_to_end(key)
        while floors:
            forget = next(iter(floors.values()))[1]
            if forget > now:
                if len(floors) <= self._floors_max:
                    break
                self._shut_until = forget
            floors.popitem(last=False)

    def allows(self, key: Key, version: int, now: float) -> bool:
        """Tells whether a version may be answered."""
        if now < self._shut_until:
            return False
        floor = self._floors.get(key)
        return floor is None or version >= floor[0]
