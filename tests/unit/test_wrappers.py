import asyncio
import time

import pytest

from shards.caches.local import LocalCache
from shards.contract import BUCKET_S, SEAL_AFTER_S, Consistency, Corrupt, Full, Overloaded, StoreError, Unavailable
from shards.keys import Key, mint_uuid7, wall_clock_ms
from shards.wrappers import seals as seals_module
from shards.wrappers.bounded import BoundedStore
from shards.wrappers.cached import CachedStore
from shards.wrappers.observed import ObservedCache, ObservedStore
from shards.wrappers.seals import Seals
from tests.support.memory_store import HeldStore, MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version

CACHED, STRONG = Consistency.CACHED, Consistency.STRONG


def cached(store: MemoryStore, notes: Notes | None = None) -> CachedStore:
    """The store with a cache of its own."""
    return CachedStore(store, LocalCache(rows_max=100, bytes_max=1 << 20, ttl_s=60), notes or Notes())


async def test_a_second_read_asks_the_cache() -> None:
    """A row once read is answered from memory; a STRONG read asks the store all the same."""
    store, notes = HeldStore(), Notes()
    row = new_row()
    store.apply([row])
    reader = cached(store, notes)
    first = asyncio.create_task(reader.read([row.key], CACHED))
    (await store.next_call("read")).go()
    assert await first == [row]
    assert await reader.read([row.key], CACHED) == [row]
    strong = asyncio.create_task(reader.read([row.key], STRONG))
    (await store.next_call("read")).go()
    assert await strong == [row]
    assert notes.cache_events == {"hit": 1, "miss": 1, "fill": 2}


async def test_what_is_written_is_remembered() -> None:
    """After a commit, a CACHED read of what was applied does not ask the store, and is of the version written."""
    store = HeldStore()
    writer = cached(store)
    one = new_row()
    for row in (one, next_version(one)):
        commit = asyncio.create_task(writer.commit([row]))
        (await store.next_call("commit")).go()
        await commit
        assert await writer.read([one.key], CACHED) == [row]
    assert store.calls.empty()


async def test_what_is_refused_is_not_remembered() -> None:
    """A row that lost is never answered."""
    store = MemoryStore()
    row = new_row()
    store.apply([row])
    writer = cached(store)
    await writer.commit([row._replace(body=b"loser")])
    assert await writer.read([row.key], CACHED) == [row]


async def test_misses_of_one_key_are_read_once() -> None:
    """Reads of a key that is being read wait for that read; other keys of the same call are read meanwhile."""
    store, notes = HeldStore(), Notes()
    one, two = new_row(), new_row()
    store.apply([one, two])
    reader = cached(store, notes)
    first = asyncio.create_task(reader.read([one.key], CACHED))
    read_one = await store.next_call("read")
    joiner = asyncio.create_task(reader.read([two.key, one.key, two.key], CACHED))
    read_two = await store.next_call("read")
    assert read_two.items == (two.key,)
    read_two.go()
    read_one.go()
    assert await first == [one]
    assert await joiner == [two, one, two]
    assert notes.cache_events["coalesced"] == 1


async def test_absence_is_never_taken_from_an_older_read() -> None:
    """Who joins a read that began before an order was acknowledged, and finds nothing, reads again."""
    store = HeldStore()
    row = new_row()
    reader = cached(store)
    early = asyncio.create_task(reader.read([row.key], CACHED))
    early_read = await store.next_call("read")
    late = asyncio.create_task(reader.read([row.key], CACHED))
    await asyncio.sleep(0)
    early_read.go()
    assert await early == [None]
    store.apply([row])
    (await store.next_call("read")).go()
    assert await late == [row]


async def test_a_reader_who_leaves_takes_nobody_along() -> None:
    """Cancelling the caller who began a read leaves it to those who joined."""
    store = HeldStore()
    row = new_row()
    store.apply([row])
    reader = cached(store)
    leaver = asyncio.create_task(reader.read([row.key], CACHED))
    read = await store.next_call("read")
    joiner = asyncio.create_task(reader.read([row.key], CACHED))
    await asyncio.sleep(0)
    leaver.cancel()
    read.go()
    assert await joiner == [row]
    with pytest.raises(asyncio.CancelledError):
        await leaver


async def test_a_failed_read_is_not_remembered() -> None:
    """All who wait for a read that fails are told, and the next one tries anew."""
    store = HeldStore()
    row = new_row()
    store.apply([row])
    reader = cached(store)
    waiting = [asyncio.create_task(reader.read([row.key], CACHED)) for _ in range(2)]
    (await store.next_call("read")).fail(Unavailable("away"))
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 2
    anew = asyncio.create_task(reader.read([row.key], CACHED))
    (await store.next_call("read")).go()
    assert await anew == [row]
    assert "reading=0" in repr(reader)


async def test_reads_are_bounded() -> None:
    """Beyond so many rows under way reads are refused at once; a single call is never too large."""
    store = HeldStore()
    rows = [new_row() for _ in range(5)]
    store.apply(rows)
    bounded = BoundedStore(store, reads_max=3)
    large = asyncio.create_task(bounded.read([row.key for row in rows], STRONG))
    read = await store.next_call("read")
    with pytest.raises(Overloaded, match="5 reads are under way"):
        await bounded.read([rows[0].key], STRONG)
    with pytest.raises(Overloaded):
        await bounded.list_customer("customer", *rows[0].key[:3], None, 10)
    read.go()
    assert await large == rows
    assert await bounded.list_customer("customer", *rows[0].key[:3], None, 10)
    assert "reads=0/3" in repr(bounded)


