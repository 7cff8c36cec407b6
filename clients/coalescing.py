"""Concurrent creates and gets as batches: what a single call is to its caller stays as it was.

A flight of one goes out as the unary call that it is; a larger one as BatchCreateOrders or BatchGetOrders. Here one
*attempt* of a logical call is answered, so request ids, retries, deadlines and the budget stay with the call itself.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, Protocol, TypeAlias

import grpc

from clients import errors
from clients.calls import Calls
from clients.errors import NotFound, OrderError, Reason, ServerFault, Together, Unavailable
from clients.gathering import Gatherer, Limits, Waiting
from clients.retry import Attempts
from protos.orders.v1 import orders_pb2

ANSWER_BYTES_FULL: Final = 2 * 1024 * 1024
"""An answer of this size has left orders out for want of room: its limit is 3 MiB, and an order is far below 1 MiB."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""Ids in the form in which answers name them; whatever else is asked for goes to the service by itself."""

_GET_BYTES: Final = 38
"""An id in a batch."""


class CreateAnswer(Protocol):
    """What CreateOrderResponse and a result of BatchCreateOrders have in common."""

    @property
    def order(self) -> orders_pb2.Order:
        """The order as the request left it."""

    @property
    def replayed(self) -> bool:
        """Whether an earlier try had created it."""


_Create: TypeAlias = Waiting[orders_pb2.CreateOrderRequest, CreateAnswer]
_Get: TypeAlias = Waiting[orders_pb2.GetOrderRequest, orders_pb2.Order]


class Coalescer:
    """Makes attempts of creates and gets, together with those that others make at the same time.

    Those that wait for a worker (retries) and those that fail at once when there is none (first attempts) fly apart,
    and so do the two consistencies: one call cannot be both.
    """

    def __init__(self, calls: Calls, limits: Limits) -> None:
        self._calls = calls
        self._limits = limits
        self._creates: dict[bool, Gatherer[orders_pb2.CreateOrderRequest, CreateAnswer]] = {}
        self._gets: dict[tuple[bool, int], Gatherer[orders_pb2.GetOrderRequest, orders_pb2.Order]] = {}

    def __repr__(self) -> str:
        return f"<Coalescer {[*self._creates.values(), *self._gets.values()]}>"

    async def close(self) -> None:
        """Cancels what is under way."""
        for creates in self._creates.values():
            await creates.close()
        for gets in self._gets.values():
            await gets.close()

    async def create(self, request: orders_pb2.CreateOrderRequest, attempts: Attempts) -> CreateAnswer:
        """Makes one attempt of a create; raises OrderError. ``request`` must not be changed meanwhile."""
        retry = attempts.failed > 0
        gatherer = self._creates.get(retry)
        if gatherer is None:

            async def fly(group: list[_Create]) -> None:
                await self._fly_creates(group, retry=retry)

            gatherer = self._creates[retry] = Gatherer(fly, self._limits)
        kin = self._calls.fleet.placing.shard(request.customer_id)
        return await gatherer.ask(request, request.ByteSize(), attempts.timeout_s, kin)

    async def get(self, request: orders_pb2.GetOrderRequest, attempts: Attempts) -> orders_pb2.Order:
        """Makes one attempt of a get; raises OrderError.

        A batch has no ``min_version`` and fails as a whole for a malformed id: such gets go out by themselves.
        """
        retry = attempts.failed > 0
        if request.min_version or _UUID.fullmatch(request.order_id) is None:
            answer = await self._calls.attempt(lambda link: link.orders.GetOrder, request, attempts)
            self._calls.budget.succeeded()
            return answer.order
        consistency = request.consistency
        gatherer = self._gets.get((retry, consistency))
        if gatherer is None:

            async def fly(group: list[_Get]) -> None:
                await self._fly_gets(group, consistency, retry=retry)

            gatherer = self._gets[retry, consistency] = Gatherer(fly, self._limits)
        return await gatherer.ask(request, _GET_BYTES, attempts.timeout_s)

    async def _fly_creates(self, group: list[_Create], *, retry: bool) -> None:
        calls, timeout_s = self._calls, _timeout_s(group)
        try:
            if len(group) == 1:
                single = await calls.once(
                    lambda link: link.orders.CreateOrder, group[0].request, timeout_s, wait_for_ready=retry
                )
                _settle(group[0], single)
            else:
                batch = orders_pb2.BatchCreateOrdersRequest(requests=[each.request for each in group])
                answer = await calls.once(
                    lambda link: link.orders.BatchCreateOrders, batch, timeout_s, wait_for_ready=retry
                )
                results = answer.results
                if len(results) != len(group):
                    message = f"{len(results)} results for {len(group)} items"
                    raise ServerFault(message, code=grpc.StatusCode.INTERNAL)
                for each, result in zip(group, results, strict=True):
                    if result.HasField("error"):
                        _fail(each, errors.from_item(result.error))
                    else:
                        _settle(each, result)
            calls.budget.succeeded()
        except OrderError as error:
            _fail_all(group, error)

    async def _fly_gets(self, group: list[_Get], consistency: orders_pb2.Consistency.ValueType, *, retry: bool) -> None:
        calls = self._calls
        try:
            while len(group) > 1:  # ends: each answer settles one at least
                ids = dict.fromkeys(each.request.order_id for each in group)
                batch = orders_pb2.BatchGetOrdersRequest(order_ids=ids, consistency=consistency)
                answer = await calls.once(
                    lambda link: link.orders.BatchGetOrders, batch, _timeout_s(group), wait_for_ready=retry
                )
                group = _share(group, answer)
            for each in group:
                single = await calls.once(
                    lambda link: link.orders.GetOrder, each.request, _timeout_s(group), wait_for_ready=retry
                )
                _settle(each, single.order)
            calls.budget.succeeded()
        except OrderError as error:
            _fail_all(group, error)


