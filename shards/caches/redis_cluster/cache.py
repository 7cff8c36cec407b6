"""The cache over the nodes of a Redis Cluster."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from shards.caches.redis_cluster.entries import decode, encode, is_tombstone, key_text
from shards.caches.redis_cluster.masters import Access, Masters, script_name
from shards.caches.redis_cluster.node import Place, refused
from shards.contract import Observer, Row
from shards.keys import Key

ENTRY_BYTES_MAX: Final = 64 * 1024
"""Larger orders are read from their store each time: one of them would hold up a node longer than a hundred others."""

CLOCKS_DIFFER_S: Final = 1.0
"""By how much the clocks of two machines are expected to differ at most; with a time service it is milliseconds."""

_JITTER: Final = 0.1
"""Share of the lifetime that chance takes away, so that rows remembered together are not forgotten together."""

_SCRIPT: Final = Path(__file__).with_name("fill.lua").read_bytes()
_SCRIPT_NAME: Final = script_name(_SCRIPT)


class RedisClusterCache:
    """Remembers rows in a Redis Cluster. Obeys ``shards.contract.Cache``; made by ``open``.

    Each row for 0.9 to 1 times ``ttl_s`` seconds from when the read that found it began, by the clocks of the workers.
    A node that is away costs its first callers ``Access.answer_timeout_s`` and all others nothing: they miss. Look-ups
    and fills that came to nothing are reported as ``error``, rows too large to be remembered as ``tombstone``.
    """

    def __init__(
        self,
        masters: Masters,
        observer: Observer,
        *,
        ttl_s: float,
        prefix: str,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._masters = masters
        self._observer = observer
        self._ttl_s = ttl_s
        self._prefix = prefix
        self._entry_bytes_max = entry_bytes_max
        self._chance = chance  # [0, 1)
        # An older version was read before this one was stored, so before it is remembered: it expires before this.
        self._keep_ms = b"%d" % round((ttl_s + CLOCKS_DIFFER_S) * 1000)

    @classmethod
    async def open(cls, access: Access, observer: Observer, *, ttl_s: float, prefix: str) -> Self:
        """Connects, for about a second at most; to a cluster that is away as soon as it is there."""
        masters = Masters(access, script=_SCRIPT)
        await masters.open()
        return cls(masters, observer, ttl_s=ttl_s, prefix=prefix)

    def __repr__(self) -> str:
        return f"RedisClusterCache({self._masters!r})"

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """Returns the remembered row of each key, in order; None for a miss or one past its lifetime."""
        return [None if found is None else found[0] for found in await self.find(keys)]

    async def put(self, rows: Sequence[Row], read_started: float) -> None:
        """Remembers rows, each unless a newer version is remembered; the same version lives on when read later."""
        await self.store([(row, read_started) for row in rows])

    async def created(self, rows: Sequence[Row], commit_started: float) -> None:
        """Remembers rows just stored."""
        await self.put(rows, commit_started)

    async def find(self, keys: Sequence[Key]) -> Sequence[tuple[Row, float] | None]:
        """Returns for each key what ``get`` does, with when the read that found it began (``time.monotonic`` s)."""
        found: list[tuple[Row, float] | None] = [None] * len(keys)
        places = [self._look_up(key) for key in keys]
        errors = await self._over(places)
        now, now_ms = time.monotonic(), time.time() * 1000
        for index, place in enumerate(places):
            if place is None or place[0].replies is None:
                continue
            value = place[0].replies[place[1]]
            if not isinstance(value, bytes):
                continue
            try:
                entry = decode(keys[index], value)
            except ValueError:
                errors += 1
                continue
            if entry is None:
                continue
            age_s = (now_ms - entry.began_ms) / 1000
            # Its age counts by this worker's setting and clock too, so that neither another worker's setting nor a
            # clock that was put back lengthens a life.
            if now_ms < entry.expires_ms and -CLOCKS_DIFFER_S < age_s < self._ttl_s:
                found[index] = entry.row, now - age_s
        self._count("error", errors)
        return found

    async def store(self, readings: Sequence[tuple[Row, float]]) -> None:
        """Remembers rows, each with when the read that found it began, as ``put`` does."""
        now, now_ms = time.monotonic(), time.time() * 1000
        places: list[Place | None] = []
        tombstones = 0
        for row, read_started in readings:
            began_ms = now_ms - (now - read_started) * 1000
            expires_ms = began_ms + self._ttl_s * 1000 * (1 - _JITTER * self._chance())
            entry = encode(row, int(began_ms), int(expires_ms), self._entry_bytes_max)
            tombstones += is_tombstone(entry)
            node = self._masters.of(row.key.slot)
            key = key_text(self._prefix, row.key)
            command = (b"EVALSHA", _SCRIPT_NAME, b"1", key, entry, self._keep_ms)
            places.append(None if node is None else node.send(command))
        self._count("tombstone", tombstones)
        self._count("error", await self._over(places))

    async def close(self) -> None:
        """Lets go of connections. Idempotent."""
        await self._masters.close()

    def _look_up(self, key: Key) -> Place | None:
        node = self._masters.of(key.slot)
        return None if node is None else node.look_up(key_text(self._prefix, key))

    async def _over(self, places: Sequence[Place | None]) -> int:
        """Returns when all replies are there, the number of those that are none."""
        errors = 0
        for place in places:
            if place is None:
                errors += 1
                continue
            batch, index = place
            if not batch.is_over:
                await batch.over()
            if batch.replies is None:
                errors += 1
            elif refused(batch.replies[index]):
                # MOVED, ASK, CLUSTERDOWN, LOADING: it is not followed, as by the next call the map will be right
                errors += 1
                self._masters.suspect()
        return errors

    def _count(self, event: str, count: int) -> None:
        if count:
            self._observer.cache_event(event, count)
