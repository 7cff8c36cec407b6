"""Many who wait until deadlines of their own, by one timer."""

import asyncio
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import DeadlineExceeded
from shards.deadlines import Deadlines
from tests.simulation import virtual_time


async def after(seconds: float) -> float:
    """An answer that takes so long."""
    await asyncio.sleep(seconds)  # sleep: simulated time
    return seconds


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=200),
    st.integers(),
)
def test_each_is_left_at_its_own_deadline(waits: list[tuple[int, int, int]], seed: int) -> None:
    """Whoever enters when, and whatever the others do: an answer in time is answered, else its wait ends just then."""
    chance = random.Random(seed)

    async def run() -> None:
        deadlines = Deadlines()

        async def one(starts: int, takes: int, patience: int) -> None:
            await asyncio.sleep(starts)  # sleep: simulated time
            began = time.monotonic()
            try:
                answer = await deadlines.answer_by(began + patience + 0.5, after(takes))
            except DeadlineExceeded:
                assert takes > patience
                assert time.monotonic() == began + patience + 0.5
            else:
                assert takes <= patience
                assert answer == takes
            assert time.monotonic() == began + min(takes, patience + 0.5)

        async def leaves(task: asyncio.Task[None]) -> None:
            await asyncio.sleep(chance.uniform(0, 20))  # sleep: simulated time
            task.cancel()

        tasks = [asyncio.create_task(one(*wait)) for wait in waits]
        left = [asyncio.create_task(leaves(task)) for task in tasks if chance.random() < 0.2]
        await asyncio.gather(*left)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert repr(deadlines) == "Deadlines(waiting=0)"
        assert deadlines._timer is None
        assert not deadlines._waits

    virtual_time.run(run())


async def test_what_is_there_at_once_is_answered_however_late() -> None:
    """An answer that nobody has to wait for is given past its deadline, too."""

    async def there() -> int:
        return 1

    assert await Deadlines().answer_by(time.monotonic() - 1, there()) == 1


async def test_those_who_are_over_are_swept_out() -> None:
    """What is kept is in proportion to those who wait, not to how many have waited."""
    deadlines = Deadlines()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await never

    slow = asyncio.create_task(deadlines.answer_by(time.monotonic() + 600, wait()))
    await asyncio.sleep(0)
    for _ in range(1_000):
        await deadlines.answer_by(time.monotonic() + 500, asyncio.sleep(0))
        assert len(deadlines._waits) <= 70
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_a_cancellation_beside_the_deadline_is_not_lost() -> None:
    """Whose time is up in the turn in which somebody cancels him is cancelled."""
    deadlines = Deadlines()
    task = asyncio.create_task(deadlines.answer_by(time.monotonic() - 1, asyncio.Event().wait()))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(task.cancel)
    deadlines._expire()
    with pytest.raises(asyncio.CancelledError):
        await task
