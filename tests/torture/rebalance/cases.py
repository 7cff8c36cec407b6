"""What is done to a rebalance, and when. A case is inflicted once, while callers call; then the work is resumed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import psutil

from deploy.cluster import Cluster
from shards.assembly import open_fleet
from shards.rebalance.fleet import POINTS, Fleet
from shards.rebalance.mover import Mover
from tests.support.crest import Crest
from tests.support.rebalances import DIED, Where, run_mover
from tests.torture.history.nemesis import KillNode, KillWorker

FROZEN_S: Final = 7.0
"""Longer than a lease lasts."""

SECOND: Final = frozenset({"index and place", "pause", "final place", "open", "flip", "unpause", "fence states"})
"""Steps that come more than once; a mover dies at the second time, when something has been done already."""


class Place(NamedTuple):
    """Where a case happens."""

    where: Where
    crest: Crest
    cluster: Cluster | None
    source: int
    """The shard that slots leave."""
    target: int
    """The shard that they go to."""


class Case(NamedTuple):
    """One disturbance."""

    name: str
    inflict: Callable[[Place], Awaitable[None]]
    """Does the rebalance that was begun, until the disturbance has ended it, or it is over. Fails when it cannot."""


def mover_dies(point: str) -> Case:
    """SIGKILL for the mover at a point of its work."""
    step = point.split(" ", 1)[1]

    async def inflict(place: Place) -> None:
        damage = ("damage",) if step == "name stuck" else ()  # nothing is stuck, but for a copy that is wrong
        code = await run_mover(place.where, point, 2 if step in SECOND else 1, *damage)
        assert code == DIED, f"the mover left with {code} and never came to {point!r}"

    return Case(f"mover killed {point}", inflict)


def worker_dies(point: str) -> Case:
    """SIGKILL for a worker when the mover is at a point; its supervisor replaces it."""

    async def inflict(place: Place) -> None:
        async def kill() -> None:
            assert await KillWorker(place.crest).inflict(random.Random(1))

        await _with_mover(place, {point: kill})

    return Case(f"worker killed {point}", inflict)


def worker_freezes() -> Case:
    """SIGSTOP for a worker just before a pause, until after the flip, which is later than its lease lasts."""

    async def inflict(place: Place) -> None:
        frozen: list[psutil.Process] = []

        async def freeze() -> None:
            workers = {line["pid"] for line in place.crest.logged("a child is ready") if line["child"] != "exporter"}
            frozen.append(next(child for child in place.crest.children() if child.pid in workers))
            frozen[0].send_signal(signal.SIGSTOP)

        async def thaw() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                frozen[0].send_signal(signal.SIGCONT)

        try:
            await _with_mover(place, {"before pause": freeze, "after flip": thaw})
        finally:
            await thaw()

    return Case("worker stopped before pause, past its lease, continued after flip", inflict)


def node_dies(which: str, point: str) -> Case:
    """SIGKILL for the only node of the source or the target, which is started again."""

    async def inflict(place: Place) -> None:
        cluster = place.cluster
        assert cluster is not None
        nodes = cluster.cassandra
        node = KillNode("a node", [nodes[place.source if which == "source" else place.target]])
        healing: list[asyncio.Task[None]] = []

        async def kill() -> None:
            await node.inflict(random.Random(1))
            healing.append(asyncio.create_task(node.heal()))

        await _with_mover(place, {point: kill})
        await asyncio.gather(*healing)

    return Case(f"{which} node killed {point}", inflict)


MOVER_CASES: Final = tuple(mover_dies(point) for point in POINTS)
WORKER_CASES: Final = (worker_dies("after pause"), worker_dies("before flip"), worker_freezes())
NODE_CASES: Final = tuple(
    node_dies(which, point) for which in ("source", "target") for point in ("after index and place", "after pause")
)


def cases_of(store: str) -> Sequence[Case]:
    """Returns every case of a store: the embedded one has no nodes, and no word opens slots there."""
    cases = [case for case in MOVER_CASES if store == "cassandra" or not case.name.endswith(" open")]
    return (*cases, *WORKER_CASES, *(NODE_CASES if store == "cassandra" else ()))


THERE_AND_BACK: Final = "nothing killed"
GROWTH: Final = (f"{THERE_AND_BACK}: 3 -> 4 shards", f"{THERE_AND_BACK}: 4 -> 3 shards")
"""What is told of a shard that comes and goes: nothing dies, and no call may fail."""


def names_of(store: str) -> Sequence[str]:
    """Returns what lines of the page are called, in their order."""
    return (*(case.name for case in cases_of(store)), *GROWTH)


async def _with_mover(place: Place, at: dict[str, Callable[[], Awaitable[None]]]) -> None:
    """Runs a mover here, to the end, and does something when it comes to each point for the first time."""
    left = dict(at)

    async def reach(point: str) -> None:
        if act := left.pop(point, None):
            await act()

    fleet: Fleet = await open_fleet(place.where.settings)
    try:
        await Mover(fleet, at=reach).run(stays=False)
    finally:
        await fleet.close()
    assert not left, f"never came to {', '.join(left)}"
