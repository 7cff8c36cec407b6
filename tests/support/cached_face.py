"""What one worker has between its callers and the truth: lanes, wrappers, and both layers of the cache."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from shards.assembly import StorageSettings, shard_over
from shards.caches.layered import LayeredCache
from shards.caches.local import LocalCache
from shards.caches.redis_cluster import Access, RedisClusterCache
from shards.contract import Consistency, Outcome, Row, Store, Verdict
from shards.keys import Key
from shards.places import Shard
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version, soon


class SlowStore(MemoryStore):
    """Reads and commits take a while to begin and to be answered, so that they overtake each other."""

    TRIP_S: Final = 0.01

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The row of each key, as it was on the way."""
        await self._travel()
        rows = await super().read(keys, consistency)
        await self._travel()
        return rows

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane."""
        await self._travel()
        outcomes = await super().commit(rows)
        await self._travel()
        return outcomes

    async def _travel(self) -> None:
        await asyncio.sleep(random.uniform(0, self.TRIP_S))  # sleep: the way to a store and back


class Face:
    """One worker's way to one shard."""

    def __init__(self, shard: Shard, cache: LayeredCache, notes: Notes) -> None:
        self.shard = shard
        self.cache = cache
        self.notes = notes

    @classmethod
    async def open(cls, truth: Store, access: Access, *, ttl_s: float, near_rows: int, prefix: str) -> Self:
        """With so much room in the process."""
        notes = Notes()
        far = await RedisClusterCache.open(access, notes, ttl_s=ttl_s, prefix=prefix)
        cache = LayeredCache(LocalCache(rows_max=near_rows, bytes_max=1 << 28, ttl_s=ttl_s), far, notes)
        settings = StorageSettings(data_dir=Path(), cache_ttl_s=ttl_s)
        return cls(shard_over(truth, 0, cache, settings, notes), cache, notes)

    async def read(self, row: Row) -> Row | None:
        """A CACHED read of an order."""
        return (await self.shard.store.read((row.key,), Consistency.CACHED))[0]

    async def write(self, row: Row) -> None:
        """A write, which must be applied."""
        outcome = await self.shard.lanes.write(row, soon(30))
        assert outcome.verdict is Verdict.APPLIED

    async def close(self) -> None:
        """Answers what is under way and closes the cache."""
        await self.shard.lanes.close()
        await self.cache.close()


class Witness:
    """Knows when each version of each order was the truth, and judges what reads answer."""

    SLACK_S: Final = 0.05
    """Times of a row travel in whole milliseconds."""

    def __init__(self, *, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._replaced: defaultdict[Row, float] = defaultdict(lambda: float("inf"))  # when the next version was begun
        self._versions: dict[Row, list[Row]] = {}
        self.reads = 0
        self.oldest_s = 0.0

    async def create(self, face: Face) -> Row:
        """A new order, acknowledged; its first version stands for it."""
        row = new_row()
        await face.write(row)
        self._versions[row] = [row]
        return row

    async def change(self, face: Face, order: Row) -> None:
        """The next version, acknowledged."""
        versions = self._versions[order]
        row = next_version(versions[-1])
        await face.write(row)
        self._replaced[versions[-1]] = time.monotonic()
        versions.append(row)

    def newest(self, order: Row) -> int:
        """The version last acknowledged."""
        return self._versions[order][-1].version

    def judge(self, order: Row, answer: Row | None, *, began: float, least: int) -> None:
        """Fails for an answer that never was the truth, is below ``least``, or was replaced a lifetime ago."""
        assert answer is not None, "an acknowledged order is missing"
        versions = self._versions[order]
        # the last write may be answered before its writer is told
        assert answer in versions or answer.version == versions[-1].version + 1
        assert answer.version >= least
        age_s = began - self._replaced[answer] if answer in self._replaced else 0.0
        self.reads += 1
        self.oldest_s = max(self.oldest_s, age_s)
        assert age_s <= self._ttl_s + self.SLACK_S

    def orders(self) -> Sequence[Row]:
        """All orders."""
        return list(self._versions)
