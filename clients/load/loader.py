"""Sends the orders of a file, each exactly once: mint, journal, send.

A batch of orders gets its request ids, the ids go to disk, then the batch goes to the service. Whoever dies, the same
batch is sent again under the same ids, which the service answers with the same orders. Only when the service says that
an id has expired, which includes that nothing was or will be created under it, a new one is minted, and journalled,
first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, ParamSpec, TypeVar

import grpc

from clients import wire
from clients.client import OrderClient
from clients.errors import Conflict, InvalidRequest, OrderError, Reason, RequestIdAhead, RequestIdExpired
from clients.load.journal import Batch, Journal
from clients.load.rejects import Rejects, reasons
from clients.load.table import Reject, Table, TableOrder
from clients.load.totals import Totals
from clients.orders import Created

P = ParamSpec("P")
T = TypeVar("T")

CALL_BYTES_MAX: Final = 2 * 1024 * 1024
"""Orders of one call, encoded; the service takes 3 MiB."""
CALL_DEADLINE_S: Final = 30.0
PAUSE_S: Final = (0.1, 0.5)
"""Between two calls for the same batch, when the client itself has given up on the first."""


class LoadStopped(Exception):
    """The load cannot go on now; starting it again continues where it stopped."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard a load may press the service."""

    batch_orders_max: int = 100
    """Orders a call; at most 500."""
    batches_in_flight_max: int = 4
    rate: float | None = None
    """Orders a second, at most."""
    patience_s: float = 60.0
    """The load stops when nothing was acknowledged for this long."""

    @property
    def batch_orders(self) -> int:
        """Orders a call: a slow load sends ten small batches a second rather than a large one now and then."""
        if self.rate is None:
            return self.batch_orders_max
        return max(1, min(self.batch_orders_max, round(self.rate / 10)))


class _Parcel:
    """A batch on its way: its orders, and what is known of each."""

    def __init__(self, batch: Batch, orders: Sequence[TableOrder], *, fresh: bool) -> None:
        self.batch = batch
        self.pending = list(range(batch.first, batch.first + batch.count))
        """Positions without a fate yet."""
        self.in_doubt = set() if fresh else set(self.pending)
        """Positions under whose present id something may have been created; all, when another run minted them."""
        self.rejects: dict[int, list[str]] = {}
        """The service's reasons, one a row, by position."""
        self._orders = orders

    def order(self, position: int) -> TableOrder:
        """Returns the order at a position of the batch."""
        return self._orders[position - self.batch.first]


