"""Slots of a data directory move between its files, by movers alone: no worker serves them meanwhile."""

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from shards.assembly import StorageSettings
from shards.contract import Row
from shards.fleets import EmbeddedFleet, open_fleet
from shards.keys import SLOTS
from shards.rebalance.fleet import part_of
from shards.rebalance.home import Book
from shards.rebalance.mover import Mover
from shards.rebalance.record import Kind, RebalanceRecord, State, start
from shards.stores.embedded import prepare
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.rows import new_row, next_version


@pytest_asyncio.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[EmbeddedFleet]:
    """An empty data directory of one shard, with its first topology."""
    os.close(prepare(tmp_path / "data", 1))
    fleet = await open_fleet(StorageSettings(data_dir=tmp_path / "data"))
    assert isinstance(fleet, EmbeddedFleet)
    await TopologyStore(fleet.home).create(Topology.initial(1))
    yield fleet
    await fleet.close()


async def fill(fleet: EmbeddedFleet, orders: int) -> list[Row]:
    """Puts orders of as many customers onto shard 0, some with later versions."""
    source = random.Random(7)
    rows = [new_row(f"customer {n}", body=source.randbytes(100)) for n in range(orders)]
    rows = [next_version(row) if n % 3 else row for n, row in enumerate(rows)]
    copies = (await part_of(fleet, 0)).copies
    for first in range(0, orders, 500):
        await copies.place(rows[first : first + 500], {})
    return rows


async def add_shard(fleet: EmbeddedFleet) -> RebalanceRecord:
    """Writes down that a shard is to be added."""
    topology = await TopologyStore(fleet.home).load()
    assert topology is not None
    after = topology.with_shard_added()
    targets = {slot: shard for slot, shard in enumerate(after.slot_shards) if shard != topology.slot_shards[slot]}
    record = start(topology, targets, after.shards, kind=Kind.ADD, who="test")
    assert await Book(fleet.home).replace(0, record)
    return record


async def found(fleet: EmbeddedFleet, rows: list[Row]) -> list[Row]:
    """The rows as the topology says where they are, under their first gen, for comparison."""
    topology = await TopologyStore(fleet.home).load()
    assert topology is not None
    there = []
    for row in rows:
        slot = row.key.slot
        copies = (await part_of(fleet, topology.slot_shards[slot])).copies
        (present,) = await copies.rows([row.key._replace(gen=topology.slot_gens[slot])])
        assert present is not None
        there.append(present._replace(key=row.key))
    return there


async def test_half_the_slots_move_to_a_new_shard(fleet: EmbeddedFleet) -> None:
    """An added shard gets exactly half of the slots, with every order as it was."""
    rows = await fill(fleet, 3_000)
    record = await add_shard(fleet)
    finished = await Mover(fleet).run(stays=False)
    assert finished is not None
    assert finished.state is State.DONE
    topology = await TopologyStore(fleet.home).load()
    assert topology is not None
    assert topology.slot_shards.count(1) == SLOTS // 2 == len(record.moves)
    assert await found(fleet, rows) == rows
    assert [one.id for one in await Book(fleet.home).history()] == [record.id]
