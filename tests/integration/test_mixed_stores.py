"""From the embedded store to Cassandra while orders flow: shards of both kinds in one topology."""

import asyncio
import dataclasses
import os
from pathlib import Path

import pytest

from shards.assembly import StorageSettings, open_fleet, open_next_home, open_router, prepare
from shards.contract import APPLIED, Consistency, Row, StoreError
from shards.rebalance import home_move
from shards.rebalance.home import Book
from shards.rebalance.mover import Mover
from shards.rebalance.record import Kind, State, start
from shards.routing import Router
from shards.settings import CassandraSettings
from shards.topology_store import TopologyStore
from tests.support.cassandra_node import make_empty, node_settings
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version, soon

CUSTOMERS = 40
STRONG = Consistency.STRONG


async def write(router: Router, row: Row) -> None:
    """Stores a row, whose gen is the router's business."""
    assert await router.write(row.key.order_id, row.customer, row.marks, row.body, soon(20)) is APPLIED


async def shop(router: Router, row: Row, until: asyncio.Event) -> Row:
    """A customer whose order is read and changed all the while; returns its last version."""
    await write(router, row)
    while not until.is_set() or row.version == 1:
        found = await router.read(row.key.order_id, STRONG, deadline=soon(20))
        assert found is not None
        assert (found.marks, found.body) == (row.marks, row.body)
        listed, _ = await router.list_customer(row.customer, None, 9, deadline=soon(20))
        assert listed.marks == row.marks
        if row.version < 5:
            row = next_version(row)
            await write(router, row)
        await asyncio.sleep(0)
    return row


async def the_line(settings: StorageSettings) -> str:
    """What a server is told that is started so."""
    with pytest.raises(StoreError) as refused:
        await open_router(settings, Notes())
    return str(refused.value)


async def test_orders_move_from_files_to_cassandra_under_load(tmp_path: Path) -> None:
    """Slots move from a data directory into a cluster: no caller sees an error, and every order is there as it was."""
    cluster = node_settings("acsylla", "crest_mixed")
    await make_empty(cluster)
    embedded = StorageSettings(data_dir=tmp_path / "data", shards=1)
    os.close(prepare(embedded))
    router = await open_router(embedded, Notes())
    older = [new_row(f"customer {n}", body=b"older") for n in range(CUSTOMERS)]
    for row in older:
        await write(router, row)
    await router.close()

    file = tmp_path / "topology.toml"
    file.write_text(f"""
        [embedded]
        data_dir = "data"
        shards = [0]
        [[shards]]
        id = 1
        contact_points = ["{cluster.contact_points[0]}"]
        port = {cluster.port}
        keyspace = "{cluster.keyspace}"
        replication = 1
    """)
    mixed = dataclasses.replace(embedded, store="cassandra", topology_file=str(file))
    lock = prepare(mixed)
    notes = Notes()
    router = await open_router(mixed, notes)
    fleet = await open_fleet(mixed)
    try:
        topology = router.topology
        slots = {row.key.slot for row in older}
        after = topology.with_shard_added()
        targets = dict.fromkeys(slots, 1)
        record = start(topology, targets, after.shards, kind=Kind.ADD, who="test")
        assert await Book(fleet.home).replace(0, record)
        moved = asyncio.Event()
        shoppers = [
            asyncio.ensure_future(shop(router, new_row(f"customer {n}", body=b"new"), moved)) for n in range(CUSTOMERS)
        ]
        finished = await Mover(fleet).run(stays=False)
        assert finished is not None
        assert finished.state is State.DONE
        moved.set()
        newer = await asyncio.gather(*shoppers)
        present = await TopologyStore(fleet.home).load()
        assert present is not None
        assert {slot for slot, shard in enumerate(present.slot_shards) if shard == 1} == slots
        for row in (*older, *newer):
            found = await router.read(row.key.order_id, STRONG, deadline=soon(20))
            assert found is not None
            assert (found.marks, found.body) == (row.marks, row.body)
        assert not notes.leases_lost
    finally:
        await fleet.close()
        await router.close()
        os.close(lock)


