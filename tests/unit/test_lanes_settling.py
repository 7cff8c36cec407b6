"""What lanes answer when a commit does not simply succeed: deferred, sealed, refused, unknown, and at the end."""

import asyncio
from collections.abc import Sequence

import pytest

from shards.contract import (
    APPLIED,
    SEALED,
    CommitLimits,
    Corrupt,
    Full,
    Invalid,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    StoreError,
    Unavailable,
    Verdict,
)
from shards.judging import judge
from tests.support.lanes_under_test import lanes_over
from tests.support.memory_store import HeldStore, MemoryStore
from tests.support.rows import new_row, next_version, soon

SMALL = CommitLimits(rows_max=4, bytes_max=1000, in_flight_max=1)


async def test_deferred_rows_go_again_first() -> None:
    """When a batch is refused the clashing rows are answered, and the rest is committed before what came later."""
    store = HeldStore(SMALL, all_or_nothing=True)
    there = new_row()
    store.apply([there])
    lanes = lanes_over(store)
    clashing = there._replace(body=b"other")
    rows = [new_row(), clashing, new_row()]
    answers = [lanes.write(row, soon()) for row in rows]
    commit = await store.next_call("commit")
    later = [new_row() for _ in range(3)]
    answers += [lanes.write(row, soon()) for row in later]
    commit.go()
    assert await answers[1] == Outcome(Verdict.CLASH, there)
    commit = await store.next_call("commit")
    assert commit.items == [rows[0], rows[2], *later[:2]]
    commit.go()
    (await store.next_call("commit")).go()
    assert [await answer for answer in answers if answer is not answers[1]] == [APPLIED] * 5


async def test_sealed_rows_are_answered() -> None:
    """A row whose bucket is sealed is answered SEALED and its neighbours are stored."""
    store = MemoryStore(all_or_nothing=True)
    old = new_row(request_id=bytes.fromhex("00000000000070008000000000000000"))
    await store.seal(old.key)
    lanes = lanes_over(store)
    answers = [lanes.write(row, soon()) for row in (new_row(), old, new_row())]
    assert await asyncio.gather(*answers) == [APPLIED, SEALED, APPLIED]


@pytest.mark.parametrize("poison", range(7))
async def test_the_poison_row_fails_alone(poison: int) -> None:
    """Of a commit that the store can never take only the row that is the cause fails, wherever it stands."""
    rows = [new_row() for _ in range(7)]

    class Picky(MemoryStore):
        async def commit(self, rows_: Sequence[Row]) -> Sequence[Outcome]:
            if rows[poison] in rows_:
                raise Invalid("poison")
            return await super().commit(rows_)

    store = Picky()
    lanes = lanes_over(store)
    results = await asyncio.gather(*[lanes.write(row, soon()) for row in rows], return_exceptions=True)
    assert [type(result) for result in results] == [Invalid if i == poison else Outcome for i in range(7)]
    assert len(store.rows) == 6


@pytest.mark.parametrize("error", [Unavailable("away"), Full("full"), Overloaded("busy")])
async def test_a_refused_commit_fails_at_once(error: StoreError) -> None:
    """When the store says that nothing was written every caller is told so, each by an error of its own."""
    store = HeldStore()
    lanes = lanes_over(store)
    answers = [lanes.write(new_row(), soon()) for _ in range(2)]
    (await store.next_call("commit")).fail(error)
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert [(type(result), str(result)) for result in results] == [(type(error), str(error))] * 2
    assert results[0] is not results[1]
    assert all(isinstance(result, StoreError) and result.__cause__ is error for result in results)


@pytest.mark.parametrize("error", [StoreError("lost"), OSError("lost"), ValueError("a defect")])
async def test_an_unknown_outcome_is_settled_order_by_order(error: Exception) -> None:
    """After a failure each row is judged by what a STRONG read finds: stored, another's, or to be committed again."""
    store = HeldStore()
    lanes = lanes_over(store)
    stored, taken, absent = rows = [new_row() for _ in range(3)]
    answers = [lanes.write(row, soon()) for row in rows]
    commit = await store.next_call("commit")
    others = taken._replace(body=b"other")
    store.apply([stored, others])
    commit.fail(error)
    read = await store.next_call("read")
    assert read.items == [row.key for row in rows]
    read.go()
    assert await answers[0] == APPLIED
    assert await answers[1] == Outcome(Verdict.CLASH, others)
    again = await store.next_call("commit")
    assert again.items == [absent]
    again.go()
    assert await answers[2] == APPLIED


