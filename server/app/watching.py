"""Following orders: one poll for all orders that are watched, and a short cut for changes made in this process.

A change made through another worker is seen by polling the store, so nothing has to be delivered between workers and
no change can be missed. Each watcher holds only the latest state: a slow one skips, and never holds up others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from server.app import codec
from server.domain.errors import OrderError, Reason
from server.domain.order import Order
from shards.contract import Consistency
from shards.routing import Router

_POLL_INTERVAL_S: Final = 0.4
"""Changes are to be seen within a second: an interval, and as much again for the poll itself."""

_POLL_TIMEOUT_S: Final = 5.0
_POLL_ORDERS: Final = 500
_WATCHED_MAX: Final = 10_000
"""Watchers a process holds; above it new ones are refused."""


class States:
    """The latest state of one watched order, for one watcher."""

    def __init__(self) -> None:
        self._latest: Order | OrderError | None = None
        self._arrived = asyncio.Event()

    def offer(self, latest: Order | OrderError) -> None:
        """Takes a state that was read or made; an older one than the latest is dropped."""
        known = self._latest
        if isinstance(latest, Order) and isinstance(known, Order) and latest.version <= known.version:
            return
        self._latest = latest
        self._arrived.set()

    async def after(self, version: int) -> Order | OrderError:
        """Returns the latest state as soon as it is later than ``version``, or an error as soon as there is one."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            latest = self._latest
            if isinstance(latest, OrderError) or (latest is not None and latest.version > version):
                return latest


class Watching:
    """All watchers of this process, and the task that polls for them while there are any."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._watchers: dict[bytes, set[States]] = {}
        self._count = 0
        self._poller: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Watching(orders={len(self._watchers)}, watchers={self._count})"

    @asynccontextmanager
    async def follow(self, order_id: bytes) -> AsyncIterator[States]:
        """Holds a watcher of one order. Raises QUEUE_FULL ``OrderError`` when there are too many."""
        if self._count >= _WATCHED_MAX:
            raise OrderError(Reason.QUEUE_FULL, "this worker follows too many orders; retry", retry_after_s=1.0)
        states = States()
        self._watchers.setdefault(order_id, set()).add(states)
        self._count += 1
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll(), name="watch-poll")
        try:
            yield states
        finally:
            self._count -= 1
            self._watchers[order_id].discard(states)
            if not self._watchers[order_id]:
                del self._watchers[order_id]

    def changed(self, order: Order) -> None:
        """Tells the watchers of an order what this process has just made of it."""
        for states in self._watchers.get(order.order_id, ()):
            states.offer(order)

    async def close(self) -> None:
        """Stops polling. Idempotent."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.gather(poller, return_exceptions=True)

    async def _poll(self) -> None:
        try:
            while self._watchers:
                await asyncio.sleep(_POLL_INTERVAL_S)
                watched = list(self._watchers)
                for start in range(0, len(watched), _POLL_ORDERS):
                    await self._poll_some(watched[start : start + _POLL_ORDERS])
        except Exception as error:  # a defect; watchers must not wait for ever on a poll that has died
            self._fail_all(error)
            raise
        finally:
            self._poller = None

    def _fail_all(self, cause: Exception) -> None:
        failure = OrderError(Reason.INTERNAL, "following this order failed; the service's log tells why")
        failure.__cause__ = cause
        for watchers in self._watchers.values():
            for states in watchers:
                states.offer(failure)

    async def _poll_some(self, order_ids: list[bytes]) -> None:
        deadline = time.monotonic() + _POLL_TIMEOUT_S
        found = await self._router.read_many(order_ids, Consistency.STRONG, deadline=deadline)
        for order_id, answer in found.items():
            latest = codec.decode_found(answer)
            for states in self._watchers.get(order_id, ()):
                if latest is not None:
                    states.offer(latest)
