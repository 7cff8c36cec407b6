"""Creates, one in a call and many: CreateOrder, BatchCreateOrders, SubmitOrders. Each item is judged by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from protos.orders.v1 import orders_pb2 as pb
from server.app.orders import Orders
from server.domain import limits
from server.domain.errors import OrderError, Violation, invalid
from server.domain.order import Draft, Order
from server.rpc import convert, encoding
from server.rpc.call import Call
from server.rpc.call_log import CallLog
from server.rpc.errors import item_error
from server.rpc.pipeline import Ready
from server.rpc.streams import shutting_down
from shards.routing import Write

NAME: Final = pb.DESCRIPTOR.services_by_name["OrderService"].full_name

ERRORS_BYTES_MAX: Final = 512 * 1024
"""Errors of a batch together; past it each names only the violations that ``ITEM_ERROR_BYTES_MAX`` holds.

So an answer has at most 3 MiB of orders, 60 KiB of what their creation adds, these, and 500 small errors: less than the
4 MiB that a client takes unless told otherwise.
"""

ITEM_ERROR_BYTES_MAX: Final = 512

WINDOW_ITEMS: Final = 128
"""Items of one stream that are under way, or answered and not yet taken by the caller. Twice a lane's usual group."""


ECHO_CHARS_MAX: Final = 128
"""Of a malformed ``request_id`` in an answer (orders.proto says so); a real one has 36."""


class _Item(NamedTuple):
    """An item of a batch that is on its way."""

    number: int
    """From 0: its place in the answer."""
    write: Write
    created: bytes
    """What it is answered when it creates its order."""


class Creates:
    """Creates orders."""

    def __init__(self, orders: Orders, log: CallLog) -> None:
        self._orders = orders
        self._log = log

    async def one(self, request: pb.CreateOrderRequest, call: Call) -> Ready:
        """Creates one order."""
        call.request_id = request.request_id
        call.customer_id = request.customer_id
        write, created = self._prepared(request, self._orders.now_us())
        del request  # nothing of it is needed any more
        earlier = await self._orders.store(write, call.deadline)
        return Ready(created if earlier is None else encoding.answer(earlier, replayed=True))

    async def batch(self, request: pb.BatchCreateOrdersRequest, call: Call) -> Ready:
        """Creates up to 500 orders at once; a repeated item waits for the one before it, and so is its replay."""
        count = len(request.requests)
        if not 1 <= count <= limits.BATCH_ITEMS_MAX:
            raise invalid([Violation("requests", f"{count} items, allowed are 1-{limits.BATCH_ITEMS_MAX}")])
        answers = _Answers(count, lambda error: self._log.expected(f"{NAME}/BatchCreateOrders", call, error))
        firsts, chains = self._prepare(request, answers)
        del request  # as above

        async def run(together: Sequence[_Item]) -> None:
            became = await self._orders.store_many([item.write for item in together], call.deadline)
            for item, one in zip(together, became, strict=True):
                answers.tell(item, one)

        async def run_chain(chain: Sequence[_Item]) -> None:
            for item in chain:
                await run((item,))

        async with asyncio.TaskGroup() as group:
            for chain in chains:
                group.create_task(run_chain(chain))
            await run(firsts)
        return answers.ready()

    def _prepare(
        self, request: pb.BatchCreateOrdersRequest, answers: _Answers
    ) -> tuple[Sequence[_Item], Sequence[Sequence[_Item]]]:
        """Returns the items that can be read: those of requests of their own, and those of one request together.

        Of the others, tells why they cannot.
        """
        now_us = self._orders.now_us()
        firsts: dict[bytes, _Item] = {}
        chains: dict[bytes, list[_Item]] = {}
        for number, message in enumerate(request.requests):
            try:
                write, created = self._prepared(message, now_us)
            except Exception as error:  # noqa: BLE001  one bad item never fails the others
                answers.refuse(number, error)
                continue
            item = _Item(number, write, created)
            first = firsts.setdefault(write.order_id, item)
            if first is not item:
                chain = chains.setdefault(write.order_id, [first])
                # at a time of its own: a row that is there to the byte counts as this item's, not as an earlier one's
                chain.append(_Item(number, *self._prepared(message, now_us + len(chain))))
        for order_id in chains:
            del firsts[order_id]
        return list(firsts.values()), list(chains.values())

    def _prepared(self, message: pb.CreateOrderRequest, now_us: int) -> tuple[Write, bytes]:
        """Returns what is to be stored of an order, and what is answered when it is created now.

        The answer is made beforehand, so that of thousands of orders that wait for the store there are bytes and no
        objects: those would have left the processor's caches by the time they are needed.
        """
        draft, request_id = convert.draft(message)
        order, write = self._orders.prepare(draft, request_id, now_us)
        return write, encoding.answer(order)

    async def submit(
        self, requests: AsyncIterator[pb.SubmitOrdersRequest], call: Call
    ) -> AsyncGenerator[pb.SubmitOrdersResponse, None]:
        """Creates orders from a stream and answers each as it commits; reads no further than the window allows.

        Items that were read are answered before the stream ends, also when it ends for a draining worker or for a
        message that cannot be parsed.
        """
        window = _Window()

        async def feed() -> None:
            while True:
                await window.slots.acquire()
                request = await anext(requests, None)
                if request is None:
                    return
                # converted here, so that what waits in the window is a draft within the limits, not what was sent
                item, echo = request.create, request.create.request_id[:ECHO_CHARS_MAX]
                try:
                    draft, request_id = convert.draft(item, id_required=True)
                except OrderError as error:
                    window.answer(pb.SubmitOrdersResponse(request_id=echo, error=item_error(error)))
                else:
                    window.start(self._submit_one(draft, request_id, echo, call))

        feeding = asyncio.create_task(feed())
        feeding.add_done_callback(window.fed)
        call.on_end = feeding.cancel
        try:
            while (answer := await window.answers.get()) is not None:
                yield answer
                window.slots.release()
        finally:
            feeding.cancel()
            await window.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        if feeding.cancelled():
            raise shutting_down()
        feeding.result()

    async def _submit_one(
        self, draft: Draft, request_id: bytes | None, echo: str, call: Call
    ) -> pb.SubmitOrdersResponse:
        answer = pb.SubmitOrdersResponse(request_id=echo)
        try:
            order, replayed = await self._orders.create(draft, request_id, call.item_deadline())
        except Exception as error:  # noqa: BLE001  # one bad item never ends the stream
            answer.error.CopyFrom(item_error(self._log.expected(f"{NAME}/SubmitOrders", call, error)))
        else:
            answer.replayed = replayed
            answer.order.ParseFromString(encoding.order_message(order))
        return answer