class Loader:
    """One run over one file. ``progress`` is called after each batch, on the event loop."""

    def __init__(
        self,
        client: OrderClient,
        table: Table,
        journal: Journal,
        totals: Totals,
        *,
        pace: Pace | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.totals = totals
        self._client = client
        self._table = table
        self._journal = journal
        self._pace = pace or Pace()
        self._progress = progress
        self._rejects = Rejects(table)
        self._journalling = asyncio.Lock()
        self._stopping = False
        self._failure: LoadStopped | None = None
        self._acknowledged_at = time.monotonic()

    def stop(self) -> None:
        """Sends nothing new; ``run`` returns when the batches in flight are answered or given up."""
        self._stopping = True

    async def run(self) -> bool:
        """Loads what is not loaded yet; True when the whole file is, False when it was stopped before.

        Raises LoadStopped, with the reason, when it cannot go on; OSError from the disk.
        """
        self.totals.started_at = self._acknowledged_at = time.monotonic()
        try:
            await self._send_all()
            if self._failure is not None:
                raise self._failure
            if self._stopping:
                return False
            if await asyncio.to_thread(self._table.digest) != self._journal.header["sha256"]:
                raise LoadStopped(f"{self._table.path} was changed while it was loaded")
        finally:
            self.totals.seconds = time.monotonic() - self.totals.started_at
            self._rejects.close()
        self._journal.finish_all(self.totals.as_json())
        return True

    async def _send_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            try:
                await self._feed(group)
            except LoadStopped as failure:
                self._fail(failure)

    async def _feed(self, group: asyncio.TaskGroup) -> None:
        places = asyncio.Semaphore(self._pace.batches_in_flight_max)
        due = time.monotonic()
        for batch, orders in self._chunks():
            if self._pace.rate is not None:
                # A load that fell behind catches up by a second of its rate and no more.
                due = max(due, time.monotonic() - 1.0)
                await asyncio.sleep(due - time.monotonic())
                due += len(orders) / self._pace.rate
            await places.acquire()
            if self._stopping:
                return
            parcel = await self._parcel(batch, orders)
            task = group.create_task(self._deliver(parcel), name=f"crest-load-{parcel.batch.first}")
            task.add_done_callback(lambda _: places.release())

    def _fail(self, failure: LoadStopped) -> None:
        self._failure = self._failure or failure
        self.stop()

    # ---------------------------------------------------------------------------------------------------- planning

    def _chunks(self) -> Iterator[tuple[Batch | None, list[TableOrder]]]:
        """Yields what is to be sent: the batches that are journalled and not done, then the rest of the file anew."""
        journalled = iter(self._journal.batches[:])
        batch = next(journalled, None)
        chunk: list[TableOrder] = []
        position = size = 0
        for entry in self._table.orders():
            if isinstance(entry, list):
                self._rejected(entry)
                continue
            position += 1
            if batch is None:
                order_size = wire.create_request(entry.draft, "").ByteSize() + 64  # and its id and framing
                if chunk and (len(chunk) == self._pace.batch_orders or size + order_size > CALL_BYTES_MAX):
                    yield None, chunk
                    chunk, size = [], 0
                size += order_size
            chunk.append(entry)
            if batch is not None and position == batch.first + batch.count:
                if batch.first in self._journal.done:
                    self._count_earlier(batch, chunk)
                else:
                    yield batch, chunk
                chunk, batch = [], next(journalled, None)
        if batch is not None:
            raise LoadStopped(f"{self._journal.path} knows more orders than {self._table.path} holds")
        if chunk:
            yield None, chunk

    async def _parcel(self, batch: Batch | None, orders: list[TableOrder]) -> _Parcel:
        if batch is not None:
            return _Parcel(batch, orders, fresh=False)
        batch = await self._write(self._journal.begin, len(orders), self._client.request_ids.now_ms())
        return _Parcel(batch, orders, fresh=True)

    def _count_earlier(self, batch: Batch, orders: Sequence[TableOrder]) -> None:
        for position, order in enumerate(orders, start=batch.first):
            if (refusal := self._journal.rejects.get(position)) is not None:
                self._rejected([Reject(row, reason) for row, reason in zip(order.rows, refusal, strict=True)])
                continue
            self.totals.earlier += 1
            total = sum(line.quantity * line.unit_price_minor for line in order.draft.lines)
            self.totals.sum_minor[order.draft.currency_code] += total

    def _rejected(self, rejects: list[Reject]) -> None:
        self._rejects.add(rejects)
        self.totals.rejected_orders += 1
        self.totals.rejected_rows += len(rejects)

    # ----------------------------------------------------------------------------------------------------- sending

    async def _deliver(self, parcel: _Parcel) -> None:
        """Sends a batch until each of its orders has its fate; a failure is kept, and stops the load."""
        try:
            while parcel.pending:
                failure = await self._send(parcel)
                if failure is not None and not await self._wait(failure):
                    return
            await self._write(self._journal.finish, parcel.batch, parcel.rejects)
        except LoadStopped as stopped:
            self._fail(stopped)
            return
        for position, refusal in sorted(parcel.rejects.items()):
            rows = parcel.order(position).rows
            self._rejected([Reject(row, reason) for row, reason in zip(rows, refusal, strict=True)])
        self._progress()

    async def _send(self, parcel: _Parcel) -> OrderError | None:
        """Sends what has no fate yet; returns a failure after which some of it may be sent again."""
        drafts = []
        for position in parcel.pending:
            request_id = self._journal.mint_of(parcel.batch, position).request_id(position)
            drafts.append(replace(parcel.order(position).draft, request_id=request_id))
        try:
            results = await self._client.batch_create(drafts, deadline_s=CALL_DEADLINE_S)
        except OrderError as error:
            if len(drafts) == 1 and _is_too_large(error):
                self._refuse(parcel, parcel.pending.pop(), error)
                return None
            if error.maybe_done:
                parcel.in_doubt.update(parcel.pending)
            return error
        failure: OrderError | None = None
        left: list[int] = []
        expired: list[int] = []
        for position, result in zip(parcel.pending, results, strict=True):
            if isinstance(result, Created):
                self._count(result)
            elif self._never_creates(result, in_doubt=position in parcel.in_doubt):
                self._client.request_ids.learn(result)
                expired.append(position)
            elif isinstance(result, Conflict) or type(result) is InvalidRequest:
                self._refuse(parcel, position, result)
            else:
                failure = result
                left.append(position)
                parcel.in_doubt.add(position)
        if expired:
            await self._write(self._journal.mint_again, expired, self._client.request_ids.now_ms())
            parcel.in_doubt.difference_update(expired)
        parcel.pending = sorted([*left, *expired])
        return failure

    async def _write(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Writes to the journal in a thread, one write at a time. Raises LoadStopped when the disk does not take it.

        A cancelled load waits for the write under way: its file must not be closed, and its number not be given to
        another file, before the thread is done with it.
        """
        async with self._journalling:
            writing = asyncio.ensure_future(asyncio.to_thread(write, *args, **kwargs))
            try:
                return await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise
            except OSError as error:
                raise LoadStopped(f"the journal cannot be written: {error}") from error

    def _never_creates(self, error: OrderError, *, in_doubt: bool) -> bool:
        """Whether nothing was or will be created under the refused id, so that a new one is safe.

        "Expired" says just that. "Ahead" says only that this attempt created nothing; earlier ones may have met a
        worker with another clock.
        """
        return isinstance(error, RequestIdExpired) or (
            isinstance(error, RequestIdAhead) and not in_doubt and error.attempts == 1
        )

    def _refuse(self, parcel: _Parcel, position: int, error: OrderError) -> None:
        parcel.rejects[position] = reasons(error, parcel.order(position))

    def _count(self, created: Created) -> None:
        self._acknowledged_at = time.monotonic()
        if created.replayed:
            self.totals.replayed += 1
        else:
            self.totals.created += 1
        self.totals.sum_minor[created.order.currency_code] += created.order.total_minor

    async def _wait(self, error: OrderError) -> bool:
        """Waits before a batch is sent again; False when the load is being stopped. Raises LoadStopped."""
        if self._stopping:
            return False
        if isinstance(error, RequestIdAhead):
            hint = "the clock of this machine, or of a worker, is wrong; correct it and start the load again"
            raise LoadStopped(f"{error}: {hint}") from error
        if not error.retryable:
            raise LoadStopped(str(error)) from error
        if time.monotonic() - self._acknowledged_at > self._pace.patience_s:
            raise LoadStopped(f"nothing was acknowledged for {self._pace.patience_s:g} s; {error}") from error
        await asyncio.sleep((error.retry_delay_s or 0.0) + random.uniform(*PAUSE_S))  # noqa: S311 - jitter, no secret
        return True


def _is_too_large(error: OrderError) -> bool:
    # With a reason it is the service's own refusal, without one the transport's, before the service saw it.
    by_transport = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not error.reason and not error.retryable
    return error.reason == Reason.REQUEST_TOO_LARGE or by_transport