async def test_every_call_is_reported() -> None:
    """The observer is told of each call by name and, where it failed, of the error's class."""
    notes = Notes()
    store = HeldStore()
    observed = ObservedStore(store, shard=3, observer=notes)
    row = new_row()
    for name, call in [
        ("commit", observed.commit([row])),
        ("read", observed.read([row.key], STRONG)),
        ("seal", observed.seal(row.key)),
    ]:
        task = asyncio.ensure_future(call)
        (await store.next_call(name)).go()
        await task
    await observed.list_customer("customer", *row.key[:3], None, 10)
    failing = asyncio.create_task(observed.read([row.key], STRONG))
    (await store.next_call("read")).fail(Corrupt("bad page"))
    with pytest.raises(Corrupt):
        await failing
    assert notes.store_calls == [
        (3, "commit", ""),
        (3, "read", ""),
        (3, "seal", ""),
        (3, "list", ""),
        (3, "read", "Corrupt"),
    ]
    await observed.close()
    assert store.closed == 1
    assert observed.limits == store.limits


NOW_MS = 1_800_000_000_000
BUCKET_MS = BUCKET_S * 1000


def key_at(time_ms: int, customer: str = "customer") -> Key:
    """The key of a new order of this time."""
    return new_row(customer, request_id=mint_uuid7(time_ms)).key


def test_a_bucket_is_due_when_its_end_is_old_enough() -> None:
    """All ids of a bucket become due together, so long after the bucket's end and not earlier."""
    start_ms = NOW_MS // BUCKET_MS * BUCKET_MS
    due_ms = start_ms + BUCKET_MS + SEAL_AFTER_S * 1000
    for id_ms in (start_ms, start_ms + BUCKET_MS - 1):
        order_id = key_at(id_ms).order_id
        assert not Seals(MemoryStore(), lambda: due_ms - 1).is_due(order_id)
        assert Seals(MemoryStore(), lambda: due_ms).is_due(order_id)
    assert not Seals(MemoryStore(), lambda: due_ms).is_due(key_at(start_ms + BUCKET_MS).order_id)
    assert not Seals(MemoryStore()).is_due(key_at(wall_clock_ms()).order_id)


async def test_a_bucket_is_sealed_once() -> None:
    """Everybody who meets an old bucket waits for one sealing, and later ones do not ask the store."""
    store = HeldStore()
    seals = Seals(store)
    keys = [key_at(1000, f"c{n}") for n in range(3)]
    waiting = [asyncio.create_task(seals.ensure(key)) for key in keys]
    sealing = await store.next_call("seal")
    waiting[0].cancel()
    sealing.go()
    await asyncio.gather(*waiting[1:])
    await seals.ensure(keys[0])
    assert store.calls.empty()
    assert store.sealed == {store.place(keys[0])}
    assert repr(seals) == "Seals(remembered=1, under_way=0)"


@pytest.mark.parametrize(
    ("error", "told"), [(Full("full"), Full), (Corrupt("bad"), Corrupt), (StoreError("lost"), Unavailable)]
)
async def test_a_failed_sealing_has_written_no_order(error: StoreError, told: type[StoreError]) -> None:
    """Who waits for a sealing that fails is told that nothing was written, and the next one tries anew."""
    store = HeldStore()
    seals = Seals(store)
    waiting = asyncio.create_task(seals.ensure(key_at(1000)))
    (await store.next_call("seal")).fail(error)
    with pytest.raises(told):
        await waiting
    anew = asyncio.create_task(seals.ensure(key_at(1000)))
    (await store.next_call("seal")).go()
    await anew


async def test_sealing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more buckets than stated are sealed at once, or remembered; a forgotten one is sealed again."""
    monkeypatch.setattr(seals_module, "_UNDER_WAY_MAX", 2)
    monkeypatch.setattr(seals_module, "_REMEMBERED_MAX", 2)
    store = HeldStore()
    seals = Seals(store)
    keys = [key_at(1000 + n * BUCKET_MS) for n in range(3)]
    waiting = [asyncio.create_task(seals.ensure(key)) for key in keys[:2]]
    calls = [await store.next_call("seal") for _ in range(2)]
    with pytest.raises(Overloaded):
        await seals.ensure(keys[2])
    for call in calls:
        call.go()
    await asyncio.gather(*waiting)
    for key in (keys[2], keys[0]):
        task = asyncio.create_task(seals.ensure(key))
        (await store.next_call("seal")).go()
        await task
    assert "remembered=2" in repr(seals)


async def test_wrappers_show_what_is_inside() -> None:
    """The text of a wrapped store names every layer, for whoever looks at a live process."""
    store: MemoryStore = MemoryStore()
    text = repr(BoundedStore(ObservedStore(cached(store), shard=0, observer=Notes()), reads_max=1))
    assert text.startswith("BoundedStore(ObservedStore(CachedStore(")


async def test_calls_of_a_cache_are_reported() -> None:
    """Each get and put of a cache is told with its time, and passed on."""
    notes = Notes()
    cache = ObservedCache(LocalCache(rows_max=10, bytes_max=10_000, ttl_s=60), notes)
    row = new_row()
    await cache.put([row], time.monotonic())
    assert await cache.get([row.key]) == [row]
    assert notes.cache_calls == ["put", "get"]
