import asyncio

import pytest

from shards.contract import (
    APPLIED,
    CommitLimits,
    DeadlineExceeded,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    StoreError,
    Verdict,
)
from tests.support.lanes_under_test import lanes_over, row_in_slot
from tests.support.memory_store import Call, HeldStore, MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version, soon

SMALL = CommitLimits(rows_max=4, bytes_max=1000, in_flight_max=1)


async def test_a_row_is_stored() -> None:
    """A row written to an idle lane is committed at once and answered APPLIED."""
    store = MemoryStore()
    row = new_row()
    assert await lanes_over(store).write(row, soon()) == APPLIED
    assert store.rows == {row.key: row}


async def test_rows_of_one_turn_share_a_commit() -> None:
    """Rows written in the same turn of the event loop are committed together, without a timer."""
    store, notes = HeldStore(), Notes()
    lanes = lanes_over(store, observer=notes)
    answers = [lanes.write(new_row(), soon()) for _ in range(10)]
    (await store.next_call("commit")).go()
    assert await asyncio.gather(*answers) == [APPLIED] * 10
    assert notes.batches == [(0, 10)]
    assert notes.queued[-1] == (0, 0)


async def test_the_next_commit_gathers_while_one_is_under_way() -> None:
    """Rows that come during a commit wait for its end and then go together."""
    store = HeldStore()
    lanes = lanes_over(store)
    first = lanes.write(new_row(), soon())
    commit = await store.next_call("commit")
    later = [lanes.write(new_row(), soon()) for _ in range(5)]
    await asyncio.sleep(0)
    assert store.calls.empty()
    commit.go()
    await first
    commit = await store.next_call("commit")
    assert len(commit.items) == 5
    commit.go()
    assert await asyncio.gather(*later) == [APPLIED] * 5


async def test_commits_keep_the_limits() -> None:
    """A commit has at most the store's rows and bytes; a row that alone is larger goes alone."""
    store = HeldStore(SMALL)
    lanes = lanes_over(store)
    sizes = [10] * 5 + [600, 600, 2000, 10]
    answers = [lanes.write(new_row(body=b"." * size), soon()) for size in sizes]
    seen = []
    while not all(answer.done() for answer in answers):
        commit = await store.next_call("commit")
        seen.append([len(row.body) for row in commit.items])
        commit.go()
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
    assert seen == [[10, 10, 10, 10], [10, 600], [600], [2000], [10]]


async def test_commits_under_way_are_capped() -> None:
    """No more commits of a shard are under way than the store wants, and every lane gets its turn."""
    store = HeldStore(CommitLimits(10, 1000, 2), lanes=4)
    lanes = lanes_over(store)
    answers = [lanes.write(row_in_slot(slot), soon()) for slot in (0, 1, 2, 3, 0)]
    first, second = await store.next_call("commit"), await store.next_call("commit")
    await asyncio.sleep(0)
    assert store.calls.empty()
    first.go()
    third = await store.next_call("commit")
    second.go()
    fourth = await store.next_call("commit")
    assert [store.lane(call.items[0].key) for call in (first, second, third, fourth)] == [0, 1, 2, 3]
    assert len(first.items) == 2
    third.go()
    fourth.go()
    assert await asyncio.gather(*answers) == [APPLIED] * 5
    assert repr(lanes) == "Lanes(shard=0, rows=0/100, lanes=0, commits=0/2)"


async def test_limits_are_those_of_the_moment() -> None:
    """A store that takes less once it is connected is never asked for more."""
    store = HeldStore(SMALL)
    lanes = lanes_over(store)
    answers = [lanes.write(new_row(), soon()) for _ in range(7)]
    commit = await store.next_call("commit")
    store._limits = CommitLimits(rows_max=2, bytes_max=1000, in_flight_max=1)
    sizes = [len(commit.items)]
    commit.go()
    while sum(sizes) < len(answers):
        commit = await store.next_call("commit")
        sizes.append(len(commit.items))
        commit.go()
    assert await asyncio.gather(*answers) == [APPLIED] * 7
    assert sizes == [4, 2, 1]


async def test_a_settling_lane_keeps_no_other_from_committing() -> None:
    """While a lane finds out what became of a commit, the other lanes have its place, and it asks for one again."""
    store = HeldStore(CommitLimits(10, 1000, 1), lanes=2)
    lanes = lanes_over(store)
    stuck, well = lanes.write(row_in_slot(0), soon()), lanes.write(row_in_slot(1), soon())
    (await store.next_call("commit")).fail(StoreError("lost"))
    read, commit = await store.next_call("read"), await store.next_call("commit")
    assert [store.lane(read.items[0]), store.lane(commit.items[0].key)] == [0, 1]
    read.go()  # not there, so to be committed again, but the only place is taken
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert store.calls.empty()
    assert not stuck.done()
    commit.go()
    (await store.next_call("commit")).go()
    assert (await stuck, await well) == (APPLIED, APPLIED)


