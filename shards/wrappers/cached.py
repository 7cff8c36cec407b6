"""A store with a memory: CACHED reads ask the cache first, and misses of one key are read once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from shards.contract import MARK_BYTES, Cache, Consistency, Observer, Outcome, Row, Store, Verdict
from shards.keys import Key
from shards.wrappers.floors import Floors
from shards.wrappers.passing import Passing

_FLOORS_MAX: Final = 65_536
"""Transitions of one shard remembered: over 10,000 a second for the usual lifetime of 5 s, more than a worker makes."""


class _Flight(NamedTuple):
    """A read under way."""

    began: float
    task: asyncio.Task[Mapping[Key, Row | None]]
    """Has the rows that it found."""


class CachedStore(Passing):
    """Answers CACHED reads from ``cache`` where it can; STRONG reads never. Closes the store, not the cache.

    What is read or written is remembered. A read that misses joins one of the same key that is under way; a caller who
    needs a minimum version checks it on whatever comes back, as the row may be older than the call. No read answers a
    version older than one whose commit here was acknowledged before it, whatever the cache has forgotten or kept.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        observer: Observer,
        *,
        remembered_s: float = 3600.0,
        joined_s: float = 3600.0,
    ) -> None:
        """``remembered_s``: the longest for which ``cache`` answers a row after the read that found it began.

        ``joined_s``: a read that began longer ago is not joined. What it finds may be that old already, so this is the
        age that callers are promised.
        """
        super().__init__(store)
        self._cache = cache
        self._observer = observer
        self._floors = Floors(keep_s=remembered_s, floors_max=_FLOORS_MAX)
        self._joined_s = joined_s
        self._flights: dict[Key, _Flight] = {}  # of each key the latest read

    def __repr__(self) -> str:
        return f"CachedStore({self._store!r}, {self._cache!r}, reading={len(self._flights)})"

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane; remembers the applied ones before it returns, so a later CACHED read sees them."""
        started = time.monotonic()
        outcomes = await self._store.commit(rows)
        created: list[Row] = []
        moved: list[Row] = []
        for row, outcome in zip(rows, outcomes, strict=False):
            if outcome.verdict is Verdict.APPLIED:
                (created if len(row.marks) == MARK_BYTES else moved).append(row)
            elif outcome.present is not None:  # it may be the very row, of a first try, and acknowledged then
                self._raise_floors((outcome.present,))
        if created:  # nothing is older than they are
            await self._cache.created(created, started)
        if moved:
            self._raise_floors(moved)
            await self._cache.put(moved, started)
        return outcomes

    async def stored(self, rows: Sequence[Row], commit_started: float) -> None:
        """Remembers rows that another process has stored for this one, by a commit that began then or later."""
        self._raise_floors(rows)
        await self._cache.created(rows, commit_started)  # caches that are shared have been told by that process

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """Returns the row of each key."""
        if consistency is Consistency.STRONG:
            strong = await self._read_and_remember(keys, consistency)
            self._raise_floors(row for row in strong if row is not None)  # so a write may be settled and acknowledged
            return strong
        rows = list(await self._cache.get(keys))
        missed = [index for index, row in enumerate(rows) if row is None]
        self._count("hit", len(rows) - len(missed))
        self._count("miss", len(missed))
        if older := self._older(rows):
            self._count("stale", len(older))
            missed += older
        if missed:
            joined = await self._join_or_read(keys, rows, missed)
            outdated = {index for index in joined if rows[index] is None}.union(self._older(rows))
            if outdated:
                # The read joined began before this call, and what was acknowledged in between is missing in it. The one
                # joined or begun now began after this call: of each key the latest is known, and that one has ended.
                await self._join_or_read(keys, rows, sorted(outdated.intersection(joined)))
        return rows

    def _raise_floors(self, rows: Iterable[Row]) -> None:
        now = time.monotonic()
        for row in rows:
            self._floors.raise_to(row.key, row.version, now)

    def _older(self, rows: Sequence[Row | None]) -> Sequence[int]:
        """Returns the indices of rows older than what was written here."""
        now = time.monotonic()
        allows = self._floors.allows
        return [i for i, row in enumerate(rows) if row is not None and not allows(row.key, row.version, now)]

    async def _join_or_read(self, keys: Sequence[Key], rows: list[Row | None], wanted: Sequence[int]) -> Sequence[int]:
        """Fills in the rows of these indices; returns those whose read was joined."""
        oldest = time.monotonic() - self._joined_s
        joined = {
            index: flight.task
            for index in wanted
            if (flight := self._flights.get(keys[index])) and flight.began >= oldest
        }
        flights = dict(joined)
        if len(joined) < len(wanted):
            own_indices = [index for index in wanted if index not in joined]
            own = self._begin(dict.fromkeys(keys[index] for index in own_indices))
            flights.update(dict.fromkeys(own_indices, own))
        self._count("coalesced", len(joined))
        for task in dict.fromkeys(flights.values()):
            await asyncio.shield(task)  # others may have joined, so cancelling this caller ends its own wait only
        for index, task in flights.items():
            rows[index] = task.result()[keys[index]]
        return list(joined)

    def _begin(self, keys: Iterable[Key]) -> asyncio.Task[Mapping[Key, Row | None]]:
        keys = tuple(keys)
        task = asyncio.get_running_loop().create_task(self._fly(keys))
        self._flights.update(dict.fromkeys(keys, _Flight(time.monotonic(), task)))
        task.add_done_callback(_look_at_error)
        return task

    async def _fly(self, keys: Sequence[Key]) -> Mapping[Key, Row | None]:
        try:
            rows = await self._read_and_remember(keys, Consistency.CACHED)
            return dict(zip(keys, rows, strict=True))
        finally:
            own = asyncio.current_task()
            for key in keys:
                if (latest := self._flights.get(key)) and latest.task is own:
                    del self._flights[key]

    async def _read_and_remember(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        started = time.monotonic()
        rows = await self._store.read(keys, consistency)
        found = [row for row in rows if row is not None]
        if found:
            await self._cache.put(found, started)
            self._count("fill", len(found))
        return rows

    def _count(self, event: str, count: int) -> None:
        if count:
            self._observer.cache_event(event, count)


def _look_at_error(task: asyncio.Task[Mapping[Key, Row | None]]) -> None:
    """Marks a failure as seen: when all who waited have left, there is nobody to tell."""
    if not task.cancelled():
        task.exception()