class _Window:
    """The items of one stream that are under way. A slot is held from before the reading to after the writing."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(WINDOW_ITEMS)
        self.answers: asyncio.Queue[pb.SubmitOrdersResponse | None] = asyncio.Queue()  # bounded by the slots
        self._tasks: set[asyncio.Task[pb.SubmitOrdersResponse]] = set()
        self._fed = False

    def start(self, item: Coroutine[Any, Any, pb.SubmitOrdersResponse]) -> None:
        """Runs an item; its result is answered."""
        task = asyncio.create_task(item)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def answer(self, answer: pb.SubmitOrdersResponse) -> None:
        """Queues an answer."""
        self.answers.put_nowait(answer)

    def fed(self, _feeding: asyncio.Task[None]) -> None:
        """Nothing more comes: the answer of the last item under way is followed by None."""
        self._fed = True
        if not self._tasks:
            self.answers.put_nowait(None)

    async def cancel(self) -> None:
        """Lets go of what is still under way, when nobody is left to be answered."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[pb.SubmitOrdersResponse]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self.answers.put_nowait(task.result())
        if self._fed and not self._tasks:
            self.answers.put_nowait(None)


class _Answers:
    """The answer of a batch, as it gathers item by item."""

    def __init__(self, count: int, expected: Callable[[Exception], OrderError]) -> None:
        """``expected`` logs what nobody has foreseen, and returns what callers are told of an error."""
        self._results = [b""] * count
        self._expected = expected
        self._room = _ErrorRoom()

    def tell(self, item: _Item, became: Order | Exception | None) -> None:
        """Takes what came of an item: None when it created its order, or the one that was there, or why not."""
        if became is None:
            self._results[item.number] = item.created
        elif isinstance(became, Order):
            self._results[item.number] = encoding.answer(became, replayed=True)
        else:
            self.refuse(item.number, became)

    def refuse(self, number: int, error: Exception) -> None:
        """Takes why an item failed."""
        result = pb.BatchCreateOrdersResponse.Result(error=self._room.take(self._expected(error)))
        self._results[number] = result.SerializeToString(deterministic=True)

    def ready(self) -> Ready:
        """Returns the answer, when all items have been told."""
        return Ready(b"".join([encoding.element(result) for result in self._results]))


class _ErrorRoom:
    """Bounds the errors of a batch: each violation of each item would be more than an answer can hold."""

    def __init__(self) -> None:
        self._bytes = 0

    def take(self, error: OrderError) -> pb.Error:
        """Returns the error of one item, cut to what there is room for."""
        message = item_error(error, None if self._bytes < ERRORS_BYTES_MAX else ITEM_ERROR_BYTES_MAX)
        self._bytes += message.ByteSize()
        return message
