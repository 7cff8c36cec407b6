"""Many rows of one call: each has its own outcome, and none holds on to another."""

import asyncio
import gc
import time

import pytest

from shards.contract import APPLIED, CommitLimits, Outcome, OutcomeUnknown, Row, Store, StoreError, Unavailable, Verdict
from shards.routing import Found, Write
from shards.writing import _Together
from tests.support.memory_store import HeldStore, MemoryStore
from tests.support.rows import new_row, next_version, soon
from tests.unit.test_places import SOURCE, World, flipped

THREE = CommitLimits(rows_max=3, bytes_max=1 << 20, in_flight_max=1)


def asked(rows: list[Row]) -> list[Write]:
    """What the server asks for to store these rows."""
    return [Write(row.key.order_id, row.customer, row.marks, row.body) for row in rows]


def some_rows(count: int) -> list[Row]:
    """Rows of as many slots."""
    rows = {row.key.slot: row for row in (new_row(f"customer {number}") for number in range(10 * count))}
    return list(rows.values())[:count]


def groups_alive() -> int:
    """How many groups of rows the interpreter holds."""
    # by type: a weak proxy, which other tests may leave, would ask what it stands for, and that may be gone
    return sum(type(one) is _Together for one in gc.get_objects())


async def stored(store: Store, rows: int) -> None:
    """Returns when a memory store has so many rows."""
    assert isinstance(store, MemoryStore)
    while len(store.rows) < rows:  # noqa: ASYNC110  a store tells nobody
        await asyncio.sleep(0)


def under_way(world: World, rows: list[Row]) -> int:
    """Operations that have begun at the rows' places and not ended."""
    places = [world.places.slots[row.key.slot] for row in rows]
    assert all(place.writing <= place.under_way for place in places)
    return sum(place.under_way for place in places)


async def test_each_row_has_its_own_outcome() -> None:
    """New rows are applied, one of another order's version clashes with what is there, and all stand in order."""
    world, (first, taken, stale, last) = World(), some_rows(4)
    for row in (taken, stale):
        assert await world.write(row) is APPLIED
    other = taken._replace(body=b"of somebody else")
    found = await world.router.write_many(asked([first, other, next_version(next_version(stale)), last]), soon())
    assert found == [APPLIED, Outcome(Verdict.CLASH, taken), Outcome(Verdict.CLASH, stale), APPLIED]


async def test_nothing_is_written_of_nothing() -> None:
    """A call without rows is answered at once."""
    assert await World().router.write_many([], soon()) == []


async def test_a_commit_that_fails_fails_its_own_rows() -> None:
    """When a commit fails, its rows are told so, each with an error of its own; those of the next are applied."""
    store = HeldStore(THREE)
    world, rows = World(store), some_rows(6)
    writing = asyncio.ensure_future(world.router.write_many(asked(rows), soon()))
    (await store.next_call("commit")).fail(Unavailable("away"))
    (await store.next_call("commit")).go()
    found = await writing
    assert [type(one) for one in found] == [Unavailable] * 3 + [Outcome] * 3
    assert len({id(one) for one in found[:3]}) == 3
    assert under_way(world, rows) == 0


async def test_rows_that_there_is_no_room_for_are_refused_alone() -> None:
    """Rows beyond the queue's bound are refused; those before them are applied."""
    store = HeldStore(THREE)
    world, rows = World(store), some_rows(6)
    world.places.slots[rows[0].key.slot].shard.lanes._rows_max = 4  # type: ignore[union-attr]  # small, for once
    writing = asyncio.ensure_future(world.router.write_many(asked(rows), soon()))
    for _ in range(2):
        (await store.next_call("commit")).go()
    assert [type(one).__name__ for one in await writing] == ["Outcome"] * 4 + ["Overloaded"] * 2
    assert under_way(world, rows) == 0