def _share(group: list[_Get], answer: orders_pb2.BatchGetOrdersResponse) -> list[_Get]:
    """Settles gets by the answer to all of them; returns those to be asked for at once, fewer than there were.

    They are those that it had no room for. Of those that were not looked up it is the first, by itself: that tells why,
    for which a batch has no word.
    """
    found = {order.order_id: order for order in answer.orders}
    missing = set(answer.missing_order_ids)
    left: list[_Get] = []
    for each in group:
        order_id = each.request.order_id
        order = found.get(order_id)
        if order is not None:
            _settle(each, order)
        elif order_id in missing:
            _fail(each, _not_found(order_id))
        else:
            left.append(each)
    if left and answer.ByteSize() < ANSWER_BYTES_FULL:
        _fail_all(left[1:], _not_looked_up())
        del left[1:]
    return left


def _not_found(order_id: str) -> OrderError:
    """The error that GetOrder would have answered."""
    return NotFound(
        f"no order {order_id}: check the id",
        code=grpc.StatusCode.NOT_FOUND,
        reason=Reason.ORDER_NOT_FOUND,
        metadata={"order_id": order_id},
    )


def _not_looked_up() -> OrderError:
    """The error that GetOrder would have answered, as far as a batch tells it."""
    message = "the order's shard did not answer"
    return Unavailable(message, code=grpc.StatusCode.UNAVAILABLE, reason=Reason.STORE_UNAVAILABLE)


def _timeout_s(group: list[_Create] | list[_Get]) -> float:
    """The longest time that anyone in the group has; who has less is answered in time by the gatherer."""
    return max(each.deadline for each in group) - asyncio.get_running_loop().time()


def _settle(each: _Create | _Get, answer: object) -> None:
    if not each.answer.done():
        each.answer.set_result(answer)  # type: ignore[arg-type]  # of its own kind


def _fail(each: _Create | _Get, error: OrderError) -> None:
    if not each.answer.done():
        each.answer.set_exception(error)


def _fail_all(group: list[_Create] | list[_Get], error: OrderError) -> None:
    """Tells all of a group the failure of their call, each with an error of its own."""
    together = Together()
    for each in group:
        own = error.of("") if len(group) > 1 else error
        own.together = together
        own.__cause__ = error.__cause__
        _fail(each, own)
