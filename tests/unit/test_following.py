"""A worker that follows the topology: shards are opened and closed as it names them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.following import POLL_IDLE_S, Follower, OpenShard
from shards.places import Places
from shards.topology import ShardInfo, Topology
from shards.topology_store import TopologyStore
from tests.simulation import virtual_time
from tests.support.memory_facts import MemoryFacts
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes

KEPT, COMING = 0, 1
SETTINGS = StorageSettings(data_dir=Path("none"))


def topology(epoch: int, *shards: int) -> Topology:
    """All slots on the first shard, and perhaps others that have none."""
    return Topology(epoch, tuple(map(ShardInfo, shards)), (KEPT,) * 4096, (0,) * 4096, 2)


class World:
    """A home, and what opens the shards: as slowly as a test wants."""

    def __init__(self) -> None:
        self.home = MemoryFacts()
        self.topologies = TopologyStore(self.home)
        self.facts = {shard: MemoryFacts() for shard in (KEPT, COMING)}
        self.notes = Notes()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.steps: list[str] = []
        first = topology(1, KEPT)
        self.follower = Follower(self.topologies, Places(first, {}, self.notes, {}), self, self.notes)

    async def open(self, shard: int) -> OpenShard:
        """See ``shards.following.Opener``."""
        self.steps.append(f"opening {shard}")
        await self.may_open.wait()
        self.steps.append(f"opened {shard}")

        async def close() -> None:
            self.steps.append(f"closed {shard}")

        cache = LocalCache(rows_max=1, bytes_max=1 << 10, ttl_s=1)
        return OpenShard(shard_over(MemoryStore(), shard, cache, SETTINGS, self.notes), self.facts[shard], close)

    async def change(self, following: Topology) -> None:
        """Puts the next topology in place, and returns when it was surely seen."""
        assert await self.topologies.compare_and_set(following.epoch - 1, following)
        await asyncio.sleep(2 * POLL_IDLE_S)  # sleep: of virtual time


@asynccontextmanager
async def followed() -> AsyncIterator[World]:
    """A worker of one shard."""
    world = World()
    await world.topologies.create(topology(1, KEPT))
    await world.follower.start(lease_wait_s=5)
    try:
        yield world
    finally:
        await world.follower.close()


def test_a_shard_that_comes_and_goes_is_opened_and_closed() -> None:
    """A shard is opened when the topology names it, closed when it does not, and its lease is not told of any more."""

    async def scenario() -> None:
        async with followed() as world:
            await world.change(topology(2, KEPT, COMING))
            assert world.notes.lease_ages[COMING] > 0
            await world.change(topology(3, KEPT))
            assert world.steps == ["opening 0", "opened 0", "opening 1", "opened 1", "closed 1"]
            assert world.notes.lease_ages[COMING] == 0

    virtual_time.run(scenario())


def test_a_shard_that_goes_while_it_is_opened_is_closed() -> None:
    """A shard that the topology leaves out while it is being opened is closed as soon as it is open."""

    async def scenario() -> None:
        async with followed() as world:
            world.may_open.clear()
            await world.change(topology(2, KEPT, COMING))
            await world.change(topology(3, KEPT))
            assert world.steps[2:] == ["opening 1"]
            world.may_open.set()
            await asyncio.sleep(POLL_IDLE_S)  # sleep: of virtual time
            assert world.steps[2:] == ["opening 1", "opened 1", "closed 1"]

    virtual_time.run(scenario())


def test_a_shard_that_is_gone_hurries_nobody() -> None:
    """A shard that went in the middle of a move does not keep the worker looking often."""

    async def scenario() -> None:
        async with followed() as world:
            await world.change(topology(2, KEPT, COMING))
            world.follower.hurry(COMING, is_active=True, is_paused=True)
            await world.change(topology(3, KEPT))
            looks = 0

            async def count(what: str, is_answer: bool) -> None:
                nonlocal looks
                looks += what == "revision" and not is_answer

            world.home.between = count
            await asyncio.sleep(10)  # sleep: of virtual time
            assert looks <= 10 / (0.8 * POLL_IDLE_S) + 1

    virtual_time.run(scenario())