async def test_lanes_that_settle_read_no_more_at_once_than_they_commit() -> None:
    """Reads that settle are bounded like commits, beside them, and every lane gets its turn."""
    store = HeldStore(CommitLimits(10, 1000, 2), lanes=4)
    lanes = lanes_over(store)
    answers = [lanes.write(row_in_slot(slot), soon()) for slot in range(4)]
    reads: list[Call] = []
    for _ in range(4 + 2):
        call = await asyncio.wait_for(store.calls.get(), 10)
        if call.name == "commit":
            call.fail(StoreError("lost"), takes_effect=True)
        else:
            reads.append(call)
    await asyncio.sleep(0)
    assert store.calls.empty()
    assert len(reads) == 2
    for read in reads:
        read.go()
    for _ in range(2):
        (await store.next_call("read")).go()
    assert await asyncio.gather(*answers) == [APPLIED] * 4


async def test_one_operation_of_an_order_a_commit() -> None:
    """Operations of one order go in separate commits, in the order of their calls, and rows of others pass them."""
    store = HeldStore()
    lanes = lanes_over(store)
    one, other = new_row(), new_row()
    two = next_version(one)
    three = next_version(two)
    answers = [lanes.write(row, soon()) for row in (one, two, three, one, other)]
    commits = []
    for _ in range(4):
        commit = await store.next_call("commit")
        commits.append(list(commit.items))
        commit.go()
    assert commits == [[one, other], [two], [three], [one]]
    assert await asyncio.gather(*answers) == [*[APPLIED] * 3, Outcome(Verdict.CLASH, three), APPLIED]


async def test_a_full_queue_refuses_at_once() -> None:
    """Beyond the queue's rows a write is refused without waiting, and nothing of it reaches the store."""
    store = HeldStore(SMALL)
    lanes = lanes_over(store, queue_rows_max=3)
    answers = [lanes.write(new_row(), soon()) for _ in range(3)]
    with pytest.raises(Overloaded, match="3 rows wait"):
        lanes.write(new_row(), soon())
    (await store.next_call("commit")).go()
    await asyncio.gather(*answers)
    await asyncio.sleep(0)
    again = lanes.write(new_row(), soon())
    (await store.next_call("commit")).go()
    assert await again == APPLIED


async def test_a_row_past_its_deadline_is_not_handed_over() -> None:
    """A deadline that passes in the queue is DeadlineExceeded, and the row is never written."""
    store = HeldStore(SMALL)
    lanes = lanes_over(store)
    first = lanes.write(new_row(), soon())
    commit = await store.next_call("commit")
    late = lanes.write(new_row(), soon(0.01))
    with pytest.raises(DeadlineExceeded):
        await late
    commit.go()
    await first
    await lanes.close()
    assert len(store.rows) == 1
    gone = lanes_over(MemoryStore()).write(new_row(), soon(-1))
    with pytest.raises(DeadlineExceeded):
        await gone


async def test_a_commit_that_does_not_end_is_unknown_at_the_deadline() -> None:
    """A caller whose row is under way at the deadline is told that nobody knows."""
    store = HeldStore()
    lanes = lanes_over(store)
    row = new_row()
    answer = lanes.write(row, soon(0.01))
    commit = await store.next_call("commit")
    with pytest.raises(OutcomeUnknown):
        await answer
    commit.go()
    await lanes.close()
    assert store.rows == {row.key: row}


async def test_cancelling_a_caller_cancels_no_commit() -> None:
    """A caller who leaves during the commit changes nothing for the row, nor for the others in the commit."""
    store = HeldStore()
    lanes = lanes_over(store)
    rows = [new_row(), new_row()]

    async def call(row: Row) -> Outcome:
        return await lanes.write(row, soon())

    leaver, stayer = [asyncio.create_task(call(row)) for row in rows]
    commit = await store.next_call("commit")
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    commit.go()
    assert await stayer == APPLIED
    assert set(store.rows.values()) == set(rows)


async def test_a_cancelled_row_that_waits_is_dropped() -> None:
    """A row whose caller left before it was handed over is not written, and its place is free again."""
    store = HeldStore()
    lanes = lanes_over(store, queue_rows_max=2)
    first = lanes.write(new_row(), soon())
    commit = await store.next_call("commit")
    lanes.write(new_row(), soon()).cancel()
    commit.go()
    await first
    await lanes.close()
    assert len(store.rows) == 1
    assert "rows=0/2" in repr(lanes)
