"""The cache inside a worker: bounded, least recently used first out, each row for a limited time."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from shards.contract import Row
from shards.keys import Key

_ROW_OVERHEAD_BYTES: Final = 700
"""What a remembered row takes beside its customer, marks and body: objects and tables (610 on CPython 3.11)."""

_JITTER: Final = 0.1
"""Share of the lifetime that chance takes away, so that rows remembered together are not forgotten together."""

_CHANCE: Final = random.Random()  # noqa: S311  jitter, no secret; of its own, so that nobody's seed is disturbed

_Entry: TypeAlias = tuple[Row, float, int]
"""A row, when it expires (``time.monotonic`` seconds), and its size in bytes."""


class LocalCache:
    """Remembers rows in this process. Obeys ``shards.contract.Cache``; never suspends its caller.

    At most ``rows_max`` rows and about ``bytes_max`` bytes, each row for 0.9 to 1 times ``ttl_s`` seconds from when the
    read that found it began. ``rows_max`` 0 remembers nothing.
    """

    def __init__(
        self, *, rows_max: int, bytes_max: int, ttl_s: float, chance: Callable[[], float] = _CHANCE.random
    ) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._ttl_s = ttl_s
        self._chance = chance  # [0, 1)
        self._bytes = 0
        # not a dict: that one scans all its former first entries whenever the first is asked for
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __repr__(self) -> str:
        return f"LocalCache(rows={len(self._entries)}/{self._rows_max}, bytes={self._bytes}/{self._bytes_max})"

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """Returns the remembered row of each key, in order; None for a miss or one past its lifetime."""
        now = time.monotonic()
        return [self._get(key, now) for key in keys]

    def _get(self, key: Key, now: float) -> Row | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        row, expires, _ = entry
        if expires <= now:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return row

    async def put(self, rows: Sequence[Row], read_started: float) -> None:
        """Remembers rows, each unless a newer version is remembered; the same version lives on when read later."""
        if self._rows_max == 0:
            return
        entries = self._entries
        for row in rows:
            key = row.key
            expires = read_started + self._ttl_s * (1 - _JITTER * self._chance())
            entry = entries.get(key)
            if entry is not None:
                if (entry[0].version, entry[1]) >= (row.version, expires):
                    continue
                self._forget(key)
            size = len(row.body) + len(row.marks) + len(row.customer) + _ROW_OVERHEAD_BYTES
            entries[key] = (row, expires, size)
            self._bytes += size
        while len(entries) > self._rows_max or self._bytes > self._bytes_max:
            self._bytes -= entries.popitem(last=False)[1][2]

    async def created(self, rows: Sequence[Row], commit_started: float) -> None:
        """Remembers rows just stored: who has created an order often reads it."""
        await self.put(rows, commit_started)

    async def close(self) -> None:
        """Forgets everything. Idempotent."""
        self._entries.clear()
        self._bytes = 0

    def _forget(self, key: Key) -> None:
        self._bytes -= self._entries.pop(key)[2]
