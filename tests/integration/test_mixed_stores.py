"""From the embedded store to Cassandra while orders flow: shards of both kinds in one topology."""

import asyncio
import dataclasses
import os
from pathlib import Path

from shards.assembly import StorageSettings, open_router, prepare
from shards.contract import APPLIED, Consistency, Row
from shards.fleets import open_fleet
from shards.rebalance.home import Book
from shards.rebalance.mover import Mover
from shards.rebalance.record import Kind, State, start
from shards.routing import Router
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
