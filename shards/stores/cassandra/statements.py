"""Every CQL statement of the store, prepared once a connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from shards.stores.cassandra.session import Prepared, Session

READ_SIZES: Final = (1, 4, 16, 64)
"""Rows of one partition that one read may name. A read takes the next size and repeats its last key."""


@dataclass(frozen=True, slots=True)
class Statements:
    """Prepared statements; the comment of each says what is bound, in order."""

    create: Prepared  # lane, bucket, slot, gen, tag, order_id, customer, version, marks, body
    replace: Prepared  # version, marks, body, lane, bucket, slot, gen, tag, order_id, version before
    unless_sealed: Prepared  # lane, bucket
    seal: Prepared  # lane, bucket
    slice: Prepared  # lane, bucket, slot, gen, tag, below order_id, limit
    tags_after: Prepared  # lane, bucket, after slot, gen, tag, limit
    index: Prepared  # slot, gen, tag, bucket
    buckets_below: Prepared  # slot, gen, tag, below bucket, limit
    control_read: Prepared  # scope, name
    control_create: Prepared  # scope, name, revision, value
    control_replace: Prepared  # revision, value, scope, name, revision before
    control_revision: Prepared  # scope, name
    control_list: Prepared  # scope, limit
    control_delete: Prepared  # scope, name, revision before
    control_raise: Prepared  # revision, value, scope, name, above revision before
    control_guard: Prepared  # revision, scope, name, revision
    control_tell: Prepared  # scope, name, revision, value, microseconds
    read: tuple[Prepared, ...]  # lane, bucket, then slot, gen, tag, order_id as often as READ_SIZES says


_TEXTS: Final = {
    "create": """
        INSERT INTO ks.orders (lane, bucket, slot, gen, tag, order_id, customer, version, marks, body)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS""",
    "replace": """
        UPDATE ks.orders SET version = ?, marks = ?, body = ?
        WHERE lane = ? AND bucket = ? AND slot = ? AND gen = ? AND tag = ? AND order_id = ? IF version = ?""",
    # a condition on a static column needs a statement of its own; deleting what is not there changes nothing
    "unless_sealed": "DELETE sealed FROM ks.orders WHERE lane = ? AND bucket = ? IF sealed = null",
    "seal": "UPDATE ks.orders SET sealed = true WHERE lane = ? AND bucket = ? IF sealed = null",
    "slice": """
        SELECT slot, gen, tag, order_id, customer, marks, body FROM ks.orders
        WHERE lane = ? AND bucket = ? AND slot = ? AND gen = ? AND tag = ? AND order_id < ? LIMIT ?""",
    "tags_after": """
        SELECT slot, gen, tag FROM ks.orders WHERE lane = ? AND bucket = ? AND (slot, gen, tag) > (?, ?, ?)
        GROUP BY slot, gen, tag LIMIT ?""",
    "index": "INSERT INTO ks.customer_buckets (slot, gen, tag, bucket) VALUES (?, ?, ?, ?)",
    "buckets_below": """
        SELECT bucket FROM ks.customer_buckets WHERE slot = ? AND gen = ? AND tag = ? AND bucket < ? LIMIT ?""",
    "control_read": "SELECT revision, value FROM ks.control WHERE scope = ? AND name = ?",
    "control_create": "INSERT INTO ks.control (scope, name, revision, value) VALUES (?, ?, ?, ?) IF NOT EXISTS",
    "control_replace": "UPDATE ks.control SET revision = ?, value = ? WHERE scope = ? AND name = ? IF revision = ?",
    "control_revision": "SELECT revision FROM ks.control WHERE scope = ? AND name = ?",
    "control_list": "SELECT name, revision, value FROM ks.control WHERE scope = ? LIMIT ?",
    "control_delete": "DELETE FROM ks.control WHERE scope = ? AND name = ? IF revision = ?",
    "control_raise": "UPDATE ks.control SET revision = ?, value = ? WHERE scope = ? AND name = ? IF revision < ?",
    "control_tell": "INSERT INTO ks.control (scope, name, revision, value) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    "control_guard": "UPDATE ks.control SET revision = ? WHERE scope = ? AND name = ? IF revision = ?",
}

_READ: Final = """
    SELECT slot, gen, tag, order_id, customer, marks, body FROM ks.orders
    WHERE lane = ? AND bucket = ? AND (slot, gen, tag, order_id) IN """


async def prepare(session: Session, keyspace: str) -> Statements:
    """Prepares all statements for a keyspace. Raises ``StoreError``; ``Invalid`` when the schema is not there."""

    async def one(text: str) -> Prepared:
        # the whole name of a table: then the answer of a node does not depend on the connection's keyspace
        return await session.prepare(" ".join(text.replace(" ks.", f" {keyspace}.").split()))

    named = dict(zip(_TEXTS, await asyncio.gather(*map(one, _TEXTS.values())), strict=True))
    reads = [_READ + "(" + ", ".join(["(?, ?, ?, ?)"] * size) + ")" for size in READ_SIZES]
    return Statements(**named, read=tuple(await asyncio.gather(*map(one, reads))))
