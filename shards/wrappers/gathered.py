"""A store whose single reads go together: while some of a lane are under way, the next ones gather.

As group commit for reads. Rows that were read together grow old together, so misses come in swarms; and a statement for
many rows of a lane costs a store little more than one for a single row.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from shards.contract import Consistency, Row, Store, StoreError
from shards.keys import Key
from shards.wrappers.passing import Passing

ROWS_MAX: Final = 64
"""Rows of one read of ours."""

AT_ONCE_MAX: Final = 2
"""Reads of ours of one lane under way, before others wait for company."""

PATIENCE_S: Final = 0.02
"""So long at most a read waits for company: one that a store has lost holds up nobody."""


class _Waiter(NamedTuple):
    """One row asked for, and the caller who waits for it."""

    key: Key
    found: asyncio.Future[Row | None]


class _Group:
    """The reads of one lane."""

    __slots__ = ("lane", "soon", "under_way", "waiting")

    def __init__(self, lane: Hashable) -> None:
        self.lane = lane
        self.waiting: deque[_Waiter] = deque()
        self.under_way = 0
        self.soon: asyncio.Handle | None = None  # will send those that wait


class GatheredStore(Passing):
    """Reads of one row, CACHED, share a read of the store where many come at once; a lone one is sent at once.

    Each caller is answered what a read found that began after its call. STRONG reads, and those of many rows, pass. For
    one event loop. Waiting reads are as many as their callers, whom ``BoundedStore`` bounds.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._groups: dict[Hashable, _Group] = {}
        self._reading: set[asyncio.Task[None]] = set()  # held here: the event loop itself holds tasks weakly

    def __repr__(self) -> str:
        waiting = sum(len(group.waiting) for group in self._groups.values())
        return f"GatheredStore({self._store!r}, reading={len(self._reading)}, waiting={waiting})"

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """Returns the row of each key."""
        if len(keys) != 1 or consistency is Consistency.STRONG:
            return await self._store.read(keys, consistency)
        lane = self._store.lane(keys[0])
        group = self._groups.get(lane)
        if group is None:
            group = self._groups[lane] = _Group(lane)
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Row | None] = loop.create_future()
        group.waiting.append(_Waiter(keys[0], found))
        if group.soon is None:
            if group.under_way < AT_ONCE_MAX:
                group.soon = loop.call_soon(self._send, group)  # not at once: with others of this turn of the loop
            else:
                group.soon = loop.call_later(PATIENCE_S, self._send, group)
        return [await found]

    def _send(self, group: _Group) -> None:
        """Sends those that wait, the oldest first, and takes the group away where it has nothing to do."""
        if group.soon is not None:
            group.soon.cancel()
            group.soon = None
        while group.waiting:
            part: list[_Waiter] = []
            while group.waiting and len(part) < ROWS_MAX:
                waiter = group.waiting.popleft()
                if not waiter.found.done():  # else its caller has left
                    part.append(waiter)
            if part:
                group.under_way += 1
                task = asyncio.get_running_loop().create_task(self._run(group, part))
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)
        if not group.under_way:
            del self._groups[group.lane]

    async def _run(self, group: _Group, part: Sequence[_Waiter]) -> None:
        """Reads for callers who asked together, and lets the next ones go."""
        try:
            rows = await self._store.read([waiter.key for waiter in part], Consistency.CACHED)
        except Exception as error:  # noqa: BLE001  each caller is told
            for waiter in part:
                if not waiter.found.done():
                    waiter.found.set_exception(_own(error))
        else:
            for waiter, row in zip(part, rows, strict=True):
                if not waiter.found.done():
                    waiter.found.set_result(row)
        finally:
            group.under_way -= 1
            self._send(group)


def _own(error: Exception) -> Exception:
    """Returns a caller's own error: one raised in many tasks would gather all their tracebacks."""
    if not isinstance(error, StoreError):
        return error
    own = type(error)(*error.args)
    own.__cause__ = error
    return own
