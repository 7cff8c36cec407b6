"""Many creates at once: a batch that sends again only what failed, and a stream that survives its connections."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

import grpc

from clients import errors, wire
from clients.calls import Calls
from clients.errors import OrderError, RequestIdAhead, RequestIdExpired, ServerFault, Unavailable
from clients.orders import Created, NewOrder
from clients.request_ids import RequestIds
from clients.retry import Attempts, RetryBudget, RetryPolicy
from protos.orders.v1 import orders_pb2

IN_FLIGHT_DEFAULT: Final = 256
"""Orders of one ``submit`` sent and not yet taken: about the bandwidth-delay product of 10,000/s at 25 ms."""

ECHO_CHARS_MAX: Final = 128
"""Of a request id in the answers of a stream (``SubmitOrdersResponse.request_id``)."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The fate of one draft: ``position`` counts them from 0 in the order they were read."""

    position: int
    draft: NewOrder
    result: Created | OrderError


@dataclass(slots=True)
class _Item:
    """One create under way."""

    position: int
    draft: NewOrder
    request: orders_pb2.CreateOrderRequest
    minted: bool
    attempts: int = 0
    renewals: int = 0
    in_doubt: bool = False
    """An attempt under the present id may have written."""

    @classmethod
    def of(cls, position: int, draft: NewOrder, ids: RequestIds) -> _Item:
        request = wire.create_request(draft, draft.request_id or ids.mint())
        return cls(position, draft, request, minted=not draft.request_id)

    @property
    def echo(self) -> str:
        """What its answer is known by."""
        return self.request.request_id[:ECHO_CHARS_MAX]

    def failed(self, error: OrderError) -> OrderError:
        """Notes the failure of an attempt, and completes it by what only the item knows."""
        self.attempts += 1
        error.in_doubt = self.in_doubt
        self.in_doubt = error.maybe_done
        error.attempts = self.attempts
        error.request_id = self.request.request_id
        return error

    def renewed(self, error: OrderError, ids: RequestIds, renewals_max: int) -> bool:
        """Takes a new request id when that is safe and may help; False when the error stands."""
        safe = isinstance(error, RequestIdExpired | RequestIdAhead) and not self.in_doubt
        if not (self.minted and safe and self.renewals < renewals_max and ids.learn(error)):
            return False
        self.renewals += 1
        self.request.request_id = ids.mint()
        return True


class Batch:
    """One ``BatchCreateOrders`` in as many calls as it takes."""

    def __init__(self, calls: Calls, ids: RequestIds, drafts: Iterable[NewOrder], *, renewals_max: int) -> None:
        self._calls = calls
        self._ids = ids
        self._renewals_max = renewals_max
        self._items = [_Item.of(position, draft, ids) for position, draft in enumerate(drafts)]
        self._results: list[Created | OrderError | None] = [None] * len(self._items)

    async def run(self, attempts: Attempts) -> list[Created | OrderError]:
        """Returns a result an item; see ``OrderClient.batch_create``."""
        pending = self._items
        while pending:
            request = orders_pb2.BatchCreateOrdersRequest(requests=[item.request for item in pending])
            try:
                answer = await self._calls.attempt(lambda link: link.orders.BatchCreateOrders, request, attempts)
                if len(answer.results) != len(pending):
                    message = f"{len(answer.results)} results for {len(pending)} items"
                    raise ServerFault(message, code=grpc.StatusCode.INTERNAL)
            except OrderError as error:
                for item in pending:
                    self._results[item.position] = item.failed(error.of(item.request.request_id))
                delay_s = attempts.next_delay_s(error)
                if delay_s is None and len(pending) == len(self._items):
                    error.in_doubt = any(item.in_doubt for item in pending)
                    raise attempts.telling(error) from error.__cause__
            else:
                pending, worst = self._settle(pending, answer)
                if worst is None:
                    if len(pending) < len(self._items):
                        attempts.progressed()
                    continue
                delay_s = attempts.next_delay_s(worst)
            if delay_s is None:
                break
            await asyncio.sleep(delay_s)
        return [result for result in self._results if result is not None]

    def _settle(
        self, items: list[_Item], answer: orders_pb2.BatchCreateOrdersResponse
    ) -> tuple[list[_Item], OrderError | None]:
        """Notes the results; returns the items to send again, and the error that asks for the longest wait, if any."""
        again: list[_Item] = []
        worst: OrderError | None = None
        for item, result in zip(items, answer.results, strict=True):
            if not result.HasField("error"):
                self._results[item.position] = Created(wire.order(result.order), result.replayed)
                continue
            error = item.failed(errors.from_item(result.error))
            self._results[item.position] = error
            if item.renewed(error, self._ids, self._renewals_max):
                again.append(item)
            elif error.retryable:
                again.append(item)
                if worst is None or (error.retry_delay_s or 0) > (worst.retry_delay_s or 0):
                    worst = error
        return again, worst


async def submit(
    calls: Calls,
    ids: RequestIds,
    drafts: AsyncIterable[NewOrder] | Iterable[NewOrder],
    attempts: Attempts,
    *,
    in_flight_max: int,
) -> AsyncGenerator[Submitted, None]:
    """Yields the fate of each draft; see ``OrderClient.submit``."""
    if in_flight_max < 1:
        raise ValueError(f"in_flight_max is {in_flight_max}, at least 1 order has to be in flight")
    window = _Window(ids, in_flight_max, calls.policy, calls.budget)
    reader = asyncio.create_task(window.fill(drafts), name="crest-submit-drafts")
    try:
        while not window.is_finished():
            try:
                async with contextlib.aclosing(_stream(calls, window, attempts)) as fates:
                    async for fate in fates:
                        attempts.progressed()
                        yield fate
                        window.taken()
                error: OrderError = Unavailable("the stream ended early", code=grpc.StatusCode.UNAVAILABLE)
            except OrderError as failure:
                error = failure
            if window.is_finished():
                break
            window.broke(error)
            await calls.wait_or_raise(error, attempts)
        await reader  # raises what the drafts raised
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


