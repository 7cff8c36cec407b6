import asyncio
import time
from collections.abc import Sequence

from shards.caches import layered
from shards.caches.layered import LayeredCache
from shards.caches.local import LocalCache
from shards.contract import Row
from shards.keys import Key
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version


class Far:
    """A far cache that a test looks into and holds up."""

    def __init__(self) -> None:
        self.readings: dict[Key, tuple[Row, float]] = {}
        self.asked: list[Key] = []
        self.stores: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.closed = 0

    async def find(self, keys: Sequence[Key]) -> Sequence[tuple[Row, float] | None]:
        """What a test has put in."""
        self.asked += keys
        return [self.readings.get(key) for key in keys]

    async def store(self, readings: Sequence[tuple[Row, float]]) -> None:
        """Takes rows when it is open."""
        await self.open.wait()
        self.stores.append(len(readings))
        self.readings.update({row.key: (row, began) for row, began in readings})

    async def close(self) -> None:
        """Counts."""
        self.closed += 1


def near(rows_max: int = 100) -> LocalCache:
    """A cache with a lifetime of 10 s."""
    return LocalCache(rows_max=rows_max, bytes_max=1 << 30, ttl_s=10.0, chance=lambda: 0.0)


async def test_far_is_asked_for_what_is_not_near() -> None:
    """Only misses go far, and what is found there is near from then on, for what is left of its life."""
    far, notes = Far(), Notes()
    cache = LayeredCache(near(), far, notes)
    here, there, nowhere, old = (new_row() for _ in range(4))
    now = time.monotonic()
    far.readings = {there.key: (there, now - 1), old.key: (old, now - 20)}
    await cache.put([here], now)
    keys = [row.key for row in (here, there, nowhere, old)]
    assert await cache.get(keys) == [here, there, None, old]
    assert far.asked == keys[1:]
    await cache.get(keys)
    assert far.asked[3:] == keys[2:]
    await cache.close()


async def test_nobody_waits_for_far() -> None:
    """A put returns while the far cache hangs; what gathers goes there together, the newest version of each order."""
    far = Far()
    cache = LayeredCache(near(), far, Notes())
    rows = [new_row() for _ in range(3)]
    far.open.clear()
    await cache.put(rows[:1], 1.0)
    await asyncio.sleep(0)
    newer = next_version(rows[1])
    await cache.put([newer, rows[2]], 2.0)
    await cache.put([rows[1]], 3.0)
    assert "waiting=2/" in repr(cache)
    far.open.set()
    await cache.close()
    assert far.stores == [1, 2]
    assert far.readings[newer.key] == (newer, 2.0)
    assert far.closed == 1


async def test_what_waits_is_bounded() -> None:
    """When too many rows wait for a far cache that hangs, more are left out, and reported."""
    far, notes = Far(), Notes()
    far.open.clear()
    cache = LayeredCache(near(), far, notes)
    await cache.put([new_row() for _ in range(layered.WAITING_ROWS_MAX + 3)], 1.0)
    assert notes.cache_events == {"error": 3}
    far.open.set()
    await cache.close()
    assert max(far.stores) <= layered.STORED_ROWS_MAX
    assert sum(far.stores) == layered.WAITING_ROWS_MAX


async def test_what_was_just_created_stays_near() -> None:
    """A new order is remembered in this process only; its next version goes far, as every other read and write does."""
    far = Far()
    cache = LayeredCache(near(), far, Notes())
    one = new_row()
    two = next_version(one)
    await cache.created([one], time.monotonic())
    assert await cache.get([one.key]) == [one]
    await cache.put([two], time.monotonic())
    await cache.close()
    assert [row for row, _ in far.readings.values()] == [two]
    assert far.stores == [1]


async def test_without_room_near_all_is_far() -> None:
    """With no rows near, reads are answered from far."""
    far = Far()
    cache = LayeredCache(near(rows_max=0), far, Notes())
    row = new_row()
    await cache.put([row], time.monotonic())
    await cache.close()
    assert await cache.get([row.key]) == [row]
