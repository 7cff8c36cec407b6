"""Who joins a read that is under way is answered nothing older than the lifetime of cached orders."""

import asyncio
from collections.abc import Sequence

from shards.caches.local import LocalCache
from shards.contract import Consistency, Row
from shards.keys import Key
from shards.wrappers.cached import CachedStore
from tests.simulation import virtual_time
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version

TTL_S = 1.0
CACHED = Consistency.CACHED


class SlowStore(MemoryStore):
    """Reads what is there when the read begins, and answers ``slow_s`` later."""

    def __init__(self, slow_s: float) -> None:
        super().__init__()
        self.slow_s = slow_s
        self.reads = 0

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The rows as they were."""
        self.reads += 1
        rows = await super().read(keys, consistency)
        await asyncio.sleep(self.slow_s)  # sleep: simulated, this is the store's work
        return rows


def remembering(store: MemoryStore) -> CachedStore:
    """The store with a memory of ``TTL_S``."""
    return CachedStore(store, LocalCache(rows_max=9, bytes_max=9_999, ttl_s=TTL_S), Notes(), joined_s=TTL_S)


async def read_after(store: CachedStore, key: Key, seconds: float) -> Row | None:
    """What a reader is told who comes so much later."""
    await asyncio.sleep(seconds)  # sleep: simulated
    (row,) = await store.read([key], CACHED)
    return row


def test_an_old_read_is_not_joined() -> None:
    """A reader who comes when a slow read is older than the lifetime is told what another worker wrote since."""

    async def scene() -> None:
        truth = SlowStore(slow_s=3)
        store = remembering(truth)
        one = new_row()
        truth.apply([one])
        first = asyncio.create_task(read_after(store, one.key, 0))
        await asyncio.sleep(0.5)  # sleep: simulated
        two = next_version(one)
        truth.apply([two])
        soon, late, later = await asyncio.gather(*(read_after(store, one.key, pause) for pause in (0.4, 1.4, 1.5)))
        assert (await first, soon) == (one, one)
        assert (late, later) == (two, two)
        assert truth.reads == 2
        assert "reading=0" in repr(store)

    virtual_time.run(scene())


def test_a_read_that_was_replaced_ends_quietly() -> None:
    """When an older read ends, the newer one of the same key is still there to be joined."""

    async def scene() -> None:
        truth = SlowStore(slow_s=3)
        store = remembering(truth)
        one = new_row()
        truth.apply([one])
        pauses = (0, 2.5, 3.3)  # the third comes when the first read has ended and the second is 0.8 s old
        assert await asyncio.gather(*(read_after(store, one.key, pause) for pause in pauses)) == [one] * 3
        assert truth.reads == 2

    virtual_time.run(scene())
