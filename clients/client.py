"""The client: every method of the service as a typed coroutine, with deadline, retries and request id by default."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from clients import endpoints as endpoint_texts
from clients import submit as submission
from clients import wire
from clients.calls import Calls
from clients.coalescing import Coalescer, CreateAnswer
from clients.errors import NotFound, OrderError, Unavailable
from clients.fleet import Fleet
from clients.gathering import Limits
from clients.orders import (
    NOTHING,
    Changed,
    Consistency,
    Created,
    Found,
    NewOrder,
    Order,
    OrderLine,
    Page,
    State,
    Topology,
)
from clients.request_ids import RequestIds
from clients.retry import Attempts, RetryBudget, RetryPolicy
from clients.tls import Tls
from clients.writes import RENEWALS_MAX, Write, carry
from protos.orders.v1 import orders_pb2
from protos.topology.v1 import topology_pb2

if TYPE_CHECKING:
    from clients.calls import UnaryMethod

ENDPOINT_DEFAULT: Final = "127.0.0.1:50051"
DEADLINE_DEFAULT_S: Final = 10.0
PRIORITIES: Final = ("", "critical", "normal", "low")


class OrderClient:
    """Calls the order service: one client for a process, shared by all its tasks on one event loop.

        async with OrderClient("127.0.0.1:50051") as client:
            created = await client.create("zoe", "EUR", [OrderLine("sku-1", 2, 1999)])
            await client.confirm_payment(created.order.order_id)

    ``endpoints`` are the seeds: ``host:port`` of any workers, or of the shared port; the client finds the workers from
    there and balances over them (``discover=False`` keeps to the seeds). ``deadline_s`` is for a whole logical call,
    over all its attempts, wherever a method is not given its own.

    Every method raises ``OrderError`` (see ``clients.errors``). What a request may contain is the server's to decide
    and is not checked here. Writes mint a ``request_id`` once and keep it over their retries; pass your own to continue
    a write that an earlier call, or an earlier process, left in doubt.

    Creates and gets that are under way at the same time travel together in batches (``clients.gathering``); each keeps
    its own answer, deadline and cancellation. ``coalesce=False`` sends every one by itself.
    ``balancing`` is how calls are spread over the workers: ``weighted_round_robin`` by the room that each reports,
    ``round_robin`` evenly, ``pick_first`` all to one.
    With ``tls`` connections are encrypted, to the certificates that it names. ``priority`` is what its calls ask for
    when the service is full: ``critical``, ``normal`` or ``low``; empty leaves it to the method. Calls of different
    priorities need clients of their own, and so never share a batch.
    """

    def __init__(  # noqa: PLR0913 - every setting of a client, by name and with a default
        self,
        endpoints: str | Iterable[str] = ENDPOINT_DEFAULT,
        *,
        caller_id: str = "",
        deadline_s: float = DEADLINE_DEFAULT_S,
        policy: RetryPolicy | None = None,
        budget: RetryBudget | None = None,
        request_ids: RequestIds | None = None,
        discover: bool = True,
        coalesce: bool = True,
        balancing: str = "weighted_round_robin",
        tls: Tls | None = None,
        priority: str = "",
    ) -> None:
        if priority not in PRIORITIES:
            raise ValueError(f"there is no priority {priority!r}; choose one of {', '.join(PRIORITIES[1:])}, or none")
        said = (("x-caller-id", caller_id), ("crest-priority", priority))
        metadata = tuple((key, value) for key, value in said if value)
        self.request_ids = request_ids or RequestIds()
        self._deadline_s = deadline_s
        self._fleet = Fleet(
            endpoint_texts.parse(endpoints), metadata=metadata, discover=discover, policy=balancing, tls=tls
        )
        self._calls = Calls(
            self._fleet, policy=policy or RetryPolicy(), budget=budget or RetryBudget(), metadata=metadata
        )
        self._coalescer = Coalescer(self._calls, Limits()) if coalesce else None

    def __repr__(self) -> str:
        budget = self._calls.budget
        return (
            f"<OrderClient {','.join(self._fleet.seeds)}: {self._fleet.describe()}, "
            f"retry budget {budget.tokens:.0f}/{budget.tokens_max:.0f}>"
        )

    async def __aenter__(self) -> Self:
        await self._calls.link()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels the calls under way and closes the connections. Idempotent; the client is of no use afterwards."""
        if self._coalescer is not None:
            await self._coalescer.close()
        await self._fleet.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        """What calls are balanced over at this moment: ``host:port`` of each worker, or the seeds."""
        return self._fleet.addresses

    # ---------------------------------------------------------------------------------------------------- creating

    async def create(
        self,
        customer_id: str,
        currency_code: str,
        lines: Sequence[OrderLine],
        *,
        attributes: Mapping[str, str] = NOTHING,
        request_id: str = "",
        deadline_s: float | None = None,
    ) -> Created:
        """Creates one order; it is durable when this returns. Idempotent by (customer_id, request_id)."""
        minted = not request_id
        draft = NewOrder(customer_id, currency_code, lines, attributes)
        request = wire.create_request(draft, request_id or self.request_ids.mint())
        attempts, coalescer = self._attempts(deadline_s), self._coalescer

        def send() -> Awaitable[CreateAnswer]:
            if coalescer is None:
                return self._calls.attempt(lambda link: link.orders.CreateOrder, request, attempts)
            return coalescer.create(request, attempts)

        answer = await carry(
            self._calls, self.request_ids, send, request, attempts, minted=minted, counted=coalescer is not None
        )
        return Created(wire.order(answer.order), answer.replayed)

    async def batch_create(
        self, drafts: Iterable[NewOrder], *, deadline_s: float | None = None
    ) -> list[Created | OrderError]:
        """Creates up to 500 orders, each on its own; the results stand in the order of the drafts.

        Items that fail for a while are sent again, without the others, until the deadline. Raises OrderError when no
        item was answered at all.
        """
        batch = submission.Batch(self._calls, self.request_ids, drafts, renewals_max=RENEWALS_MAX)
        return await batch.run(self._attempts(deadline_s))

    def submit(
        self,
        drafts: AsyncIterable[NewOrder] | Iterable[NewOrder],
        *,
        in_flight_max: int = submission.IN_FLIGHT_DEFAULT,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[submission.Submitted, None]:
        """Creates orders from a stream and yields the fate of each as it commits, not necessarily in the order sent.

        ``drafts`` is read only as far as ``in_flight_max`` orders ahead of the answers that were taken. A broken stream
        is opened again, and what it left unanswered is sent again under the same request ids. Drafts of one request
        id go one after the other. Without ``deadline_s`` it goes on as long as the drafts do.
        """
        attempts = self._calls.attempts(deadline_s)
        return submission.submit(self._calls, self.request_ids, drafts, attempts, in_flight_max=in_flight_max)

    # ----------------------------------------------------------------------------------------------------- reading

    async def get(
        self,
        order_id: str,
        *,
        min_version: int = 0,
        consistency: Consistency = Consistency.CACHED,
        deadline_s: float | None = None,
    ) -> Order:
        """Reads one order, at ``min_version`` or later."""
        request = orders_pb2.GetOrderRequest(
            order_id=order_id,
            min_version=min_version,
            consistency=orders_pb2.Consistency.ValueType(consistency),
        )
        attempts, coalescer = self._attempts(deadline_s), self._coalescer
        if coalescer is None:
            return wire.order((await self._calls.unary(lambda link: link.orders.GetOrder, request, attempts)).order)
        found = await self._calls.persist(lambda: coalescer.get(request, attempts), attempts, counted=True)
        return wire.order(found)

    async def batch_get(
        self,
        order_ids: Iterable[str],
        *,
        consistency: Consistency = Consistency.CACHED,
        deadline_s: float | None = None,
    ) -> Found:
        """Reads up to 500 orders; asks again for those that the service did not look up, until the deadline.

        Ids may be in either case. An order stands there once however often it was asked for, under its id in lower
        case; an id without one is told as it was asked for first.
        """
        asked: dict[str, str] = {}
        for order_id in order_ids:
            asked.setdefault(order_id.lower(), order_id)
        attempts = self._attempts(deadline_s)
        orders: dict[str, Order] = {}
        missing: set[str] = set()
        left = list(asked)
        while True:
            request = orders_pb2.BatchGetOrdersRequest(
                order_ids=left, consistency=orders_pb2.Consistency.ValueType(consistency)
            )
            answer = await self._calls.unary(lambda link: link.orders.BatchGetOrders, request, attempts)
            if left and len(answer.unprocessed_order_ids) == len(left):  # a full answer is progress
                answer = await self._first_alone(request, attempts)
            orders.update((message.order_id, wire.order(message)) for message in answer.orders)
            missing.update(answer.missing_order_ids)
            if not answer.unprocessed_order_ids:
                found = tuple(orders[order_id] for order_id in asked if order_id in orders)
                return Found(found, tuple(text for order_id, text in asked.items() if order_id in missing))
            left = list(answer.unprocessed_order_ids)

    async def _first_alone(
        self, request: orders_pb2.BatchGetOrdersRequest, attempts: Attempts
    ) -> orders_pb2.BatchGetOrdersResponse:
        """Answers a batch of which nothing was looked up, the first by itself: a batch has no word for why not."""
        first, *rest = request.order_ids
        alone = orders_pb2.GetOrderRequest(order_id=first, consistency=request.consistency)
        told = orders_pb2.BatchGetOrdersResponse(unprocessed_order_ids=rest)
        try:
            found = await self._calls.unary(lambda link: link.orders.GetOrder, alone, attempts)
        except NotFound:
            told.missing_order_ids.append(first)
        else:
            told.orders.append(found.order)
        return told

    async def list_page(
        self,
        customer_id: str,
        *,
        state: State | None = None,
        page_size: int = 0,
        page_token: str = "",
        deadline_s: float | None = None,
    ) -> Page:
        """Reads one page of a customer's orders, newest first; 0 is the server's page size."""
        request = orders_pb2.ListOrdersRequest(
            customer_id=customer_id,
            state=orders_pb2.Order.State.ValueType(state or 0),
            page_size=page_size,
            page_token=page_token,
        )
        answer = await self._calls.unary(lambda link: link.orders.ListOrders, request, self._attempts(deadline_s))
        return Page(tuple(wire.order(message) for message in answer.orders), answer.next_page_token)

    async def list(
        self,
        customer_id: str,
        *,
        state: State | None = None,
        page_size: int = 0,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[Order, None]:
        """Yields a customer's orders, newest first, page after page; ``deadline_s`` is for each page."""
        token = ""
        while True:
            page = await self.list_page(
                customer_id, state=state, page_size=page_size, page_token=token, deadline_s=deadline_s
            )
            for order in page.orders:
                yield order
            token = page.next_page_token
            if not token:
                return

    async def watch(self, order_id: str, *, deadline_s: float | None = None) -> AsyncGenerator[Order, None]:
        """Yields the order now and after each change, made through any worker, and ends after a final state.

        Versions only rise, and some may be skipped. A broken stream is opened again. Without ``deadline_s`` it waits
        for as long as the caller does.
        """
        attempts = self._calls.attempts(deadline_s)
        request = orders_pb2.WatchOrderRequest(order_id=order_id)
        version = 0
        while True:
            messages = self._calls.stream(lambda link: link.orders.WatchOrder, request, attempts)
            try:
                async with contextlib.aclosing(messages):
                    async for message in messages:
                        attempts.progressed()
                        if message.order.version <= version:
                            continue
                        order = wire.order(message.order)
                        version = order.version
                        yield order
                        if order.state.is_final:
                            return
            except OrderError as error:
                failure = error
            else:
                failure = Unavailable("the stream ended before the order did", code=grpc.StatusCode.UNAVAILABLE)
            await self._calls.wait_or_raise(failure, attempts)

    async def topology(self, *, deadline_s: float | None = None) -> Topology:
        """Reads where orders live and who serves them."""
        answer = await self._calls.unary(
            lambda link: link.topology.GetTopology, topology_pb2.GetTopologyRequest(), self._attempts(deadline_s)
        )
        return wire.topology(answer.topology)

    # ------------------------------------------------------------------------------------------------- transitions

    async def confirm_payment(
        self,
        order_id: str,
        *,
        expected_version: int | None = None,
        request_id: str = "",
        deadline_s: float | None = None,
    ) -> Changed:
        """Moves an order PENDING -> PAID. Like all transitions: idempotent by request_id for the life of the order."""
        request = orders_pb2.ConfirmPaymentRequest(order_id=order_id, expected_version=expected_version)
        return await self._change(lambda link: link.orders.ConfirmPayment, request, request_id, deadline_s)

    async def ship(
        self,
        order_id: str,
        *,
        expected_version: int | None = None,
        request_id: str = "",
        deadline_s: float | None = None,
    ) -> Changed:
        """Moves an order PAID -> SHIPPED."""
        request = orders_pb2.ShipOrderRequest(order_id=order_id, expected_version=expected_version)
        return await self._change(lambda link: link.orders.ShipOrder, request, request_id, deadline_s)

    async def deliver(
        self,
        order_id: str,
        *,
        expected_version: int | None = None,
        request_id: str = "",
        deadline_s: float | None = None,
    ) -> Changed:
        """Moves an order SHIPPED -> DELIVERED."""
        request = orders_pb2.DeliverOrderRequest(order_id=order_id, expected_version=expected_version)
        return await self._change(lambda link: link.orders.DeliverOrder, request, request_id, deadline_s)

    async def cancel(
        self,
        order_id: str,
        *,
        reason: str = "",
        expected_version: int | None = None,
        request_id: str = "",
        deadline_s: float | None = None,
    ) -> Changed:
        """Moves an order PENDING -> CANCELLED, for good."""
        request = orders_pb2.CancelOrderRequest(order_id=order_id, expected_version=expected_version, reason=reason)
        return await self._change(lambda link: link.orders.CancelOrder, request, request_id, deadline_s)

    async def refund(
        self,
        order_id: str,
        *,
        reason: str = "",
        expected_version: int | None = None,
        request_id: str = "",
        deadline_s: float | None = None,
    ) -> Changed:
        """Moves an order PAID, SHIPPED or DELIVERED -> REFUNDED, for good."""
        request = orders_pb2.RefundOrderRequest(order_id=order_id, expected_version=expected_version, reason=reason)
        return await self._change(lambda link: link.orders.RefundOrder, request, request_id, deadline_s)

    # ------------------------------------------------------------------------------------------------------- below

    def _attempts(self, deadline_s: float | None) -> Attempts:
        return self._calls.attempts(self._deadline_s if deadline_s is None else deadline_s)

    async def _change(
        self, method: UnaryMethod[Any, Any], request: Write, request_id: str, deadline_s: float | None
    ) -> Changed:
        request.request_id = request_id or self.request_ids.mint()
        attempts = self._attempts(deadline_s)
        answer = await carry(
            self._calls,
            self.request_ids,
            lambda: self._calls.attempt(method, request, attempts),
            request,
            attempts,
            minted=not request_id,
        )
        return Changed(wire.order(answer.order), answer.replayed)
