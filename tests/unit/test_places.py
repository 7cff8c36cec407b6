"""Slots that are paused, moved and served again under operations that are under way."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import (
    APPLIED,
    Consistency,
    DeadlineExceeded,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    Store,
    StoreError,
    Verdict,
)
from shards.leases.hold import Hold
from shards.places import FINISH_S, SETTLE_S, LeaseLost, Place, Places
from shards.routing import Router
from shards.topology import ShardInfo, Topology
from tests.support.memory_store import HeldStore, MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version, soon

STRONG, CACHED = Consistency.STRONG, Consistency.CACHED
SETTINGS = StorageSettings(data_dir=Path("none"))
SOURCE, TARGET = 0, 1

BEFORE = Topology(1, (ShardInfo(SOURCE), ShardInfo(TARGET)), (SOURCE,) * 4096, (0,) * 4096, 2)


def flipped(slot: int, epoch: int = 2, gen: int = 9, shard: int = TARGET) -> Topology:
    """The topology with one slot on another shard."""
    shards, gens = list(BEFORE.slot_shards), list(BEFORE.slot_gens)
    shards[slot], gens[slot] = shard, gen
    return Topology(epoch, BEFORE.shards, tuple(shards), tuple(gens), 2)


class World:
    """A worker with two shards."""

    def __init__(self, source: Store | None = None) -> None:
        self.notes = Notes()
        self.source = source or MemoryStore()
        self.target = MemoryStore()
        self.holds = {number: Hold(float("inf")) for number in (SOURCE, TARGET)}
        cache = LocalCache(rows_max=100, bytes_max=1 << 20, ttl_s=60)
        stores = {SOURCE: self.source, TARGET: self.target}
        shards = {n: shard_over(store, n, cache, SETTINGS, self.notes) for n, store in stores.items()}
        self.places = Places(BEFORE, shards, self.notes, self.holds)
        self.router = Router(self.places, self.notes, AsyncExitStack())

    async def write(self, row: Row, deadline: float | None = None) -> Outcome:
        """Writes a row through the router."""
        key = row.key
        return await self.router.write(key.order_id, row.customer, row.marks, row.body, deadline or soon())

    async def read(self, row: Row) -> Row | None:
        """Reads its order."""
        return await self.router.read(row.key.order_id, STRONG, deadline=soon())

    async def move(self, slot: int) -> None:
        """Pauses a slot, copies its rows, and flips it."""
        await self.places.pause(SOURCE, frozenset({slot}))
        assert isinstance(self.source, MemoryStore)
        for row in self.source.rows.values():
            if row.key.slot == slot:
                self.target.rows[row.key._replace(gen=9)] = row._replace(key=row.key._replace(gen=9))
        self.places.adopt(flipped(slot))


async def test_a_slot_that_was_opened_stays_where_it_is_until_a_topology_knows_better() -> None:
    """It is served from its target before the topology says so, no topology of before takes it back; a later may."""
    world, row = World(), new_row("customer")
    slot = row.key.slot
    await world.places.pause(SOURCE, frozenset({slot}))
    world.places.open([(slot, TARGET)], 9)
    assert await world.write(row) is APPLIED
    assert [key.gen for key in world.target.rows] == [9]
    world.places.adopt(replace(BEFORE, epoch=2))
    world.places.serve(SOURCE, frozenset())
    assert await world.read(row) is not None
    world.places.adopt(flipped(slot, epoch=3))
    assert await world.read(row) is not None
    world.places.open([(slot, SOURCE)], 9)
    assert world.places.slots[slot].shard_id == TARGET
    world.places.adopt(flipped(slot, epoch=4, gen=11, shard=SOURCE))
    assert (world.places.slots[slot].shard_id, world.places.slots[slot].gen) == (SOURCE, 11)


async def test_operations_wait_while_their_slot_is_paused() -> None:
    """Reads, lists, batches and writes begun in a pause wait, and are answered by where the slot has moved."""
    world, row = World(), new_row("customer")
    assert await world.write(row) is APPLIED
    slot = row.key.slot
    await world.places.pause(SOURCE, frozenset({slot}))
    later = next_version(row)
    waiting = [
        asyncio.ensure_future(call)
        for call in (
            world.write(later),
            world.router.read(row.key.order_id, CACHED, deadline=soon()),
            world.router.read_many([row.key.order_id], STRONG, deadline=soon()),
            world.router.list_customer("customer", None, 10, deadline=soon()),
        )
    ]
    await asyncio.sleep(0.01)  # sleep: nothing is to happen
    assert not any(call.done() for call in waiting)
    assert world.notes.waiters_most == len(waiting)
    moved = row._replace(key=row.key._replace(gen=9))
    world.target.rows[moved.key] = moved
    world.places.adopt(flipped(slot))
    written, read, many, listed = await asyncio.gather(*waiting)
    assert written is APPLIED
    newer = next_version(moved, body=later.body)._replace(marks=later.marks)
    assert world.target.rows[moved.key] == newer
    assert isinstance(read, Row | None)
    assert isinstance(many, dict)
    assert isinstance(listed, Sequence)
    assert {read, *many.values(), *listed} <= {moved, newer}
    assert len(world.notes.waits_s) == len(waiting)
    assert world.source.rows[row.key] == row  # type: ignore[attr-defined]  # a memory store


async def test_other_slots_go_on() -> None:
    """A paused slot holds up nothing but itself, in batches too."""
    world, row, other = World(), new_row("customer"), new_row("another")
    assert row.key.slot != other.key.slot
    for one in (row, other):
        await world.write(one)
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    assert await world.read(other) == other
    ids = [row.key.order_id, other.key.order_id]
    many = await world.router.read_many(ids, STRONG, deadline=time.monotonic() + 0.5)
    assert many[ids[1]] == other
    assert isinstance(many[ids[0]], DeadlineExceeded)


async def test_a_slot_that_is_not_moved_after_all_is_served_again() -> None:
    """When a pause ends without a move, those who waited find their orders where they were."""
    world, row = World(), new_row()
    await world.write(row)
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    reading = asyncio.ensure_future(world.read(row))
    await asyncio.sleep(0)
    world.places.serve(SOURCE, frozenset())
    assert await reading == row


async def test_an_answer_found_before_the_move_is_not_given() -> None:
    """What a held up read or write finds at the source after the slot has moved is found again at the target."""
    store = HeldStore()
    world, row = World(store), new_row()
    writing = asyncio.ensure_future(world.write(row))
    reading = asyncio.ensure_future(world.read(row))
    calls = [await store.next_call("read"), await store.next_call("commit")]
    started = time.monotonic()
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    assert time.monotonic() - started < 5  # it does not wait for what is held up
    newer = next_version(row._replace(key=row.key._replace(gen=9)))
    world.target.rows[newer.key] = newer
    world.places.adopt(flipped(row.key.slot))
    for call in calls:
        call.go()
    assert await reading == newer
    assert await writing == Outcome(Verdict.CLASH, newer)
    assert world.notes.reruns == {"write": 1, "read": 1}


async def test_what_the_first_run_stored_is_applied() -> None:
    """A write that was stored at the source, and copied, before it could be answered, is answered as applied."""
    store = HeldStore()
    world, row = World(store), new_row()
    writing = asyncio.ensure_future(world.write(row))
    commit = await store.next_call("commit")
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    copied = row._replace(key=row.key._replace(gen=9))
    world.target.rows[copied.key] = copied
    world.places.adopt(flipped(row.key.slot))
    commit.go()
    assert await writing is APPLIED


async def test_a_write_that_may_be_stored_stays_in_doubt() -> None:
    """When the slot is not served again before the deadline, a write that was stored is not said to be not written."""
    store = HeldStore()
    world, row = World(store), new_row()
    writing = asyncio.ensure_future(world.write(row, time.monotonic() + 1.0))
    commit = await store.next_call("commit")
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    commit.go()
    with pytest.raises(OutcomeUnknown):
        await writing


async def test_a_write_that_waited_in_vain_was_not_made() -> None:
    """A write that never began ends as such."""
    world, row = World(), new_row()
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    with pytest.raises(DeadlineExceeded):
        await world.write(row, time.monotonic() + 0.05)
    assert world.source.rows == {}  # type: ignore[attr-defined]  # a memory store


async def test_nothing_is_answered_without_the_lease() -> None:
    """When the lease has run out reads end as unavailable, and a write that was stored meanwhile is in doubt."""
    store = HeldStore()
    world, row = World(store), new_row()
    world.holds[SOURCE].until_s = time.clock_gettime(time.CLOCK_BOOTTIME) + 1000
    writing = asyncio.ensure_future(world.write(row))
    commit = await store.next_call("commit")
    world.holds[SOURCE].end()
    commit.go()
    for answer in (world.read(row), world.router.list_customer(row.customer, None, 1, deadline=soon())):
        with pytest.raises(LeaseLost):
            await answer
    (found,) = (await world.router.read_many([row.key.order_id], STRONG, deadline=soon())).values()
    assert isinstance(found, LeaseLost)
    with pytest.raises(OutcomeUnknown):
        await writing


async def test_a_lease_that_is_back_soon_is_waited_for() -> None:
    """An operation that a lapse of the lease has overtaken is answered when the lease is there again."""
    store = HeldStore()
    world, row = World(store), new_row()
    writing = asyncio.ensure_future(world.write(row))
    commit = await store.next_call("commit")
    world.holds[SOURCE].end()
    reading = asyncio.ensure_future(world.read(row))
    commit.go()
    await asyncio.sleep(0.01)  # sleep: nothing is to happen
    assert not writing.done()
    world.holds[SOURCE].extend(float("inf"))
    assert await writing is APPLIED
    (await store.next_call("read")).go()
    assert await reading == row
    assert world.notes.reruns == {}


async def test_there_is_an_end_to_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most allowed, operations on a paused slot are refused at once."""
    monkeypatch.setattr("shards.places.WAITERS_MAX", 3)
    world, row = World(), new_row()
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    waiting = [asyncio.ensure_future(world.read(row)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await world.write(row)
    world.places.serve(SOURCE, frozenset())
    assert await asyncio.gather(*waiting) == [None] * 3


async def test_operations_under_way_finish_before_a_pause() -> None:
    """An operation that ends soon after its slot was paused is answered, and the pause returns as soon as it has."""
    store = HeldStore()
    world, row = World(store), new_row()
    writing = asyncio.ensure_future(world.write(row))
    commit = await store.next_call("commit")
    pausing = asyncio.ensure_future(world.places.pause(SOURCE, frozenset({row.key.slot})))
    await asyncio.sleep(0)
    commit.go()
    assert await writing is APPLIED
    await pausing
    assert world.notes.paused == {SOURCE: 1}
    assert world.notes.reruns == {}


def test_a_pause_waits_longer_for_what_may_still_be_stored() -> None:
    """Reads have a moment to end, writes longer, and so has a write whose caller left before its outcome was known."""
    place = Place(SOURCE, None, Hold(float("inf")), 0, is_paused=False)
    assert not place.is_busy(0.0)
    place.under_way += 1
    assert [place.is_busy(waited_s) for waited_s in (0.0, FINISH_S)] == [True, False]
    place.end()
    place.under_way += 1
    place.writing += 1
    assert [place.is_busy(waited_s) for waited_s in (0.0, FINISH_S, SETTLE_S)] == [True, True, False]
    place.end_write(is_settled=True)
    assert not place.is_busy(0.0)
    place.under_way += 1
    place.writing += 1
    place.end_write(is_settled=False)
    assert place.is_busy(0.0)


async def test_a_shard_that_is_not_open_makes_its_slots_unavailable() -> None:
    """A slot on a shard that this worker has not opened is unavailable; once it is open the slot is served."""
    world, row = World(), new_row()
    topology = flipped(row.key.slot, shard=7)
    world.places.adopt(topology)
    with pytest.raises(LeaseLost):
        await world.read(row)
    notes = Notes()
    cache = LocalCache(rows_max=100, bytes_max=1 << 20, ttl_s=60)
    world.places.opened(7, shard_over(world.target, 7, cache, SETTINGS, notes))
    world.places.hold(7).extend(float("inf"))
    assert await world.write(row) is APPLIED
    assert row.key._replace(gen=9) in world.target.rows


async def test_errors_at_the_source_do_not_outlive_the_move() -> None:
    """A source that fails after the slot has left it is nobody's concern."""
    store = HeldStore()
    world, row = World(store), new_row()
    reading = asyncio.ensure_future(world.read(row))
    call = await store.next_call("read")
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    world.places.adopt(flipped(row.key.slot))
    call.fail(StoreError("gone"))
    assert await reading is None
