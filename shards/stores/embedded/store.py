"""One shard in one SQLite file, behind the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Final

from shards.contract import BUCKET_S, CommitLimits, Consistency, Invalid, Outcome, Row, Store
from shards.keys import Key, bucket_of
from shards.stores.embedded import statements
from shards.stores.embedded.reader import Page, Reader
from shards.stores.embedded.reader import Question as ReadQuestion
from shards.stores.embedded.threads import ConnectionThread
from shards.stores.embedded.writer import Question as WriteQuestion
from shards.stores.embedded.writer import Settle, Writer

_LIMITS: Final = CommitLimits(rows_max=statements.ROWS_MAX, bytes_max=4 * 1024 * 1024, in_flight_max=1)
_WRITES_MAX: Final = 64  # commits and seals waiting for the thread; lanes keep to in_flight_max, seals come on top
_READS_MAX: Final = 4096  # calls waiting for the thread; each is answered within the next statement or two
_THE_LANE: Final = 0


class EmbeddedStore(Store):
    """A shard kept in one file that several processes share. Open it with ``open``.

    All rows of the shard may be committed together: it is one lane. One commit is under way at a time, because
    a second one would only wait for the first.
    """

    def __init__(self, path: Path, writer: Writer, reader: Reader) -> None:
        """Takes over the two sides of the file; ``open`` is the way to get here."""
        self._path: Final = path
        self._writer: Final = writer
        self._writes: Final[ConnectionThread[WriteQuestion, Sequence[Outcome]]] = ConnectionThread(
            f"{path.name} writer", writer.work, writer.close, jobs_max=_WRITES_MAX, taken_max=1
        )
        self._reads: Final[ConnectionThread[ReadQuestion, Sequence[Row | None]]] = ConnectionThread(
            f"{path.name} reader", reader.work, reader.close, jobs_max=_READS_MAX
        )

    @classmethod
    async def open(cls, path: Path) -> EmbeddedStore:
        """Opens a shard's file that ``prepare`` has made. Raises ``DataDirError``, a ``StoreError``."""
        writer, reader = await asyncio.to_thread(_open, path)
        return cls(path, writer, reader)

    def __repr__(self) -> str:
        return f"<EmbeddedStore {self._path} writes={self._writes.jobs_waiting} reads={self._reads.jobs_waiting}>"

    @property
    def limits(self) -> CommitLimits:
        """What one commit may hold."""
        return _LIMITS

    def lane(self, key: Key) -> Hashable:  # noqa: ARG002  # there is one
        """Returns the one lane of the shard."""
        return _THE_LANE

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """See ``Store.commit``. Never answers DEFERRED: what is not refused is committed at once."""
        if not rows:
            return ()
        _check(rows)
        return await self._writes.ask(rows)

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """See ``Store.read``. Reads of both consistencies are linearizable; only STRONG ones settle (law 5)."""
        if consistency is Consistency.STRONG and self._writer.in_doubt:
            await self._writes.ask(Settle.IT)
        return await self._reads.ask(keys) if keys else ()

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """See ``Store.list_customer``."""
        rows = await self._reads.ask(Page(customer, slot, gen, tag, before, rows_max))
        return [row for row in rows if row is not None]

    async def seal(self, key: Key) -> None:
        """See ``Store.seal``."""
        await self._writes.ask(bucket_of(key.order_id, BUCKET_S))

    async def close(self) -> None:
        """See ``Store.close``."""
        await asyncio.gather(self._writes.close(), self._reads.close())


def _open(path: Path) -> tuple[Writer, Reader]:
    writer = Writer(path)
    try:
        return writer, Reader(path)
    except BaseException:
        writer.close()
        raise


def _check(rows: Sequence[Row]) -> None:
    limits = _LIMITS
    if len(rows) > limits.rows_max:
        raise Invalid(f"{len(rows)} rows in one commit; at most {limits.rows_max}")
    size = sum([len(row.body) + len(row.marks) for row in rows])
    if size > limits.bytes_max:
        raise Invalid(f"{size} bytes in one commit; at most {limits.bytes_max}")
    if len({row.key.order_id for row in rows}) < len(rows):
        raise Invalid("two rows of one order in one commit")
