"""Seals bucket after bucket when they are old enough, indexes each, and moves the watermark over it.

Every worker does so; each step may be done twice, or be broken off, without harm: sealing is final, an index entry is
written the same again, and the watermark moves by compare-and-set, after the entries.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, cast

from shards.contract import BUCKET_S, SEAL_AFTER_S, StoreError
from shards.facts import Fact
from shards.keys import wall_clock_ms
from shards.stores.cassandra.connection import Connection, Link
from shards.stores.cassandra.session import Kind, Step

_SCOPE: Final = "watermark"
_INTERVAL_S: Final = 20.0  # a pass when nothing is due costs one read a lane
_JITTER: Final = 0.5  # so that the workers seldom do the same bucket at once
_AHEAD: Final = 8  # buckets sealed and indexed side by side while catching up
_PAGE: Final = 1_000
_WRITES_AT_ONCE: Final = 64
_LOW: Final = -1  # below any slot, gen and tag

_log = logging.getLogger("crest.cassandra")


class Indexer:
    """The indexing of one shard, and what this process knows of its watermarks."""

    def __init__(self, connection: Connection, lanes: int, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._connection = connection
        self._lanes = lanes
        self._clock_ms = clock_ms
        self._watermarks: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Indexer(watermarks={self._watermarks}, {'running' if self._task else 'not running'})"

    def start(self) -> None:
        """Begins to index in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stops. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def watermark(self, lane: int) -> int:
        """Returns a bucket up to which the index of a lane is complete; it may have moved on since.

        Raises ``StoreError``.
        """
        known = self._watermarks.get(lane)
        return await self._read(self._connection.link(), lane) if known is None else known

    async def refresh(self, lane: int) -> int:
        """Returns the watermark of a lane as it is now, or later. Raises ``StoreError``."""
        return await self._read(self._connection.link(), lane)

    async def advance(self) -> int:
        """Seals and indexes all that is due, in every lane; returns how many buckets. Raises ``StoreError``."""
        link = self._connection.link()
        done = 0
        for lane in range(self._lanes):
            due = (self._clock_ms() - SEAL_AFTER_S * 1_000) // (BUCKET_S * 1_000) - 1
            mark = await self._read(link, lane)
            while mark < due:
                group = range(mark + 1, min(mark + _AHEAD, due) + 1)
                await asyncio.gather(*(self._index(link, lane, bucket) for bucket in group))
                await self._move(link, lane, mark, group[-1])
                done += len(group)
                mark = await self._read(link, lane)
        return done

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311  not a secret
            try:
                await self.advance()
            except StoreError as error:
                # lists stay complete: they look into the buckets themselves
                _log.info("indexing broke off and will go on: %s", error)

    async def _read(self, link: Link, lane: int) -> int:
        fact = await link.control.glance(_SCOPE, str(lane))
        mark = link.facts.first_bucket - 1 if fact is None else fact.revision
        self._watermarks[lane] = max(mark, self._watermarks.get(lane, mark))
        return mark

    async def _move(self, link: Link, lane: int, mark: int, to: int) -> None:
        if mark == link.facts.first_bucket - 1:
            await link.control.create(_SCOPE, str(lane), Fact(mark, b""))
        await link.control.replace(_SCOPE, str(lane), mark, Fact(to, b""))

    async def _index(self, link: Link, lane: int, bucket: int) -> None:
        """Seals one bucket of a lane and writes an index entry for every customer's slice in it."""
        await link.session.batch((Step(link.statements.seal, (lane, bucket)),))
        after = (_LOW, _LOW, _LOW)
        while True:
            # serial, not at quorum: it also sees what was acknowledged through another data centre
            found = await link.session.execute(
                link.statements.tags_after, (lane, bucket, *after, _PAGE), Kind.SERIAL_READ
            )
            entries = [cast("tuple[int, int, int]", tuple(entry)) for entry in found if entry[0] is not None]
            for start in range(0, len(entries), _WRITES_AT_ONCE):
                await asyncio.gather(
                    *(
                        link.session.execute(link.statements.index, (*entry, bucket), Kind.WRITE)
                        for entry in entries[start : start + _WRITES_AT_ONCE]
                    )
                )
            if len(found) < _PAGE:
                return
            after = entries[-1]