class _Window:
    """The items between the drafts and the answers: a bounded number, over all the streams that carry them."""

    def __init__(self, ids: RequestIds, in_flight_max: int, policy: RetryPolicy, budget: RetryBudget) -> None:
        self._ids = ids
        self._policy = policy
        self._budget = budget
        self._free = asyncio.Semaphore(in_flight_max)
        self._in_flight = 0
        self._exhausted = False
        self._unanswered: dict[str, _Item] = {}
        """What is on its way, by echo."""
        self._held_back: defaultdict[str, deque[_Item]] = defaultdict(deque)
        """What would be answered under the echo of an item that is on its way. No line is empty."""
        self._in_doubt = False
        """An attempt of something may have created it; that stands, whatever became of it since."""
        self.outbox: asyncio.Queue[_Item | None] = asyncio.Queue()  # bounded by the semaphore; None: look again

    def is_finished(self) -> bool:
        """Whether every draft was read and its fate taken."""
        return self._exhausted and not self._in_flight

    async def fill(self, drafts: AsyncIterable[NewOrder] | Iterable[NewOrder]) -> None:
        """Reads the drafts, each when there is room for it."""
        position = 0
        try:
            async for draft in _asynchronous(drafts):
                await self._free.acquire()
                self._in_flight += 1
                self.outbox.put_nowait(_Item.of(position, draft, self._ids))
                position += 1
        finally:
            self._exhausted = True
            self.outbox.put_nowait(None)

    def sends(self, item: _Item) -> bool:
        """Notes that an item is on its way; False when it has to wait, or nobody could tell its answer from another's.

        One request id may be of several items: it is unique within a customer only.
        """
        if item.echo in self._unanswered:
            self._held_back[item.echo].append(item)
            return False
        self._unanswered[item.echo] = item
        return True

    def answered(self, answer: orders_pb2.SubmitOrdersResponse) -> Submitted | None:
        """Returns the fate that an answer decides; None when the item is sent again, or nobody waits for it."""
        item = self._unanswered.pop(answer.request_id, None)
        if item is None:
            return None
        if answer.request_id in self._held_back:
            line = self._held_back[answer.request_id]
            self.outbox.put_nowait(line.popleft())
            if not line:
                del self._held_back[answer.request_id]
        if not answer.HasField("error"):
            return Submitted(item.position, item.draft, Created(wire.order(answer.order), answer.replayed))
        error = item.failed(errors.from_item(answer.error))
        if item.renewed(error, self._ids, renewals_max=2):
            self.outbox.put_nowait(item)
        elif error.retryable and item.attempts < self._policy.attempts_max and self._budget.take():
            delay_s = self._policy.delay_s(item.attempts, error.retry_delay_s, random.uniform)
            asyncio.get_running_loop().call_later(delay_s, self.outbox.put_nowait, item)
        else:
            return Submitted(item.position, item.draft, error)
        self._in_doubt |= item.in_doubt
        return None

    def taken(self) -> None:
        """Makes room: the consumer has a fate."""
        self._in_flight -= 1
        self._free.release()

    def broke(self, error: OrderError) -> None:
        """Queues again what a broken stream left unanswered."""
        for item in self._unanswered.values():
            item.failed(error.of(item.request.request_id))
            self.outbox.put_nowait(item)
        self._unanswered.clear()
        error.in_doubt = self._in_doubt
        self._in_doubt = error.maybe_done


async def _stream(calls: Calls, window: _Window, attempts: Attempts) -> AsyncGenerator[Submitted, None]:
    """Yields the fates that one stream brings; raises OrderError when it breaks."""
    link = await calls.link()
    timeout = attempts.remaining_s if math.isfinite(attempts.deadline) else None
    with link.used():
        wait = attempts.failed > 0  # as Calls.attempt
        call = link.orders.SubmitOrders(timeout=timeout, metadata=calls.metadata, wait_for_ready=wait)

        async def send() -> None:
            while not window.is_finished():
                item = await window.outbox.get()
                if item is not None and window.sends(item):
                    await call.write(orders_pb2.SubmitOrdersRequest(create=item.request))
            await call.done_writing()

        sender = asyncio.create_task(send(), name="crest-submit-sender")
        try:
            async for answer in call:
                if (fate := window.answered(answer)) is not None:
                    yield fate
                if window.is_finished():
                    return
        except grpc.aio.AioRpcError as failure:
            error = errors.from_rpc(failure)
            if isinstance(error, ServerFault) and not error.reason:
                # When a write meets a stream that just broke, grpc.aio reports INTERNAL ("Internal error from Core")
                # in place of the status that is still on its way. Resending is safe whatever it was.
                error = Unavailable(f"the stream broke: {error.message}", code=grpc.StatusCode.UNAVAILABLE)
            raise error from failure
        finally:
            call.cancel()
            sender.cancel()
            # The reader above tells why a stream broke; what the sender met on the same stream says nothing more.
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await sender


async def _asynchronous(drafts: AsyncIterable[NewOrder] | Iterable[NewOrder]) -> AsyncIterator[NewOrder]:
    if isinstance(drafts, AsyncIterable):
        async for draft in drafts:
            yield draft
    else:
        for draft in drafts:
            yield draft
