"""No read of a process answers a version older than one whose commit there was acknowledged before."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from shards.caches.local import LocalCache
from shards.contract import Consistency, Row
from shards.keys import Key
from shards.wrappers.cached import CachedStore
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version

CACHED, STRONG = Consistency.CACHED, Consistency.STRONG


class Stubborn:
    """A cache that answers the first version of everything, however often newer ones are put."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """The oldest there is."""
        return [self.rows.get(key) for key in keys]

    async def put(self, rows: Sequence[Row], read_started: float) -> None:
        """Keeps what is there."""
        assert read_started <= time.monotonic()
        for row in rows:
            self.rows.setdefault(row.key, row)

    async def created(self, rows: Sequence[Row], commit_started: float) -> None:
        """As any other row."""
        await self.put(rows, commit_started)

    async def close(self) -> None:
        """Nothing to do."""


async def test_a_cache_that_missed_a_write_is_not_believed() -> None:
    """A row older than what this process wrote is read from the store instead, and reported as stale."""
    notes, cache = Notes(), Stubborn()
    store = CachedStore(MemoryStore(), cache, notes)
    one, other = new_row(), new_row()
    two = next_version(one)
    for row in (one, other, two):
        await store.commit([row])
    assert await store.read([other.key, one.key], CACHED) == [other, two]
    assert notes.cache_events["stale"] == 1


async def overtaken() -> tuple[CachedStore, Row, Row]:
    """A store whose cache answers a row, that row, and the version that another process has stored since."""
    truth = MemoryStore()
    store = CachedStore(truth, Stubborn(), Notes())
    one = new_row()
    two = next_version(one)
    await store.commit([one])
    truth.apply([two])
    assert await store.read([one.key], CACHED) == [one]
    return store, one, two


async def test_a_write_that_was_settled_counts() -> None:
    """A version that a STRONG read has shown, by which lanes settle a lost answer, is not gone behind either."""
    store, one, two = await overtaken()
    assert await store.read([one.key], STRONG) == [two]
    assert await store.read([one.key], CACHED) == [two]


async def test_a_write_that_was_there_already_counts() -> None:
    """A version that a refused commit has shown, as of a row that another process had stored for this one, counts."""
    store, one, two = await overtaken()
    (outcome,) = await store.commit([two])
    assert outcome.present == two
    assert await store.read([one.key], CACHED) == [two]


async def test_after_its_time_a_floor_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are compared for as long as the cache remembers, and not for ever."""
    cache = Stubborn()
    store = CachedStore(MemoryStore(), cache, Notes(), remembered_s=10)
    one, other = new_row(), new_row()
    await store.commit([one])
    await store.commit([next_version(one)])
    later = time.monotonic() + 11
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await store.commit([other])
    await store.commit([next_version(other)])
    assert "Floors(1/" in repr(store._floors)


class SlowReads(MemoryStore):
    """Reads find what is there when they begin, and answer when ``open`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.reads = 0

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The rows as they were."""
        self.reads += 1
        rows = await super().read(keys, consistency)
        await self.open.wait()
        return rows


async def test_a_read_that_began_before_a_write_is_not_joined_for_good() -> None:
    """Who joins a read that began before a write was acknowledged, and finds the older version, reads again."""
    truth = SlowReads()
    # remembers nothing, so that every read goes to the store
    store = CachedStore(truth, LocalCache(rows_max=0, bytes_max=0, ttl_s=1), Notes())
    one = new_row()
    two = next_version(one)
    truth.apply([one])
    before = asyncio.create_task(store.read([one.key], CACHED))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert truth.reads == 1
    await store.commit([two])
    after = asyncio.create_task(store.read([one.key], CACHED))
    await asyncio.sleep(0)
    truth.open.set()
    assert await before == [one]
    assert await after == [two]
    assert truth.reads == 2
