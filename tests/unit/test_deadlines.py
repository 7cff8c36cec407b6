"""Many who wait until deadlines of their own, by one timer."""

import asyncio
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import DeadlineExceeded
from shards.deadlines import _LOOK_S, Deadlines
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
    """Whoever enters when, and whatever the others do: an answer in time is answered, else the wait ends soon."""
    chance = random.Random(seed)

    async def run() -> None:
        deadlines = Deadlines()

        async def one(starts: int, takes: int, patience: int) -> None:
            await asyncio.sleep(starts)  # sleep: simulated time
            late_at = time.monotonic() + patience + 0.5
            try:
                answer = await deadlines.answer_by(late_at, after(takes))
            except DeadlineExceeded:
                assert takes > patience
                assert late_at <= time.monotonic() <= late_at + _LOOK_S
            else:
                assert takes <= patience
                assert answer == takes

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

    virtual_time.run(run())


async def test_what_is_there_at_once_is_answered_however_late() -> None:
    """An answer that nobody has to wait for is given past its deadline, too."""

    async def there() -> int:
        return 1

    assert await Deadlines().answer_by(time.monotonic() - 1, there()) == 1


def test_a_wait_by_itself_ends_just_then() -> None:
    """A deadline with no other one just before it is not late at all."""

    async def run() -> None:
        deadlines = Deadlines()
        long = asyncio.create_task(deadlines.answer_by(time.monotonic() + 60, after(30)))
        await asyncio.sleep(1)  # sleep: simulated time
        late_at = time.monotonic() + 5
        with pytest.raises(DeadlineExceeded):
            await deadlines.answer_by(late_at, after(30))
        assert time.monotonic() == late_at
        assert await long == 30

    virtual_time.run(run())


async def test_a_cancellation_beside_the_deadline_is_not_lost() -> None:
    """Whose time is up in the turn in which somebody cancels him is cancelled."""
    deadlines = Deadlines()
    task = asyncio.create_task(deadlines.answer_by(time.monotonic() - 1, asyncio.Event().wait()))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(task.cancel)
    deadlines._look()
    with pytest.raises(asyncio.CancelledError):
        await task