async def test_settling_goes_on_until_the_deadline() -> None:
    """While the store fails a row stays unknown, is asked for again and again, and is answered so at its deadline."""
    store = HeldStore()
    lanes = lanes_over(store)
    answer = lanes.write(new_row(), soon(0.15))
    (await store.next_call("commit")).fail(StoreError("lost"))
    reads = 0

    async def fail_reads() -> None:
        nonlocal reads
        while True:
            (await store.next_call("read")).fail(Unavailable("away"))
            reads += 1

    failing = asyncio.create_task(fail_reads())
    with pytest.raises(OutcomeUnknown):
        await answer
    assert reads >= 2
    await lanes.close()
    failing.cancel()


@pytest.mark.parametrize("refusal", [Unavailable("away"), Overloaded("full"), Invalid("odd")])
async def test_a_row_once_unknown_is_never_said_to_be_unwritten(refusal: StoreError) -> None:
    """A row whose first commit may yet arrive is unknown to its caller, though the second one was surely not begun."""
    store = HeldStore()
    answer = lanes_over(store).write(new_row(), soon())
    (await store.next_call("commit")).fail(StoreError("lost"))
    (await store.next_call("read")).go()  # not there yet
    (await store.next_call("commit")).fail(refusal)
    with pytest.raises(OutcomeUnknown, match="may yet arrive"):
        await answer


async def test_a_damaged_store_is_named_at_once() -> None:
    """When settling finds the store damaged, the caller is told so without waiting for the deadline."""
    store = HeldStore()
    answer = lanes_over(store).write(new_row(), soon())
    (await store.next_call("commit")).fail(Corrupt("bad page"))
    (await store.next_call("read")).fail(Corrupt("bad page"))
    with pytest.raises(Corrupt, match="bad page"):
        await answer


@pytest.mark.parametrize("verdicts", [["deferred", "deferred"], []], ids=["all deferred", "too few"])
async def test_a_store_that_breaks_the_law_blocks_nobody(verdicts: list[str]) -> None:
    """Answers that no store may give fail or settle their rows, and the lane goes on."""

    class Lawless(MemoryStore):
        broken = True

        async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
            if self.broken:
                self.broken = False
                return [Outcome(Verdict(verdict)) for verdict in verdicts]
            return await super().commit(rows)

    lanes = lanes_over(Lawless())
    answers = [lanes.write(new_row(), soon()) for _ in range(2)]
    await asyncio.wait(answers)
    assert await lanes.write(new_row(), soon()) == APPLIED


async def test_closing_drains() -> None:
    """Closing refuses new rows and returns when all that were taken are answered; twice is once."""
    store = HeldStore(SMALL)
    lanes = lanes_over(store)
    answers = [lanes.write(new_row(), soon()) for _ in range(6)]
    closing = [asyncio.create_task(lanes.close()) for _ in range(2)]
    (await store.next_call("commit")).go()
    with pytest.raises(Unavailable, match="closing"):
        lanes.write(new_row(), soon())
    second = await store.next_call("commit")
    assert not any(task.done() for task in closing)
    second.go()
    await asyncio.gather(*closing)
    assert [answer.result() for answer in answers] == [APPLIED] * 6
    await lanes.close()


def test_a_row_is_judged_by_what_is_there() -> None:
    """The table of settling: the very row, none, the version before, another's, a later one, one further back."""
    one = new_row()
    two = next_version(one)
    three = next_version(two)
    assert judge(one, one) == APPLIED
    assert judge(one, None) is None
    assert judge(two, two) == APPLIED
    assert judge(two, one) is None
    twin = one._replace(body=b"made a moment later by another worker")
    for row, present in [(one, two), (one, twin), (two, three), (two, None), (three, one), (two, next_version(one))]:
        assert judge(row, present) == Outcome(Verdict.CLASH, present)
