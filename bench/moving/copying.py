"""Copies slots between two shards that nobody uses, and compares them."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import NamedTuple

from bench.bed import Bed
from shards.assembly import StorageSettings, open_fleet
from shards.contract import Copies, Row
from shards.keys import key_of, mint_uuid7, order_id_of
from shards.rebalance.copying import Copying
from shards.rebalance.record import Move, Options
from shards.rebalance.throttle import Throttle
from shards.stores.embedded import prepare

BODY_BYTES = 300
SLOTS = 16
"""Copied together, as a mover does."""

SOURCE_GEN, TARGET_GEN = 0, 900_000_001
AGE_MAX_MS = 24 * 3_600_000
"""Orders lie in the buckets of one day."""


class Copied(NamedTuple):
    """What it took. Processor seconds are this process', all its threads."""

    rows: int
    copy_s: float
    copy_cpu_s: float
    verify_s: float
    verify_cpu_s: float


async def copy_embedded(scratch: Path, rows: int) -> Copied:
    """Copies from one file of a data directory to another."""
    data_dir = scratch / "copies"
    os.close(prepare(data_dir, 2))
    return await _between(StorageSettings(data_dir=data_dir), rows)


async def copy_cassandra(bed: Bed, scratch: Path, rows: int) -> Copied:
    """Copies from one shard of the bed to another."""
    file = bed.named("crest_copies", scratch)
    return await _between(StorageSettings(store="cassandra", data_dir=scratch, topology_file=str(file)), rows)


async def _between(settings: StorageSettings, count: int) -> Copied:
    fleet = await open_fleet(settings)
    try:
        (_, source), (_, target) = await fleet.part(0), await fleet.part(1)
        slots = await _fill(source, count)
        moves = [Move(slot, 0, 1, SOURCE_GEN) for slot in slots]
        copying = Copying(source, target, moves, TARGET_GEN, Throttle(Options()))
        began, cpu = time.monotonic(), time.process_time()
        rows = await copying.round(slots)
        copied, copied_cpu = time.monotonic(), time.process_time()
        await copying.verify()
        await copying.look()
        differing = copying.differing(slots)
        verified, verified_cpu = time.monotonic(), time.process_time()
        assert not differing, f"copies differ in {sum(map(len, differing.values()))} orders"
        return Copied(rows, copied - began, copied_cpu - cpu, verified - copied, verified_cpu - copied_cpu)
    finally:
        await fleet.close()


async def _fill(copies: Copies, count: int) -> list[int]:
    """Puts orders into as many slots as are copied together; returns the slots."""
    chance = random.Random(6)
    now_ms = time.time_ns() // 1_000_000
    customers = [f"mover-{number}" for number in range(SLOTS)]
    rows: dict[bytes, Row] = {}
    while len(rows) < count:
        customer = chance.choice(customers)
        request_id = mint_uuid7(now_ms - chance.randrange(AGE_MAX_MS))
        key = key_of(order_id_of(customer, request_id), SOURCE_GEN)
        rows[key.order_id] = Row(key, customer, request_id + bytes(16), chance.randbytes(BODY_BYTES))
    ordered = sorted(rows.values(), key=lambda row: row.key.order_id)
    for start in range(0, count, 1_000):
        await copies.place(ordered[start : start + 1_000], {})
    return sorted({row.key.slot for row in ordered})
