"""Every CQL statement of the store, prepared once a connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from shards.stores.cassandra.session import Prepared, Session

READ_SIZES: Final = (1, 4, 16, 64)
"""Rows of one partition that one read may name. A read takes the next size and repeats its last key."""

_KEY: Final = "lane = ? AND bucket = ? AND slot = ? AND gen = ? AND tag = ?"
_ROW: Final = "slot, gen, tag, order_id, customer, marks, body"


@dataclass(frozen=True, slots=True)
class Statements:
    """Prepared statements; the comment of each says what is bound, in order."""

    create: Prepared  # lane, bucket, slot, gen, tag, order_id, customer, version, marks, body
    replace: Prepared  # version, marks, body, lane, bucket, slot, gen, tag, order_id, version before
    unless_sealed: Prepared  # lane, bucket
    seal: Prepared  # lane, bucket
    read: tuple[Prepared, ...]  # lane, bucket, then (slot, gen, tag, order_id) as often as READ_SIZES says
    slice: Prepared  # lane, bucket, slot, gen, tag, below order_id, limit
    tags_after: Prepared  # lane, bucket, after slot, gen, tag, limit
    index: Prepared  # slot, gen, tag, bucket
    buckets_below: Prepared  # slot, gen, tag, below bucket, limit
    control_read: Prepared  # scope, name
    control_create: Prepared  # scope, name, revision, value
    control_replace: Prepared  # revision, value, scope, name, revision before


async def prepare(session: Session, keyspace: str) -> Statements:
    """Prepares all statements for a keyspace. Raises ``StoreError``; ``Invalid`` when the schema is not there."""
    orders, buckets, control = (f"{keyspace}.{table}" for table in ("orders", "customer_buckets", "control"))
    texts = [
        f"INSERT INTO {orders} (lane, bucket, slot, gen, tag, order_id, customer, version, marks, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS",
        f"UPDATE {orders} SET version = ?, marks = ?, body = ? WHERE {_KEY} AND order_id = ? IF version = ?",
        # a condition on a static column needs a statement of its own; deleting what is not there changes nothing
        f"DELETE sealed FROM {orders} WHERE lane = ? AND bucket = ? IF sealed = null",
        f"UPDATE {orders} SET sealed = true WHERE lane = ? AND bucket = ? IF sealed = null",
        f"SELECT {_ROW} FROM {orders} WHERE {_KEY} AND order_id < ? LIMIT ?",
        f"SELECT slot, gen, tag FROM {orders} WHERE lane = ? AND bucket = ? AND (slot, gen, tag) > (?, ?, ?) "
        "GROUP BY slot, gen, tag LIMIT ?",
        f"INSERT INTO {buckets} (slot, gen, tag, bucket) VALUES (?, ?, ?, ?)",
        f"SELECT bucket FROM {buckets} WHERE slot = ? AND gen = ? AND tag = ? AND bucket < ? LIMIT ?",
        f"SELECT revision, value FROM {control} WHERE scope = ? AND name = ?",
        f"INSERT INTO {control} (scope, name, revision, value) VALUES (?, ?, ?, ?) IF NOT EXISTS",
        f"UPDATE {control} SET revision = ?, value = ? WHERE scope = ? AND name = ? IF revision = ?",
    ]
    reads = [
        f"SELECT {_ROW} FROM {orders} WHERE lane = ? AND bucket = ? AND (slot, gen, tag, order_id) IN "
        f"({', '.join(['(?, ?, ?, ?)'] * size)})"
        for size in READ_SIZES
    ]
    prepared = await asyncio.gather(*(session.prepare(text) for text in texts + reads))
    (create, replace, unless_sealed, seal, slice_, tags_after, index, buckets_below, *control_three) = prepared[:11]
    return Statements(
        create, replace, unless_sealed, seal, tuple(prepared[11:]), slice_, tags_after, index, buckets_below, *control_three
    )
