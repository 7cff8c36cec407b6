"""What a shard holds of one slot, in a form that two shards can be compared by, order by order where they differ. Pure.

A digest a bucket: how many orders, and the sum of a hash of each row. A sum does not depend on the order in which rows
were met, and takes a change in without the rest being read again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import xxhash

from shards.contract import BUCKET_S, Row
from shards.keys import bucket_of

_LENGTHS: Final = struct.Struct(">III")
_MODULUS: Final = 1 << 128


class BucketDigest(NamedTuple):
    """The orders of one slot in one bucket."""

    orders: int
    sum: int
    """Of their ``row_digest``, modulo 2 ** 128."""


_EMPTY: Final = BucketDigest(0, 0)


def row_digest(row: Row) -> int:
    """Returns a hash of 128 bits over everything that a row holds but its gen."""
    customer = row.customer.encode()
    head = _LENGTHS.pack(len(customer), len(row.marks), len(row.body))
    content = b"".join((row.key.order_id, head, customer, row.marks, row.body))
    return xxhash.xxh3_128_intdigest(content)


def sum_of(digests: Iterable[int]) -> int:
    """Returns the sum of row digests, modulo 2 ** 128."""
    return sum(digests) % _MODULUS


class SlotDigest:
    """What is known of the orders of one slot on one shard."""

    __slots__ = ("_buckets", "_orders")

    def __init__(self) -> None:
        """Of a slot without orders."""
        self._orders: dict[bytes, tuple[int, int]] = {}
        self._buckets: dict[int, BucketDigest] = {}

    def __repr__(self) -> str:
        return f"SlotDigest(orders={len(self._orders)}, buckets={len(self._buckets)})"

    def __len__(self) -> int:
        return len(self._orders)

    @property
    def buckets(self) -> Mapping[int, BucketDigest]:
        """The digest of each bucket that has orders."""
        return self._buckets

    def rows(self) -> Iterator[int]:
        """Yields the ``row_digest`` of every order."""
        return (digest for _, digest in self._orders.values())

    def version(self, order_id: bytes) -> int:
        """Returns the version that is known of an order, 0 where none is."""
        return self._orders.get(order_id, (0, 0))[0]

    def put(self, row: Row) -> None:
        """Takes in a row in place of what was known of its order."""
        order_id = row.key.order_id
        self.remove(order_id)
        digest = row_digest(row)
        self._orders[order_id] = (row.version, digest)
        self._change(order_id, 1, digest)

    def remove(self, order_id: bytes) -> None:
        """Forgets an order; does nothing where it is not known."""
        known = self._orders.pop(order_id, None)
        if known is not None:
            self._change(order_id, -1, -known[1])

    def stale(self, versions: Mapping[bytes, int]) -> list[bytes]:
        """Returns the orders whose version is not that of ``versions``, known ones that are not in it included."""
        changed = [order_id for order_id, version in versions.items() if self.version(order_id) != version]
        if len(self._orders) + len(changed) > len(versions):
            changed += [order_id for order_id in self._orders if order_id not in versions]
        return changed

    def differing(self, other: SlotDigest) -> list[bytes]:
        """Returns the ids of the orders that are not the same in both, ascending; empty: the two are equal."""
        if self._buckets == other._buckets:
            return []
        buckets = {
            bucket
            for bucket in self._buckets.keys() | other._buckets.keys()
            if self._buckets.get(bucket) != other._buckets.get(bucket)
        }
        return sorted(
            order_id
            for order_id in self._orders.keys() | other._orders.keys()
            if bucket_of(order_id, BUCKET_S) in buckets and self._orders.get(order_id) != other._orders.get(order_id)
        )

    def _change(self, order_id: bytes, count: int, digest: int) -> None:
        bucket = bucket_of(order_id, BUCKET_S)
        before = self._buckets.get(bucket, _EMPTY)
        after = BucketDigest(before.orders + count, (before.sum + digest) % _MODULUS)
        if after.orders:
            self._buckets[bucket] = after
        else:
            del self._buckets[bucket]
