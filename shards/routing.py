"""The way to an order: from its id to its slot, shard and lane. The one face that shards show to the server.

**An operation is answered only if its slot is still served from the place where the operation began, and the lease on
the shard is still held.** Else it waits until the slot is served again, and runs once more at the new place, within the
caller's deadline. A write whose first run may have been stored stays in doubt until a later run has decided it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

from shards.contract import Consistency, Observer, Outcome, Row, StoreError, Unavailable
from shards.deadlines import Deadlines
from shards.keys import Key, key_of, slot_and_tag, slot_of
from shards.places import RUNS_MAX, Place, Places, Shard
from shards.topology import Topology
from shards.writing import Found, Write, Writer

__all__ = ["Found", "Router", "Shard", "Write"]

_T = TypeVar("_T")

_BOOTTIME: Final = time.CLOCK_BOOTTIME


class Router:
    """Writes and reads orders, wherever they live. For one event loop.

    Order ids are 16 bytes; deadlines are absolute ``time.monotonic`` seconds. All methods raise ``StoreError``;
    ``DeadlineExceeded`` from a read says that the answer did not come in time.
    """

    def __init__(self, places: Places, observer: Observer, resources: AsyncExitStack) -> None:
        """``resources`` is what ``close`` lets go of, last entered first."""
        self._places = places
        self._slots = places.slots
        self._writer = Writer(places, observer)
        self._deadlines = Deadlines()
        self._observer = observer
        self._resources = resources

    @classmethod
    def over(
        cls, topology: Topology, shards: Mapping[int, Shard], observer: Observer, resources: AsyncExitStack
    ) -> Router:
        """Returns a router over shards that nobody moves, so that it needs no leases."""
        return cls(Places(topology, shards, observer), observer, resources)

    def __repr__(self) -> str:
        return f"Router({self._places!r})"

    @property
    def topology(self) -> Topology:
        """Where every slot lives; another one as soon as a slot has moved."""
        return self._places.topology

    async def write(self, order_id: bytes, customer: str, marks: bytes, body: bytes, deadline: float) -> Outcome:
        """Stores version ``len(marks) / MARK_BYTES`` of an order, by the laws of ``shards.contract``.

        Returns APPLIED, CLASH or SEALED. Cancelling the caller does not undo what is under way.
        """
        return await self._writer.write(Write(order_id, customer, marks, body), deadline)

    async def write_many(self, writes: Sequence[Write], deadline: float) -> Sequence[Found]:
        """Stores many, each as ``write`` does; returns what became of each, in order, when that is known of all.

        One that fails is told so in its place, and fails none of the others.
        """
        return await self._writer.write_many(writes, deadline)

    async def read(
        self, order_id: bytes, consistency: Consistency, *, min_version: int = 0, deadline: float
    ) -> Row | None:
        """Returns the order's row, or None where none was ever acknowledged.

        A CACHED answer older than ``min_version`` is read again from the store; what that finds is returned, though it
        be older still.
        """

        async def read(place: Place, shard: Shard) -> Row | None:
            key = key_of(order_id, place.gen)
            (row,) = await shard.store.read((key,), consistency)
            if consistency is Consistency.CACHED and row is not None and row.version < min_version:
                self._observer.cache_event("stale", 1)
                (row,) = await shard.store.read((key,), Consistency.STRONG)
            return row

        return await self._answer(slot_of(order_id), "read", deadline, read)

    async def read_many(
        self, order_ids: Sequence[bytes], consistency: Consistency, *, deadline: float
    ) -> dict[bytes, Row | StoreError | None]:
        """Returns for each order id its row, None, or the error of its shard; each shard answers for itself."""
        found: dict[bytes, Row | StoreError | None] = {}
        pending = list(dict.fromkeys(order_ids))
        for _ in range(RUNS_MAX):
            parts: dict[Shard, list[tuple[Place, Key]]] = {}
            closed: dict[int, list[bytes]] = {}
            now_s = time.clock_gettime(_BOOTTIME)
            for order_id in pending:
                slot = slot_of(order_id)
                place = self._slots[slot]
                if place.shard is None or place.is_paused or place.hold.until_s <= now_s:
                    closed.setdefault(slot, []).append(order_id)
                else:
                    parts.setdefault(place.shard, []).append((place, key_of(order_id, place.gen)))
            answers = await asyncio.gather(
                *(self._read_part(shard, part, consistency, deadline) for shard, part in parts.items()),
                *(self._wait_closed(slot, ids, deadline) for slot, ids in closed.items()),
            )
            for answer in answers:
                found.update(answer)
            pending = [order_id for order_id in pending if order_id not in found]
            if not pending:
                break
            self._observer.reran("read")
        moved = Unavailable(f"the order's slot moved {RUNS_MAX} times meanwhile")
        return {order_id: found.get(order_id, moved) for order_id in order_ids}

    async def list_customer(
        self, customer: str, before: bytes | None, rows_max: int, *, deadline: float
    ) -> Sequence[Row]:
        """Returns a customer's rows by descending order id, those below ``before``, at most ``rows_max``.

        Fewer than ``rows_max`` rows means that there are no more. Complete and read-your-writes.
        """
        slot, tag = slot_and_tag(customer)
        return await self._answer(
            slot,
            "list",
            deadline,
            lambda place, shard: shard.store.list_customer(customer, slot, place.gen, tag, before, rows_max),
        )

    async def close(self) -> None:
        """Takes no more writes, answers those under way, and closes every store and cache. Idempotent."""
        await self._resources.aclose()

    async def _answer(
        self, slot: int, operation: str, deadline: float, run: Callable[[Place, Shard], Coroutine[Any, Any, _T]]
    ) -> _T:
        """Runs what reads from a slot until its answer may be given."""
        for _ in range(RUNS_MAX):
            place = self._slots[slot]
            began_s = time.clock_gettime(_BOOTTIME)
            shard = place.shard
            if shard is None or place.is_paused or place.hold.until_s <= began_s:
                place, shard = await self._places.served(slot, deadline)
            place.under_way += 1
            try:
                answer = await self._deadlines.answer_by(deadline, run(place, shard))
            except StoreError:
                place.hold.failed()
                if self._slots[slot] is place or time.monotonic() >= deadline:
                    raise
            else:
                hold = place.hold
                now_s = time.clock_gettime(_BOOTTIME)
                if self._slots[slot] is place and hold.until_s > now_s:
                    hold.took(now_s - began_s)
                    return answer
                if await self._places.is_still(place, slot, deadline):
                    return answer
            finally:
                place.end()
            self._observer.reran(operation)
        raise Unavailable(f"the order's slot moved {RUNS_MAX} times meanwhile")

    async def _read_part(
        self, shard: Shard, part: Sequence[tuple[Place, Key]], consistency: Consistency, deadline: float
    ) -> dict[bytes, Row | StoreError | None]:
        """Returns what one shard has, or its error for every row; leaves out those whose slot is elsewhere now."""
        began_s = time.clock_gettime(_BOOTTIME)
        rows: Sequence[Row | StoreError | None]
        for place, _ in part:
            place.under_way += 1
        try:
            rows = await self._deadlines.answer_by(deadline, shard.store.read([key for _, key in part], consistency))
            await self._places.is_still(part[0][0], part[0][1].slot, deadline)  # one lease for all of them
        except StoreError as error:
            part[0][0].hold.failed()
            rows = [error] * len(part)
        else:
            part[0][0].hold.took(time.clock_gettime(_BOOTTIME) - began_s)
        finally:
            for place, _ in part:
                place.end()
        now_s = time.clock_gettime(_BOOTTIME)
        answers: dict[bytes, Row | StoreError | None] = {}
        for (place, key), row in zip(part, rows, strict=True):
            is_still = self._slots[key.slot] is place
            if isinstance(row, StoreError):
                if is_still or time.monotonic() >= deadline:
                    answers[key.order_id] = row
            elif is_still and place.hold.until_s > now_s:
                answers[key.order_id] = row
        return answers

    async def _wait_closed(
        self, slot: int, order_ids: Sequence[bytes], deadline: float
    ) -> dict[bytes, Row | StoreError | None]:
        """Returns when a slot is served: nothing, or for each of its orders why it is not."""
        try:
            await self._places.served(slot, deadline)
        except StoreError as error:
            return dict.fromkeys(order_ids, error)
        return {}
