import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from shards.assembly import StorageSettings, open_router, prepare, shard_over
from shards.caches.local import LocalCache
from shards.contract import (
    APPLIED,
    SEALED,
    Consistency,
    DeadlineExceeded,
    Outcome,
    Row,
    Unavailable,
    Verdict,
)
from shards.keys import Key, mint_uuid7
from shards.routing import Router
from shards.topology import Topology
from tests.support.memory_store import HeldStore, MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version, soon

CACHED, STRONG = Consistency.CACHED, Consistency.STRONG
SETTINGS = StorageSettings(data_dir=Path("none"))


def router_over(*stores: MemoryStore, notes: Notes | None = None, topology: Topology | None = None) -> Router:
    """A router with one shard a store and a cache of its own."""
    notes = notes or Notes()
    cache = LocalCache(rows_max=100, bytes_max=1 << 20, ttl_s=60)
    shards = {number: shard_over(store, number, cache, SETTINGS, notes) for number, store in enumerate(stores)}
    return Router.over(topology or Topology.initial(len(stores)), shards, notes, AsyncExitStack())


async def write(router: Router, row: Row) -> Outcome:
    """Writes a row through the router."""
    return await router.write(row.key.order_id, row.customer, row.marks, row.body, soon())


async def test_an_order_lives_where_the_topology_says() -> None:
    """Each row is stored by the shard of its slot, is found there by id and by customer, and nowhere else."""
    stores = [MemoryStore() for _ in range(3)]
    router = router_over(*stores)
    rows = [new_row(f"customer {n}") for n in range(50)]
    assert await asyncio.gather(*[write(router, row) for row in rows]) == [APPLIED] * 50
    for row in rows:
        assert stores[router.topology.slot_shards[row.key.slot]].rows[row.key] == row
        assert await router.read(row.key.order_id, STRONG, deadline=soon()) == row
        assert await router.list_customer(row.customer, None, 10, deadline=soon()) == [row]
    assert sum(len(store.rows) for store in stores) == 50


async def test_a_moved_slot_is_asked_under_its_gen() -> None:
    """Rows are written and read under the gen of their slot, so copies of an earlier stay are out of reach."""
    topology = Topology.initial(2).with_shard_added().with_shard_removed(2)
    slot_gens = tuple(gen + 1 for gen in topology.slot_gens)
    topology = Topology(9, topology.shards, topology.slot_shards, slot_gens, 3)
    stores = [MemoryStore(), MemoryStore()]
    router = router_over(*stores, topology=topology)
    row = new_row()
    stores[topology.slot_shards[row.key.slot]].apply([row])
    assert await router.read(row.key.order_id, CACHED, deadline=soon()) is None
    assert await write(router, row) == APPLIED
    found = await router.read(row.key.order_id, CACHED, deadline=soon())
    assert found is not None
    assert found.key.gen == slot_gens[row.key.slot] > 0


async def test_a_stale_answer_is_read_again() -> None:
    """A cached row older than the caller's minimum is read from the store; a minimum that does not exist is told."""
    store, notes = MemoryStore(), Notes()
    router = router_over(store, notes=notes)
    one = new_row()
    await write(router, one)
    two = next_version(one)
    store.apply([two])
    assert await router.read(one.key.order_id, CACHED, deadline=soon()) == one
    assert await router.read(one.key.order_id, CACHED, min_version=2, deadline=soon()) == two
    assert await router.read(one.key.order_id, CACHED, deadline=soon()) == two
    assert await router.read(one.key.order_id, CACHED, min_version=3, deadline=soon()) == two
    assert notes.cache_events["stale"] == 2


async def test_who_joins_a_read_checks_its_own_minimum() -> None:
    """A caller who joined a read that began before a change, and needs that change, gets it."""
    store = HeldStore()
    one = new_row()
    two = next_version(one)
    store.apply([one])
    router = router_over(store)
    first = asyncio.create_task(router.read(one.key.order_id, CACHED, deadline=soon()))
    read = await store.next_call("read")
    joiner = asyncio.create_task(router.read(one.key.order_id, CACHED, min_version=2, deadline=soon()))
    await asyncio.sleep(0)
    read.go()
    assert await first == one
    store.apply([two])
    (await store.next_call("read")).go()
    assert await joiner == two


async def test_each_shard_answers_for_itself() -> None:
    """Of a read of many the ids of a shard that fails carry its error, and the others their rows or None."""
    good, bad = MemoryStore(), HeldStore()
    router = router_over(good, bad)
    rows = [new_row(f"customer {n}") for n in range(20)]
    on_good = [row for row in rows if router.topology.slot_shards[row.key.slot] == 0]
    good.apply(on_good[1:])
    ids = [row.key.order_id for row in rows]
    reading = asyncio.create_task(router.read_many([*ids, ids[0]], CACHED, deadline=soon()))
    (await bad.next_call("read")).fail(Unavailable("away"))
    found = await reading
    assert list(found) == ids
    assert found[on_good[0].key.order_id] is None
    for row in rows:
        answer = found[row.key.order_id]
        if row in on_good[1:]:
            assert answer == row
        elif row not in on_good:
            assert isinstance(answer, Unavailable)
    assert await router.read_many([], STRONG, deadline=soon()) == {}


