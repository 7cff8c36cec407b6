"""Two caches as one: a near one in the process, which keeps what is asked for most, and a far one that is shared."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final, Protocol

from shards.contract import Cache, Observer, Row
from shards.keys import Key

WAITING_ROWS_MAX: Final = 8_192
"""Rows that wait to be remembered far away; more are not remembered there. Seconds of what a worker can read."""

STORED_ROWS_MAX: Final = 512
"""Rows handed to the far cache at once."""


class FarCache(Protocol):
    """A cache that tells when what it answers was read. Never raises."""

    async def find(self, keys: Sequence[Key]) -> Sequence[tuple[Row, float] | None]:
        """Returns the remembered row of each key, in order, with when its read began (``time.monotonic`` seconds)."""

    async def store(self, readings: Sequence[tuple[Row, float]]) -> None:
        """Remembers rows, each with when its read began, unless a newer version is remembered."""

    async def close(self) -> None:
        """Lets go of connections. Idempotent."""


class LayeredCache:
    """Asks ``near`` first and ``far`` for the rest. Obeys ``shards.contract.Cache``.

    What is put is remembered near at once, and far soon after: no caller waits for that. A row that is put late, when
    near has pushed out a newer version already, is answered all the same while its lifetime lasts, which counts from
    its read; what this process wrote itself, ``wrappers.cached`` does not go behind. Closes both.
    """

    def __init__(self, near: Cache, far: FarCache, observer: Observer) -> None:
        self._near = near
        self._far = far
        self._observer = observer
        self._waiting: dict[Key, tuple[Row, float]] = {}
        self._under_way: dict[Key, tuple[Row, float]] = {}
        self._storing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"LayeredCache({self._near!r}, {self._far!r}, waiting={len(self._waiting)}/{WAITING_ROWS_MAX})"

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """Returns the remembered row of each key, in order; None for a miss or one past its lifetime."""
        rows = list(await self._near.get(keys))
        missed = [index for index, row in enumerate(rows) if row is None]
        if missed:
            readings = await self._far.find([keys[index] for index in missed])
            for index, reading in zip(missed, readings, strict=True):
                if reading is not None and not self._newer_on_its_way(reading[0]):
                    rows[index] = reading[0]
                    await self._near.put((reading[0],), reading[1])
        return rows

    async def put(self, rows: Sequence[Row], read_started: float) -> None:
        """Remembers rows, each unless a newer version is remembered."""
        await self._near.put(rows, read_started)
        waiting = self._waiting
        left_out = 0
        for row in rows:
            waits = waiting.get(row.key)
            if waits is None and len(waiting) >= WAITING_ROWS_MAX:
                left_out += 1
            elif waits is None or (waits[0].version, waits[1]) < (row.version, read_started):
                waiting[row.key] = row, read_started
        if left_out:
            self._observer.cache_event("error", left_out)
        if waiting and self._storing is None:
            self._storing = asyncio.get_running_loop().create_task(self._store())

    async def created(self, rows: Sequence[Row], commit_started: float) -> None:
        """Remembers rows just stored, near only: most orders are read by nobody while they are young.

        Far away each would cost more than the read that it spares the first who asks; measured in docs/adr/0012.
        """
        await self._near.created(rows, commit_started)

    async def close(self) -> None:
        """Hands over what waits, which ``far`` takes or refuses in its own time, and closes both. Idempotent."""
        if self._storing is not None:
            await asyncio.wait((self._storing,))
        await self._near.close()
        await self._far.close()

    async def _store(self) -> None:
        """Hands over what waits, until nothing does."""
        try:
            while self._waiting:
                keys = list(itertools.islice(self._waiting, STORED_ROWS_MAX))
                self._under_way = {key: self._waiting.pop(key) for key in keys}
                await self._far.store(list(self._under_way.values()))
        finally:
            self._under_way = {}
            self._storing = None

    def _newer_on_its_way(self, row: Row) -> bool:
        """Tells whether far has not heard yet of a newer version, which near may have forgotten already."""
        on_its_way = self._waiting.get(row.key) or self._under_way.get(row.key)
        return on_its_way is not None and on_its_way[0].version > row.version
