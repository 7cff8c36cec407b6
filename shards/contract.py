"""The law of stores: what is kept, how it is written, read and sealed, and how it fails.

Every store (embedded, Cassandra) and every wrapper obeys this module, and one acceptance suite (``tests/contract``)
holds them to it. Nothing here does I/O.

The law:

1. **A write is conditional.** A row of version 1 is stored only where no row is and its bucket is not sealed; a row of
   version v > 1 replaces a row of version v - 1 and nothing else. Whoever loses learns the row that is there.
2. **APPLIED is durable.** It is said only when the row has reached the disk of a quorum (embedded: fsync).
3. **A commit is all or nothing for each row**, never half a row. Rows of one commit may fare differently.
4. **Failures are honest.** ``Unavailable``, ``Overloaded`` and ``Invalid`` mean that nothing of the commit was or will
   be written. Any other failure leaves the outcome of each row unknown: it may have been, or may yet be, written.
5. **STRONG reads are linearizable** with writes. What one has shown of a write that had failed stays so. What it has
   not shown may still arrive, from a node that was frozen with the request unread; never twice, since every write is
   conditional. So "not there" settles a failed write only by making it again.
6. **Sealing is final.** Once ``seal`` returned, no row of version 1 whose id falls into that bucket is ever stored.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, Protocol

from shards.keys import Key

MARK_BYTES: Final = 32
"""Bytes of one mark: 16 of the request id, 16 of the digest of its payload."""

BUCKET_S: Final = 600
"""Length of a time bucket in seconds; partitions of a store hold one bucket, and sealing closes one."""

SEAL_AFTER_S: Final = 900
"""Seconds past its end after which a bucket may be sealed: so long, at least, a request id creates."""


class Row(NamedTuple):
    """One order as a store keeps it. Its ``version`` is the number of its marks."""

    key: Key
    customer: str
    marks: bytes
    """One mark a version, oldest first: ``request_id + digest`` of the request that made it (32 bytes each)."""
    body: bytes
    """The order itself, opaque to shards."""

    @property
    def version(self) -> int:
        """The version, from 1."""
        return len(self.marks) // MARK_BYTES

    def version_made_by(self, request_id: bytes) -> int:
        """Returns the version that the request (16 bytes) made, or 0 when it made none."""
        for start in range(0, len(self.marks), MARK_BYTES):
            if self.marks.startswith(request_id, start):
                return start // MARK_BYTES + 1
        return 0

    def mark(self, version: int) -> bytes:
        """Returns the mark (32 bytes) of a version from 1 to ``version``."""
        return self.marks[(version - 1) * MARK_BYTES : version * MARK_BYTES]


class Verdict(enum.Enum):
    """What became of one row of a commit."""

    APPLIED = "applied"
    """Stored, durable."""
    CLASH = "clash"
    """Not stored: another version, or none, is there."""
    SEALED = "sealed"
    """Not stored, and no row of this id ever will be: its bucket is sealed and has none."""
    DEFERRED = "deferred"
    """Not stored, because another row of the same commit was refused: commit it again."""


class Outcome(NamedTuple):
    """The fate of one row, and for CLASH the row that is there (None: there is none)."""

    verdict: Verdict
    present: Row | None = None


APPLIED: Final = Outcome(Verdict.APPLIED)
DEFERRED: Final = Outcome(Verdict.DEFERRED)
SEALED: Final = Outcome(Verdict.SEALED)


class Consistency(enum.Enum):
    """Which answer a read accepts."""

    CACHED = "cached"
    """A real past version: from a cache, or from a quorum. Never a false "no such row" for an acknowledged one."""
    STRONG = "strong"
    """The current version, linearizable with every acknowledged write."""


class CommitLimits(NamedTuple):
    """How much a store takes at once; each at least 1."""

    rows_max: int
    """Rows of one commit."""
    bytes_max: int
    """Sum of ``len(body) + len(marks)`` of one commit."""
    in_flight_max: int
    """Commits under way at once, over all lanes of the shard."""


class Store(Protocol):
    """One shard's truth. Safe for concurrent use by the tasks of one event loop, and by other processes beside it."""

    @property
    def limits(self) -> CommitLimits:
        """What one commit may hold."""

    def lane(self, key: Key) -> Hashable:
        """Returns the lane of a key: rows of one lane may be committed together, and gain by it."""

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane, no two of one order, within ``limits``; returns one outcome a row, in order.

        Raises ``StoreError`` (law 4). Cancelling the caller does not undo what is under way.
        """

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """Returns the row of each key, in order; None where none is stored. Raises ``StoreError``."""

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """Returns the customer's rows by descending order id, those below ``before``, at most ``rows_max``.

        Fewer than ``rows_max`` rows means that there are no more. Complete and read-your-writes. Raises ``StoreError``.
        """

    async def seal(self, key: Key) -> None:
        """Seals the bucket of a key (law 6). Idempotent. The caller has made sure that it is old enough."""

    async def close(self) -> None:
        """Finishes what is under way and lets go of files and connections. Idempotent."""


class SlotSize(NamedTuple):
    """How much a shard keeps of one slot under one gen."""

    rows: int
    bytes: int
    """Sum of ``len(body) + len(marks)``; where a store cannot add them up, so many rows of the mean of a sample."""


PLACED_MAX: Final = 1_024
"""Rows of one ``Copies.place``."""


class Copies(Protocol):
    """A shard as movers see it: whole slots, read and placed beside the workers. For one event loop.

    The law:

    1. **Placing is conditional.** A row is placed where none is, or a lower version of it; never over the same or a
       higher one. Once placed it is durable. Placing the same again, late or by another mover, changes nothing.
    2. **Seals do not hinder a copy**: what was stored on the source is stored on the target, sealed or not.
    3. **Lists are complete**: a row that is placed is found by ``Store.list_customer`` of its gen, however old it is.
    4. **What was acknowledged is seen**: ``versions``, ``rows`` and ``sealed`` show every write of any process that
       was acknowledged before they began.
    5. **Dropping takes one slot under one gen**, and nothing else.

    All methods raise ``StoreError``, and may be repeated without harm whatever became of them.
    """

    async def versions(self, gens: Mapping[int, int]) -> Mapping[int, Mapping[bytes, int]]:
        """Returns the version of every order of each slot of ``gens`` (slot to gen), by order id (16 bytes).

        All at once: some hundred bytes of memory an order. Slots that are asked for together cost less.
        """

    async def rows(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """Returns the row of each key, in order; None where none is."""

    async def place(self, rows: Sequence[Row], known: Mapping[bytes, int]) -> None:
        """Places rows (at most ``PLACED_MAX``, no two of one order), of any slots, gens and buckets.

        ``known`` tells, by order id, which versions are there as far as the caller knows; 0 or nothing for none. Where
        it is wrong the placing takes longer. Rows of one call may be placed and others not when it fails.
        """

    def seals_together(self, slot: int) -> Hashable:
        """Returns what is the same for slots that are sealed together."""

    async def sealed(self, slot: int, first_bucket: int) -> AbstractSet[int]:
        """Returns the buckets, from ``first_bucket`` on, that are sealed for the slot. From 0 on it may take long."""

    async def seal(self, slot: int, buckets: AbstractSet[int]) -> None:
        """Seals buckets for the slot, and for those that are sealed together with it (law 6 of ``Store``)."""

    async def drop(self, slot: int, gen: int) -> None:
        """Deletes every row of a slot under a gen that no topology names, nor ever will."""

    async def present(self) -> AbstractSet[tuple[int, int]]:
        """Returns every slot and gen of which there are rows, by a look at the whole shard. May hold emptied ones."""

    async def sizes(self, gens: Mapping[int, int]) -> Mapping[int, SlotSize]:
        """Returns the size of each slot of ``gens`` (slot to gen), by a look at the whole shard."""

    async def close(self) -> None:
        """Finishes what is under way and lets go of files and connections. Idempotent."""


class Cache(Protocol):
    """Remembers rows. May forget at any moment; never answers a row that was not once the truth.

    Asynchronous because it may be remote. Never raises for a cache that is away: that is a miss.
    """

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """Returns the remembered row of each key, in order; None for a miss or one past its lifetime."""

    async def put(self, rows: Sequence[Row], read_started: float) -> None:
        """Remembers rows, each unless a newer version is remembered.

        ``read_started`` (``time.monotonic`` seconds) is when the read that found them began: lifetime counts from it.
        """

    async def created(self, rows: Sequence[Row], commit_started: float) -> None:
        """Remembers rows that a commit has just stored, or does not.

        No cache of others has an older version, or who committed them has told it.
        """

    async def close(self) -> None:
        """Lets go of connections. Idempotent."""


class Observer(Protocol):
    """Told what happens in shards; implemented by the server's metrics. Must be quick and never raise."""

    def store_call(self, shard: int, operation: str, seconds: float, error: str) -> None:
        """One store call ended: ``operation`` is commit, read, list or seal; ``error`` is a class name or empty."""

    def batch_committed(self, shard: int, rows: int) -> None:
        """One commit of so many rows was sent to the store."""

    def queue_rows(self, shard: int, rows: int) -> None:
        """The shard's lanes now hold so many rows that wait or are under way."""

    def rows_handed(self, count: int) -> None:
        """So many rows were handed over to the workers that commit their lanes."""

    def rows_taken(self, count: int) -> None:
        """So many rows of other workers were handed over to this one."""

    def rows_taken_back(self, reason: str, count: int) -> None:
        """So many rows that were handed over are committed here after all.

        ``reason``: refused (there was nothing done), closed (the connection ended) or silent (nothing was heard).
        """

    def cache_call(self, operation: str, seconds: float) -> None:
        """One cache call ended: ``operation`` is get or put."""

    def cache_event(self, event: str, count: int) -> None:
        """Cache events: hit, miss, stale (older than asked for), coalesced, fill, tombstone, error."""

    def slot_waiters(self, count: int) -> None:
        """So many operations wait now for slots that are being moved, or for a lease."""

    def slot_waited(self, seconds: float) -> None:
        """One of them has waited so long, and goes on or gives up."""

    def reran(self, operation: str) -> None:
        """An operation (write, read or list) runs once more, because its slot was paused or moved meanwhile."""

    def slots_paused(self, shard: int, count: int) -> None:
        """So many slots of a shard are paused in this worker."""

    def slot_paused(self, seconds: float) -> None:
        """A slot was paused in this worker for so long, and is served again, here or elsewhere."""

    def lease_age(self, shard: int, seconds: float) -> None:
        """So long ago the last renewal of the lease on a shard that succeeded was sent; told about once a second."""

    def lease_lost(self, shard: int) -> None:
        """The lease on a shard has run out: nothing of it is answered until the lease is there again."""