def files(
    embedded: StorageSettings, cluster: CassandraSettings, new_home: CassandraSettings
) -> tuple[StorageSettings, StorageSettings, StorageSettings]:
    """A data directory beside a cluster: while the home moves, afterwards, and as if it never moved."""
    node = f'contact_points = ["{cluster.contact_points[0]}"]\nport = {cluster.port}\nreplication = 1\n'
    shards = f'[embedded]\ndata_dir = "data"\nshards = [0]\n[[shards]]\nid = 1\n{node}keyspace = "{cluster.keyspace}"\n'

    def with_file(name: str, home: str = "") -> StorageSettings:
        file = embedded.data_dir.parent / name
        file.write_text(shards + (f'[{home}]\n{node}keyspace = "{new_home.keyspace}"\n' if home else ""))
        return dataclasses.replace(embedded, store="cassandra", topology_file=str(file))

    return with_file("during.toml", "topology.next"), with_file("after.toml", "topology"), with_file("before.toml")


async def test_the_topology_moves_from_a_file_to_cassandra_under_load(tmp_path: Path) -> None:
    """While customers shop the home moves, and slots after it, and nobody sees an error, nor whoever starts later."""
    cluster, new_home = node_settings("acsylla", "crest_mixed"), node_settings("acsylla", "crest_mixed_home")
    for keyspace in (cluster, new_home):
        await make_empty(keyspace)
    embedded = StorageSettings(data_dir=tmp_path / "data", shards=1)
    os.close(prepare(embedded))
    router = await open_router(embedded, Notes())
    for number in range(CUSTOMERS):
        await write(router, new_row(f"customer {number}", body=b"older"))
    await router.close()

    during, after, before = files(embedded, cluster, new_home)
    lock = prepare(during)
    notes = Notes()
    router = await open_router(during, notes)
    fleet = await open_fleet(during)
    facts, where = await open_next_home(Path(during.topology_file))
    try:
        done = asyncio.Event()
        shoppers = [
            asyncio.ensure_future(shop(router, new_row(f"customer {n}", body=b"new"), done)) for n in range(CUSTOMERS)
        ]
        epoch = router.topology.epoch
        moved = await home_move.move(fleet, home_move.NewHome(facts, where), "ann")
        assert (moved.is_moved, moved.workers, moved.epoch) == (True, 1, epoch + 2)

        topology = await TopologyStore(facts).load()  # in Cassandra alone
        assert topology is not None
        slots = {new_row(f"customer {n}").key.slot for n in range(CUSTOMERS)}
        record = start(topology, dict.fromkeys(slots, 1), topology.with_shard_added().shards, kind=Kind.ADD, who="test")
        assert await Book(facts).replace(0, record)
        finished = await Mover(fleet).run(stays=False)
        assert finished is not None
        assert finished.state is State.DONE
        done.set()
        for row in await asyncio.gather(*shoppers):
            found = await router.read(row.key.order_id, STRONG, deadline=soon(20))
            assert found is not None
            assert (found.marks, found.body) == (row.marks, row.body)
        assert not notes.leases_lost
        assert {slot for slot, shard in enumerate(router.topology.slot_shards) if shard == 1} == slots

        for settings in (during, after):
            late = await open_router(settings, Notes())
            assert late.topology == router.topology
            await late.close()
        assert (await home_move.plan(fleet, home_move.NewHome(facts, where))).is_moved
        for settings in (before, embedded):
            assert f"the topology is kept in keyspace {new_home.keyspace}" in await the_line(settings)
    finally:
        await facts.close()
        await fleet.close()
        await router.close()
        os.close(lock)


async def test_nobody_makes_a_second_topology_for_shards_that_have_one(tmp_path: Path) -> None:
    """A topology file that names another home than before, or one not moved to yet, ends the start with one line."""
    shard, other = node_settings("acsylla", "crest_mixed"), node_settings("acsylla", "crest_mixed_home")
    for keyspace in (shard, other):
        await make_empty(keyspace)
    node = f'contact_points = ["{shard.contact_points[0]}"]\nport = {shard.port}\nreplication = 1\n'
    file = tmp_path / "topology.toml"
    settings = StorageSettings(data_dir=tmp_path, store="cassandra", topology_file=str(file))
    file.write_text(f'[[shards]]\nid = 0\n{node}keyspace = "{shard.keyspace}"\n')
    await (await open_router(settings, Notes())).close()
    file.write_text(file.read_text() + f'[topology]\n{node}keyspace = "{other.keyspace}"\n')
    assert "shard 0 has been served" in await the_line(settings)
