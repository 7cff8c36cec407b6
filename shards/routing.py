"""The way to an order: from its id to its slot, shard and lane. The one face that shards show to the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple, Protocol, TypeVar

from shards.contract import MARK_BYTES, Consistency, DeadlineExceeded, Observer, Outcome, Row, Store, StoreError
from shards.keys import Key, key_of, slot_and_tag, slot_of
from shards.lanes import Lanes
from shards.topology import Topology

_T = TypeVar("_T")


class Sealing(Protocol):
    """Knows when the bucket of an id is to be sealed, and does it (see ``shards.wrappers.seals``)."""

    def is_due(self, order_id: bytes) -> bool:
        """Tells whether the bucket of an order id is old enough to be sealed."""

    async def ensure(self, key: Key) -> None:
        """Returns when the bucket of a key is sealed. Raises ``StoreError``; no order was written."""


class Shard(NamedTuple):
    """What the router needs of one shard."""

    lanes: Lanes
    """Where its writes go."""
    store: Store
    """Where its reads go."""
    seals: Sealing
    """What old ids must pass before they create."""


class Router:
    """Writes and reads orders, wherever they live. For one event loop.

    Order ids are 16 bytes; deadlines are absolute ``time.monotonic`` seconds. All methods raise ``StoreError``;
    ``DeadlineExceeded`` from a read says that the answer did not come in time.
    """

    def __init__(
        self, topology: Topology, shards: Mapping[int, Shard], observer: Observer, resources: AsyncExitStack
    ) -> None:
        """``resources`` is what ``close`` lets go of, last entered first."""
        self._topology = topology
        self._shards = shards
        self._observer = observer
        self._resources = resources

    def __repr__(self) -> str:
        shards = ", ".join(f"{number}: {shard.lanes!r}" for number, shard in self._shards.items())
        return f"Router({self._topology!r}, {{{shards}}})"

    @property
    def topology(self) -> Topology:
        """Where every slot lives."""
        return self._topology

    async def write(self, order_id: bytes, customer: str, marks: bytes, body: bytes, deadline: float) -> Outcome:
        """Stores version ``len(marks) / MARK_BYTES`` of an order, by the laws of ``shards.contract``.

        Returns APPLIED, CLASH or SEALED. Cancelling the caller does not undo what is under way.
        """
        key, shard = self._place(order_id)
        if len(marks) == MARK_BYTES and shard.seals.is_due(order_id):
            await _by(deadline, shard.seals.ensure(key))
        return await shard.lanes.write(Row(key, customer, marks, body), deadline)

    async def read(
        self, order_id: bytes, consistency: Consistency, *, min_version: int = 0, deadline: float
    ) -> Row | None:
        """Returns the order's row, or None where none was ever acknowledged.

        A CACHED answer older than ``min_version`` is read again from the store; what that finds is returned, though it
        be older still.
        """
        key, shard = self._place(order_id)
        rows = await _by(deadline, shard.store.read((key,), consistency))
        if consistency is Consistency.CACHED and rows[0] is not None and rows[0].version < min_version:
            self._observer.cache_event("stale", 1)
            rows = await _by(deadline, shard.store.read((key,), Consistency.STRONG))
        return rows[0]

    async def read_many(
        self, order_ids: Sequence[bytes], consistency: Consistency, *, deadline: float
    ) -> dict[bytes, Row | StoreError | None]:
        """Returns for each order id its row, None, or the error of its shard; each shard answers for itself."""
        keys_of: dict[int, list[Key]] = {}
        for order_id in dict.fromkeys(order_ids):
            slot = slot_of(order_id)
            keys = keys_of.setdefault(self._topology.slot_shards[slot], [])
            keys.append(key_of(order_id, self._topology.slot_gens[slot]))
        parts = await asyncio.gather(
            *(_read_part(self._shards[shard], keys, consistency, deadline) for shard, keys in keys_of.items())
        )
        found = {order_id: row for part in parts for order_id, row in part.items()}
        return {order_id: found[order_id] for order_id in order_ids}

    async def list_customer(
        self, customer: str, before: bytes | None, rows_max: int, *, deadline: float
    ) -> Sequence[Row]:
        """Returns a customer's rows by descending order id, those below ``before``, at most ``rows_max``.

        Fewer than ``rows_max`` rows means that there are no more. Complete and read-your-writes.
        """
        slot, tag = slot_and_tag(customer)
        gen = self._topology.slot_gens[slot]
        shard = self._shards[self._topology.slot_shards[slot]]
        return await _by(deadline, shard.store.list_customer(customer, slot, gen, tag, before, rows_max))

    async def close(self) -> None:
        """Takes no more writes, answers those under way, and closes every store and cache. Idempotent."""
        await self._resources.aclose()

    def _place(self, order_id: bytes) -> tuple[Key, Shard]:
        slot = slot_of(order_id)
        return key_of(order_id, self._topology.slot_gens[slot]), self._shards[self._topology.slot_shards[slot]]


async def _read_part(
    shard: Shard, keys: Sequence[Key], consistency: Consistency, deadline: float
) -> dict[bytes, Row | StoreError | None]:
    """Returns the rows that one shard has, or its error for every one."""
    try:
        rows = await _by(deadline, shard.store.read(keys, consistency))
    except StoreError as error:
        return {key.order_id: error for key in keys}
    return {key.order_id: row for key, row in zip(keys, rows, strict=True)}


async def _by(deadline: float, answer: Awaitable[_T]) -> _T:
    """Awaits an answer until the deadline, and then leaves it."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded("the store did not answer before the deadline") from None