class Unobserved:
    """An ``Observer`` that forgets what it is told."""

    def store_call(self, shard: int, operation: str, seconds: float, error: str) -> None:
        """Forgets."""

    def batch_committed(self, shard: int, rows: int) -> None:
        """Forgets."""

    def queue_rows(self, shard: int, rows: int) -> None:
        """Forgets."""

    def rows_handed(self, count: int) -> None:
        """Forgets."""

    def rows_taken(self, count: int) -> None:
        """Forgets."""

    def rows_taken_back(self, reason: str, count: int) -> None:
        """Forgets."""

    def cache_call(self, operation: str, seconds: float) -> None:
        """Forgets."""

    def cache_event(self, event: str, count: int) -> None:
        """Forgets."""

    def slot_waiters(self, count: int) -> None:
        """Forgets."""

    def slot_waited(self, seconds: float) -> None:
        """Forgets."""

    def reran(self, operation: str) -> None:
        """Forgets."""

    def slots_paused(self, shard: int, count: int) -> None:
        """Forgets."""

    def slot_paused(self, seconds: float) -> None:
        """Forgets."""

    def lease_age(self, shard: int, seconds: float) -> None:
        """Forgets."""

    def lease_lost(self, shard: int) -> None:
        """Forgets."""


class StoreError(Exception):
    """A store call failed and its outcome is unknown, unless a subclass says otherwise. The text is for operators."""


class OutcomeUnknown(StoreError):
    """Nobody knows in time whether the row was or will be written; the same write made again tells."""


class Corrupt(StoreError):
    """The store's files are damaged."""


class Unavailable(StoreError):
    """The shard cannot be reached. Nothing was written."""


class Full(Unavailable):
    """The shard has no room on its disk. Nothing was written."""


class Overloaded(StoreError):
    """A bounded queue is full. Nothing was written."""


class Invalid(StoreError):
    """The store can never take this row. Nothing was written."""


class DeadlineExceeded(StoreError):
    """The caller's deadline passed before the row was handed to the store. Nothing was written."""


class SharedRates(Protocol):
    """Counts of how often each caller called, shared by all workers (GCRA). Forgetful: a limiter, never the truth."""

    async def take(self, caller_id: str, spent: int, wanted: int) -> tuple[int, float] | None:
        """Counts ``spent`` calls, made already, and grants of ``wanted`` more what there is room for.

        Returns how many are granted, and if none is, after how many seconds one would be; None when nobody answered.
        """

    async def close(self) -> None:
        """Lets go of connections. Idempotent."""
