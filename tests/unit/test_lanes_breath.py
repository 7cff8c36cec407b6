"""A busy lane draws breath between two commits, so that those who were answered are in the next one."""

import asyncio
from collections.abc import Sequence

from shards.contract import Outcome, Row
from tests.simulation.virtual_time import run
from tests.support.lanes_under_test import lanes_over
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, soon

COMMIT_S = 0.040
RETURN_S = 0.005
"""How long a caller takes from its answer to its next row."""


class SlowStore(MemoryStore):
    """Takes a while for each commit, however large."""

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows after simulated time."""
        await asyncio.sleep(COMMIT_S)  # sleep: simulated
        return await super().commit(rows)


def groups_of(callers: int, calls: int, return_s: float = RETURN_S) -> tuple[list[int], float]:
    """Returns the rows of each commit of so many callers, who ask again when they are answered; and the time taken."""

    async def main() -> tuple[list[int], float]:
        notes = Notes()
        lanes = lanes_over(SlowStore(), observer=notes)
        clock = asyncio.get_running_loop().time

        async def call(number: int) -> None:
            await asyncio.sleep(number * 0.001)  # sleep: simulated; they do not begin together
            for _ in range(calls):
                await lanes.write(new_row(), soon(60))
                await asyncio.sleep(return_s)  # sleep: simulated

        began_s = clock()
        await asyncio.gather(*(call(number) for number in range(callers)))
        await lanes.close()
        return [rows for _, rows in notes.batches], clock() - began_s

    return run(main())


def test_callers_who_come_back_soon_share_one_commit() -> None:
    """Callers in a closed loop end up in one commit, and not half of them in each of two that take turns."""
    groups, _ = groups_of(callers=60, calls=12)
    assert groups[len(groups) // 2] == 60
    assert sum(groups) == 60 * 12


def test_a_breath_ends_when_callers_are_back() -> None:
    """A commit begins as soon as most of those who were answered wait again, or waited already."""
    _, few_s = groups_of(callers=60, calls=10)
    _, many_s = groups_of(callers=60, calls=30)
    assert abs(many_s - few_s - 20 * (COMMIT_S + RETURN_S)) < 0.001


def test_few_callers_do_not_wait() -> None:
    """A lane with little to do commits at once: nobody waits for company that is not likely to come."""
    groups, took_s = groups_of(callers=3, calls=10, return_s=0.0)
    assert sum(groups) == 30
    assert took_s < COMMIT_S * 21


def test_a_breath_is_no_longer_than_a_commit() -> None:
    """Callers who do not come back hold up a row that comes by the last commit's time at most."""

    async def main() -> float:
        lanes = lanes_over(SlowStore())
        clock = asyncio.get_running_loop().time
        await asyncio.gather(*(lanes.write(new_row(), soon(60)) for _ in range(20)))
        began_s = clock()
        await lanes.write(new_row(), soon(60))
        return clock() - began_s

    assert COMMIT_S < run(main()) <= COMMIT_S * 2 + 0.001


def test_lanes_that_close_do_not_wait_for_a_breath() -> None:
    """Closing commits what waits at once, and then no lane is left."""

    async def main() -> float:
        lanes = lanes_over(SlowStore())
        clock = asyncio.get_running_loop().time
        await asyncio.gather(*(lanes.write(new_row(), soon(60)) for _ in range(20)))
        last = lanes.write(new_row(), soon(60))
        began_s = clock()
        await lanes.close()
        assert last.done()
        return clock() - began_s

    assert run(main()) <= COMMIT_S + 0.001