async def test_reads_end_at_their_deadline() -> None:
    """A store that does not answer in time costs its caller the deadline and no more."""
    store = HeldStore()
    router = router_over(store)
    row = new_row()
    for consistency in Consistency:
        with pytest.raises(DeadlineExceeded):
            await router.read(row.key.order_id, consistency, deadline=soon(0.01))
    found = await router.read_many([row.key.order_id], STRONG, deadline=soon(0.01))
    assert isinstance(found[row.key.order_id], DeadlineExceeded)


class _Stepwise(MemoryStore):
    """Suspends its reader a few times, as drivers do, and tells how each read ended."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.ends: list[str] = []
        self._error = error

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The row of each key, or the error, after a while."""
        try:
            await asyncio.sleep(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):  # a limit of its own, inside of the caller's
                    await asyncio.Event().wait()
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise
        if self._error:
            raise self._error
        return await super().read(keys, consistency)


async def test_reads_that_suspend_end_as_any_await() -> None:
    """What a store answers or raises after it was waited for reaches the caller; who is cancelled cancels the read."""
    row = new_row()
    store = _Stepwise()
    store.apply([row])
    assert await router_over(store).read(row.key.order_id, STRONG, deadline=soon()) == row
    for seconds in (0.005, -1):
        with pytest.raises(DeadlineExceeded):
            await router_over(store).read(row.key.order_id, STRONG, deadline=time.monotonic() + seconds)
    left = asyncio.create_task(router_over(store).read(row.key.order_id, STRONG, deadline=soon()))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert store.ends == ["CancelledError"] * 3
    with pytest.raises(Unavailable, match="away"):
        await router_over(_Stepwise(Unavailable("away"))).read(row.key.order_id, STRONG, deadline=soon())


async def test_what_is_there_at_once_is_answered_at_any_deadline() -> None:
    """A read that need not wait, as of what the worker remembers, is answered though its deadline has just passed."""
    row = new_row()
    store = MemoryStore()
    store.apply([row])
    assert await router_over(store).read(row.key.order_id, STRONG, deadline=time.monotonic() - 1) == row


async def test_an_old_id_is_sealed_before_it_may_create() -> None:
    """An id of a bucket long past creates nothing, unless its order is there; a transition of it is free."""
    store = MemoryStore()
    router = router_over(store)
    there, late = (new_row(request_id=mint_uuid7(1_000_000)) for _ in range(2))
    store.apply([there])
    assert await write(router, late) == SEALED
    assert store.sealed == {store.place(late.key)}
    assert await write(router, there) == Outcome(Verdict.CLASH, there)
    assert await write(router, next_version(there)) == APPLIED


async def test_a_sealing_that_does_not_end_costs_its_own_caller_only() -> None:
    """While an old bucket is being sealed, other orders of the lane are written; the caller waits to its deadline."""
    store = HeldStore()
    router = router_over(store)
    old = new_row(request_id=mint_uuid7(1_000_000))
    late = asyncio.create_task(router.write(old.key.order_id, old.customer, old.marks, old.body, soon(0.05)))
    await store.next_call("seal")
    writing = asyncio.create_task(write(router, new_row()))
    (await store.next_call("commit")).go()
    assert await writing == APPLIED
    with pytest.raises(DeadlineExceeded):
        await late


async def test_what_is_assembled_works_and_closes(tmp_path: Path) -> None:
    """Orders written through an assembled router are there after closing it and opening another."""
    settings = StorageSettings(data_dir=tmp_path / "data", shards=3)
    lock = prepare(settings)
    rows = [new_row(f"customer {n}") for n in range(20)]
    router = await open_router(settings, Notes())
    assert await asyncio.gather(*[write(router, row) for row in rows]) == [APPLIED] * 20
    await router.close()
    await router.close()
    with pytest.raises(Unavailable):
        await write(router, new_row())
    router = await open_router(settings, Notes())
    found = await router.read_many([row.key.order_id for row in rows], CACHED, deadline=soon())
    assert list(found.values()) == rows
    assert "rows=0/4096" in repr(router)
    await router.close()
    os.close(lock)


def test_an_unknown_store_is_named() -> None:
    """Settings of a store that does not exist say which do."""
    with pytest.raises(ValueError, match="store 'paper'; there are embedded"):
        StorageSettings(data_dir=Path("none"), store="paper")