async def test_a_paused_slot_holds_up_its_own_rows() -> None:
    """Rows of other slots are stored while one waits; all are answered when its slot is served again."""
    world, rows = World(), some_rows(3)
    slot = rows[1].key.slot
    await world.places.pause(SOURCE, frozenset({slot}))
    writing = asyncio.ensure_future(world.router.write_many(asked(rows), soon()))
    await stored(world.source, 2)
    assert under_way(world, rows) == 0
    assert not writing.done()
    world.places.serve(SOURCE, frozenset())
    assert await writing == [APPLIED] * 3
    assert world.notes.reruns == {}


async def test_a_row_whose_slot_moves_is_written_where_it_is_then() -> None:
    """Of rows under way, the one whose slot has moved meanwhile is written again there; the others are not."""
    store = HeldStore()
    world, rows = World(store), some_rows(3)
    writing = asyncio.ensure_future(world.router.write_many(asked(rows), soon()))
    commit = await store.next_call("commit")
    world.places.adopt(flipped(rows[1].key.slot))
    commit.go()
    assert await writing == [APPLIED] * 3
    assert list(world.target.rows) == [rows[1].key._replace(gen=9)]
    assert world.notes.reruns == {"write": 1}
    assert under_way(world, rows) == 0


async def test_a_failure_before_a_move_leaves_the_row_in_doubt() -> None:
    """A row whose write failed, and whose slot is not served again in time, is not said to be not written."""
    store = HeldStore()
    world, (row,) = World(store), some_rows(1)
    writing = asyncio.ensure_future(world.router.write_many(asked([row]), time.monotonic() + 1.0))
    commit = await store.next_call("commit")
    await world.places.pause(SOURCE, frozenset({row.key.slot}))
    commit.fail(StoreError("no answer"))
    (found,) = await writing
    assert isinstance(found, OutcomeUnknown)


async def test_who_leaves_takes_along_what_waits() -> None:
    """When the caller is cancelled, rows that wait are dropped; a pause knows that those under way may be stored."""
    store = HeldStore(THREE)
    world, rows = World(store), some_rows(5)
    writing = asyncio.ensure_future(world.router.write_many(asked(rows), soon()))
    commit = await store.next_call("commit")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert under_way(world, rows) == 0
    assert all(world.places.slots[row.key.slot].is_busy(0.0) for row in rows)
    commit.go()
    await stored(store, 3)
    await world.places.slots[0].shard.lanes.close()  # type: ignore[union-attr]  # it is open
    assert len(store.rows) == 3
    assert store.calls.empty()


async def test_who_leaves_takes_along_what_waits_for_its_slot() -> None:
    """When the caller is cancelled, a row whose slot is paused is not written when the slot is served again."""
    world, rows = World(), some_rows(2)
    await world.places.pause(SOURCE, frozenset({rows[0].key.slot}))
    writing = asyncio.ensure_future(world.router.write_many(asked(rows), soon()))
    await stored(world.source, 1)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    world.places.serve(SOURCE, frozenset())
    assert await world.write(new_row("customer 1")) is APPLIED
    assert rows[0].key not in world.source.rows  # type: ignore[attr-defined]  # a memory store


async def test_what_is_written_leaves_no_garbage() -> None:
    """Nothing of a call is left for the search for cycles: with thousands of rows a second there would be much."""
    world, rows = World(), some_rows(50)
    gc.collect()
    gc.disable()
    before = groups_alive()
    try:
        found: list[Found] = list(await world.router.write_many(asked(rows), soon()))
        assert groups_alive() == before
    finally:
        gc.enable()
    assert found == [APPLIED] * 50
    assert isinstance(world.source, MemoryStore)


async def test_a_row_answered_as_its_caller_leaves_has_ended_at_its_place() -> None:
    """A place is done with a row that was answered when the lease was out, though nobody hears of it any more."""
    world, (row,) = World(), some_rows(1)
    together = _Together(world.router._writer, 1, soon(), 0.0)
    begun = together.begun(0, row, world.places.slots[row.key.slot])
    finding = asyncio.ensure_future(together.found())
    await asyncio.sleep(0)  # until it waits
    world.holds[SOURCE].end()
    finding.cancel()
    begun.set_result(APPLIED)  # goes on, and is cancelled before its first step
    with pytest.raises(asyncio.CancelledError):
        await finding
    assert under_way(world, [row]) == 0
