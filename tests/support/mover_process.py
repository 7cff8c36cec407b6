"""A mover as a process of its own, which ends itself with SIGKILL at a point of its work that it is told.

``python -m tests.support.mover_process STORE PATH [POINT NUMBER [damage]]``: ``STORE`` is embedded or cassandra,
``PATH`` the data directory or the topology file; it dies when it comes to ``POINT`` for the ``NUMBER``-th time.
Otherwise it works until the rebalance is over, prints the state of the record and leaves. ``damage``: in the
copies of one slot a bit is another.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from shards.assembly import open_fleet
from shards.rebalance.fleet import At, Fleet, nowhere
from shards.rebalance.mover import Mover
from tests.support.damage import damage_a_slot
from tests.support.rebalances import Where


def dying(fleet: Fleet, point: str, number: int, damage: str = "") -> At:
    """Returns what kills this process when it comes to a point for that many times."""
    left = number
    is_damaged = not damage

    async def at(reached: str) -> None:
        nonlocal left, is_damaged
        if reached == "after index and place" and not is_damaged:
            is_damaged = await damage_a_slot(fleet)
        if reached == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return at


async def main(store: str, path: str, *rest: str) -> None:
    """Works until the rebalance is over."""
    fleet = await open_fleet(Where(store, Path(path)).settings)
    try:
        at = dying(fleet, rest[0], int(rest[1]), *rest[2:]) if rest else nowhere
        record = await Mover(fleet, at=at).run(stays=False)
        print(None if record is None else record.state.value)
    finally:
        await fleet.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
