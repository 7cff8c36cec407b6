"""Slots move between two Cassandra keyspaces, beside writers, and come back."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from shards.assembly import StorageSettings, open_fleet
from shards.contract import Consistency, Row, Verdict
from shards.keys import mint_uuid7, time_ms_of
from shards.leases import SCOPE, SlotStatesWriter
from shards.leases.states import OPEN_PREFIX
from shards.rebalance.cleanup import clean_up, leftovers
from shards.rebalance.fleet import Fleet, part_of
from shards.rebalance.mover import Mover
from shards.rebalance.record import Kind, Options, State
from shards.rebalance.verify import verify
from shards.settings import load
from shards.stores.cassandra import CassandraStore
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.cassandra_node import make_empty, node_address
from tests.support.damage import damaged_copy
from tests.support.rebalances import begin, topology_of
from tests.support.rows import new_row, next_version

CUSTOMERS = 40
YEAR_MS = 365 * 86_400_000


@pytest_asyncio.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Fleet, list[CassandraStore]]]:
    """Two empty keyspaces and one for the topology, on the shared node, as a mover and as a worker have them."""
    host, port = node_address()
    file = tmp_path / "topology.toml"
    file.write_text(
        f'[defaults]\nreplication = 1\nport = {port}\ndata_center = "datacenter1"\ncontact_points = ["{host}"]\n'
        '[topology]\nkeyspace = "crest_test_home"\n'
        '[[shards]]\nid = 0\nkeyspace = "crest_test_from"\nlanes = 1\n'
        '[[shards]]\nid = 1\nkeyspace = "crest_test_to"\nlanes = 3\n'
    )
    settings = load(file, {})
    assert settings.topology is not None
    for keyspace in (settings.topology, *settings.shards.values()):
        await make_empty(keyspace)
    fleet = await open_fleet(StorageSettings(store="cassandra", data_dir=tmp_path, topology_file=str(file)))
    await TopologyStore(fleet.home).create(Topology.initial(1))
    opened = [await CassandraStore.open(settings.shards[shard], is_indexing=False) for shard in (0, 1)]
    yield fleet, opened
    await asyncio.gather(*(store.close() for store in opened), fleet.close())


def order(number: int, source: random.Random) -> Row:
    """One of many orders of a few customers, each a day to years old, or new."""
    age_ms = 0 if number % 4 == 0 else number * YEAR_MS // 90
    request_id = mint_uuid7(time_ms_of(mint_uuid7()) - age_ms)
    return new_row(f"customer {number % CUSTOMERS}", body=source.randbytes(50), request_id=request_id)


async def test_slots_move_between_keyspaces_beside_writers(
    stores: tuple[Fleet, list[CassandraStore]],
) -> None:
    """Orders of all ages and versions, some changed and made while they are copied, move with their lists, and back."""
    fleet, (source, target) = stores
    chance = random.Random(3)
    rows = {row.key.order_id: row for row in (order(number, chance) for number in range(160))}
    for row in rows.values():
        assert [outcome.verdict for outcome in await source.commit([row])] == [Verdict.APPLIED]
    topology = await topology_of(fleet)
    moving = {row.key.slot for row in rows.values() if row.key.slot % 4}
    await begin(fleet, Kind.ADD, options=Options(soak_s=0), slots=moving)

    async def write(point: str) -> None:
        """Changes an order, and makes one more, whenever copying begins again, in a slot that has not moved."""
        if point != "after index and place":
            return
        paused = (await SlotStatesWriter((await part_of(fleet, 0)).facts).read()).paused  # or on their way
        now = await topology_of(fleet)
        there = {slot for slot in moving if now.slot_shards[slot] == 0} - paused
        waiting = [row for row in rows.values() if row.key.slot in there]
        if not waiting:
            return
        changed = next_version(chance.choice(waiting), body=b"changed")
        made = new_row(changed.customer, body=b"made meanwhile")
        for row in (changed, made):
            assert [outcome.verdict for outcome in await source.commit([row])] == [Verdict.APPLIED]
            rows[row.key.order_id] = row

    finished = await Mover(fleet, at=write).run(stays=False)
    assert finished is not None
    assert finished.state is State.DONE, finished.stuck
    moved = await topology_of(fleet)
    assert {slot for slot, shard in enumerate(moved.slot_shards) if shard == 1} == moving
    await judge(rows, moved, source, target)
    report = await verify(fleet, moved, finished.moves)
    assert (report.wrong, report.named) == (0, [])
    assert report.compared > 0

    await begin(fleet, Kind.REVERSE, options=Options(soak_s=0))
    back = await Mover(fleet).run(stays=False)
    assert back is not None
    assert back.state is State.DONE, back.stuck
    again = await topology_of(fleet)
    assert again.slot_shards == topology.slot_shards
    await judge(rows, again, source, target)
    await clean_up(fleet, "ann")
    assert await leftovers(fleet, await topology_of(fleet), back) == []
    await judge(rows, await topology_of(fleet), source, target)


async def test_what_a_word_has_opened_is_where_the_next_attempt_leaves_it(
    stores: tuple[Fleet, list[CassandraStore]],
) -> None:
    """An attempt that ends after its word, before the topology tells it, is followed by one that serves its copies."""
    fleet, (source, _) = stores
    chance = random.Random(5)
    rows = [order(number, chance) for number in range(30)]
    for row in rows:
        await source.commit([row])
    await begin(fleet, Kind.ADD, slots={row.key.slot for row in rows})
    opened: set[int] = set()

    async def end(point: str) -> None:
        if point == "after open" and not opened:
            states = await SlotStatesWriter((await part_of(fleet, 0)).facts).read()
            assert states.leaving is not None
            opened.update(slot for slot, _ in states.leaving.targets)
            before = await topology_of(fleet)
            assert {before.slot_shards[slot] for slot in opened} == {0}
            raise asyncio.CancelledError

    finished = await Mover(fleet, at=end).run(stays=False)
    assert finished is not None
    assert finished.state is State.DONE, finished.stuck
    assert opened
    after = await topology_of(fleet)
    assert {after.slot_shards[row.key.slot] for row in rows} == {1}
    gens = {after.slot_gens[slot] for slot in opened}
    assert len(gens) == 1
    assert gens.pop() < finished.attempt
    report = await verify(fleet, after, finished.moves)
    assert (report.wrong, report.compared) == (0, len(rows))
    assert not [name for name in await (await part_of(fleet, 0)).facts.list(SCOPE) if name.startswith(OPEN_PREFIX)]


async def test_a_damaged_copy_is_found(stores: tuple[Fleet, list[CassandraStore]]) -> None:
    """A bit that turned in a copy is found before the flip: its slot stays, and the order is named."""
    fleet, (source, _) = stores
    chance = random.Random(4)
    rows = [order(number, chance) for number in range(30)]
    for row in rows:
        await source.commit([row])
    await begin(fleet, Kind.ADD, slots={row.key.slot for row in rows})
    damaged: list[Row] = []

    async def damage(point: str) -> None:
        if point == "after index and place" and not damaged and (row := await damaged_copy(fleet)) is not None:
            damaged.append(row)

    stopped = await Mover(fleet, at=damage).run(stays=False)
    assert stopped is not None
    assert stopped.state is State.PAUSED
    assert [stuck.slot for stuck in stopped.stuck] == [damaged[0].key.slot]
    assert (await topology_of(fleet)).slot_shards[damaged[0].key.slot] == 0
    assert (await part_of(fleet, 1)).copies is not None


async def judge(rows: dict[bytes, Row], topology: Topology, *shards: CassandraStore) -> None:
    """Every order is where the topology says, as it was left; and every list is complete."""
    by_customer: dict[str, list[Row]] = {}
    for row in rows.values():
        slot = row.key.slot
        placed = row._replace(key=row.key._replace(gen=topology.slot_gens[slot]))
        store = shards[topology.slot_shards[slot]]
        assert await store.read([placed.key], Consistency.STRONG) == [placed]
        assert (await store.commit([placed._replace(marks=placed.marks[:32])]))[0].present == placed
        by_customer.setdefault(row.customer, []).append(placed)
    for customer, placed_rows in by_customer.items():
        ordered = sorted(placed_rows, key=lambda row: row.key.order_id, reverse=True)
        store = shards[topology.slot_shards[ordered[0].key.slot]]
        assert await store.list_customer(customer, *ordered[0].key[:3], None, 1_000) == ordered
