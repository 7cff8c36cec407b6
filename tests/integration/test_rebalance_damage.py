"""A copy in which one byte is another, and what the operator is told of it, on either store."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from shards.assembly import StorageSettings, open_fleet
from shards.contract import Row
from shards.keys import format_uuid
from shards.rebalance.cli.exits import ExitCode
from shards.rebalance.fleet import Fleet, part_of
from shards.settings import load
from shards.stores.embedded import prepare
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.cassandra_node import make_empty, node_address
from tests.support.damage import flipped_byte
from tests.support.rebalances import topology_of
from tests.support.rows import new_row
from tests.support.server_process import ROOT

CUSTOMER = "a customer with many orders"
ORDERS = 40
FIRST_ATTEMPT = 2
"""Of the first rebalance of a storage: its start, and the mover that took it up."""


@pytest.fixture(params=["embedded", "cassandra"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[StorageSettings, list[str]]:
    """Two shards without orders, as a mover and as the command line are told of them."""
    if request.param == "embedded":
        os.close(prepare(tmp_path / "data", 2))
        return StorageSettings(data_dir=tmp_path / "data"), ["--data-dir", str(tmp_path / "data")]
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
    where = StorageSettings(store="cassandra", data_dir=tmp_path, topology_file=str(file))
    return where, ["--topology-file", str(file)]


async def test_a_flipped_byte_is_named_to_the_operator_and_stops_its_slot(
    storage: tuple[StorageSettings, list[str]],
) -> None:
    """A copy with one byte flipped is named, its slot stays where it was; resumed, it is copied anew and moves."""
    settings, where = storage
    fleet = await open_fleet(settings)
    try:
        await TopologyStore(fleet.home).create(Topology.initial(2))
        rows = [new_row(CUSTOMER, body=bytes([number])) for number in range(ORDERS)]
        slot = rows[0].key.slot
        source = (await topology_of(fleet)).slot_shards[slot]
        await (await part_of(fleet, source)).copies.place(rows, {})
        damaged = rows[ORDERS // 2]
        bad = flipped_byte(damaged)._replace(key=damaged.key._replace(gen=FIRST_ATTEMPT))
        # of the same version, so that the mover's own copy does not replace it
        await (await part_of(fleet, 1 - source)).copies.place([bad], {})

        moved = ["split", "--customer", CUSTOMER, "--to", str(1 - source)]
        output = await run(ExitCode.UNFINISHED, "start", *moved, *where)
        order_id = format_uuid(damaged.key.order_id)
        assert f"stuck: slot {slot}: the copy differs in order {order_id}" in output
        output = await run(ExitCode.OK, "status", *where)
        assert f"slot {slot}: the copy differs in order {order_id}" in output
        assert not [row for row in rows if row is not damaged and format_uuid(row.key.order_id) in output]
        assert (await topology_of(fleet)).slot_shards[slot] == source

        await run(ExitCode.OK, "resume", *where)
        assert (await topology_of(fleet)).slot_shards[slot] == 1 - source
        assert "Wrong   none" in await run(ExitCode.OK, "verify", *where)
        assert await found(fleet, 1 - source, rows) == {row.key.order_id: row.body for row in rows}
    finally:
        await fleet.close()


async def run(exit_code: int, *words: str) -> str:
    """Runs one command of the operator, as a process, and returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shards.rebalance", *words, cwd=ROOT, env={**os.environ, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await process.communicate()
    assert process.returncode == exit_code, told.decode()
    return told.decode()


async def found(fleet: Fleet, shard: int, rows: list[Row]) -> dict[bytes, bytes]:
    """What a shard holds of orders under the gen that the topology names."""
    topology = await topology_of(fleet)
    keys = [row.key._replace(gen=topology.slot_gens[row.key.slot]) for row in rows]
    there = await (await part_of(fleet, shard)).copies.rows(keys)
    return {row.key.order_id: row.body for row in there if row is not None}
