"""A store and a cache whose calls are reported: what, how long, and how it failed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from shards.contract import Cache, Consistency, Observer, Outcome, Row, Store
from shards.keys import Key
from shards.wrappers.passing import Passing


class ObservedStore(Passing):
    """Tells the observer of each call; changes nothing."""

    def __init__(self, store: Store, *, shard: int, observer: Observer) -> None:
        super().__init__(store)
        self._shard = shard
        self._observer = observer

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane."""
        with _Call(self._observer, self._shard, "commit"):
            return await self._store.commit(rows)

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """Returns the row of each key."""
        with _Call(self._observer, self._shard, "read"):
            return await self._store.read(keys, consistency)

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """Returns the customer's rows, newest first."""
        with _Call(self._observer, self._shard, "list"):
            return await self._store.list_customer(customer, slot, gen, tag, before, rows_max)

    async def seal(self, key: Key) -> None:
        """Seals the bucket of a key."""
        with _Call(self._observer, self._shard, "seal"):
            await self._store.seal(key)


class ObservedCache:
    """Tells the observer of each call; changes nothing. Obeys ``shards.contract.Cache``."""

    def __init__(self, cache: Cache, observer: Observer) -> None:
        self._cache = cache
        self._observer = observer

    def __repr__(self) -> str:
        return f"ObservedCache({self._cache!r})"

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """Returns the remembered row of each key."""
        started = time.monotonic()
        rows = await self._cache.get(keys)
        self._observer.cache_call("get", time.monotonic() - started)
        return rows

    async def put(self, rows: Sequence[Row], read_started: float) -> None:
        """Remembers rows."""
        started = time.monotonic()
        await self._cache.put(rows, read_started)
        self._observer.cache_call("put", time.monotonic() - started)

    async def created(self, rows: Sequence[Row], commit_started: float) -> None:
        """Remembers rows just stored."""
        started = time.monotonic()
        await self._cache.created(rows, commit_started)
        self._observer.cache_call("put", time.monotonic() - started)

    async def close(self) -> None:
        """Closes the cache inside."""
        await self._cache.close()


class _Call:
    """The time of one call, from enter to exit."""

    __slots__ = ("_observer", "_operation", "_shard", "_started")

    def __init__(self, observer: Observer, shard: int, operation: str) -> None:
        self._observer = observer
        self._shard = shard
        self._operation = operation
        self._started = time.monotonic()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        self._observer.store_call(self._shard, self._operation, seconds, kind.__name__ if kind else "")
