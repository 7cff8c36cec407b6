"""How a mover changes the topology: fenced by looks at the record, and without them where it made what is there."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from shards.rebalance.batch import flipped
from shards.rebalance.fleet import Deposed, nowhere
from shards.rebalance.home import Book, Home, take_over
from shards.rebalance.record import Kind, Move, RebalanceRecord, start
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.simulation.virtual_time import run
from tests.support.memory_facts import MemoryFacts

SLOTS = (0, 1, 2)


class World:
    """A home in which a rebalance has begun, and what was asked of it since it was last forgotten."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.facts = MemoryFacts(self._note)

    async def _note(self, call: str, is_after: bool) -> None:
        if not is_after:
            self.asked.append(call)

    async def mover(self) -> tuple[RebalanceRecord, Home]:
        """A mover that has just taken over, and has fenced the topology."""
        record = await take_over(self.facts, "ann", nowhere)
        assert record is not None
        home = Home(self.facts, record.attempt, nowhere)
        await home.change("fence topology", lambda topology: replace(topology, epoch=topology.epoch + 1))
        return record, home

    async def topology(self) -> Topology:
        """The topology as it is now."""
        topology = await TopologyStore(self.facts).load()
        assert topology is not None
        return topology


async def begun() -> World:
    """Three slots of shard 0 are to go to shard 1."""
    world = World()
    first = Topology.initial(2)
    topology = replace(first, slot_shards=(0,) * len(first.slot_shards))
    await TopologyStore(world.facts).create(topology)
    record = start(topology, dict.fromkeys(SLOTS, 1), topology.shards, kind=Kind.SPLIT, who="ann")
    assert await Book(world.facts).replace(0, record)
    return world


def flip(record: RebalanceRecord, slot: int) -> Callable[[Topology], Topology | None]:
    """The change that moves one slot."""
    return lambda topology: flipped(topology, [Move(slot, 0, 1, 0)], record.attempt)


async def test_a_flip_after_a_flip_asks_for_nothing() -> None:
    """The first flip of an attempt looks at topology and record; those after it are one conditional change each."""
    world = await begun()
    record, home = await world.mover()
    asked = []
    for slot in SLOTS:
        world.asked.clear()
        await home.change("flip", flip(record, slot), is_own=True)
        asked.append(list(world.asked))
    assert asked == [["read", "read", "replace"], ["replace"], ["replace"]]
    assert [(await world.topology()).slot_shards[slot] for slot in SLOTS] == [1, 1, 1]


def test_pauses_take_turns_and_a_long_one_holds_up_nobody_for_good() -> None:
    """A second pause waits for the first, but no longer than a second or so."""

    async def main() -> tuple[float, float]:
        home = Home(MemoryFacts(), 1, nowhere)
        clock = asyncio.get_running_loop().time
        waited = [clock()]
        async with home.pausing(), home.pausing():
            waited.append(clock())
        async with home.pausing():
            waited.append(clock())
        return waited[1] - waited[0], waited[2] - waited[1]

    for_its_turn, afterwards = run(main())
    assert 0.5 < for_its_turn < 2
    assert afterwards < 0.1


async def test_who_was_taken_over_from_flips_nothing() -> None:
    """A flip that would follow an own one is refused as soon as another mover has fenced the topology."""
    world = await begun()
    record, home = await world.mover()
    await home.change("flip", flip(record, 0), is_own=True)
    await world.mover()
    with pytest.raises(Deposed):
        await home.change("flip", flip(record, 1), is_own=True)
    assert [(await world.topology()).slot_shards[slot] for slot in SLOTS] == [1, 0, 0]


async def test_an_epoch_that_any_mover_could_have_made_begins_no_chain() -> None:
    """After a fence, whose bytes say nothing of the attempt, the record is looked at before a flip."""
    world = await begun()
    record, home = await world.mover()
    taken = await take_over(world.facts, "bob", nowhere)
    assert taken is not None
    with pytest.raises(Deposed):
        await home.change("flip", flip(record, 0), is_own=True)


async def test_a_change_that_others_made_meanwhile_is_built_on() -> None:
    """Two flips of one mover at once both happen, one after the other."""
    world = await begun()
    record, home = await world.mover()
    await asyncio.gather(*(home.change("flip", flip(record, slot), is_own=True) for slot in SLOTS))
    topology = await world.topology()
    assert [(topology.slot_shards[slot], topology.slot_gens[slot]) for slot in SLOTS] == [(1, record.attempt)] * 3
