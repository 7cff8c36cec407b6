"""Callers at a fixed rate, whoever waits: creates, changes, reads, lists and repeats of old requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import grpc
from grpc import aio

from bench.load import create_request
from protos.orders.v1 import orders_pb2
from shards.keys import format_uuid, mint_uuid7

TIMEOUT_S: Final = 5.0
KNOWN_MAX: Final = 50_000
_SERVICE: Final = "/orders.v1.OrderService/"
_MIX: Final = {"create": 50, "change": 15, "read": 12, "list": 8, "repeat": 15}


class Call(NamedTuple):
    """One call as its caller saw it."""

    kind: str
    at_s: float
    """When it was to begin, since the callers began: waiting for the machine counts."""
    took_ms: float
    error: str
    """Empty when it was answered as it must be."""


class Known(NamedTuple):
    """A request that was answered."""

    request: orders_pb2.CreateOrderRequest
    order_id: str
    created: bytes
    """The order as the answer had it."""


class Callers:
    """All callers of one run; ``calls`` are those that have ended."""

    def __init__(self, endpoints: Sequence[str], chance: random.Random) -> None:
        self._channels = [aio.insecure_channel(endpoint) for endpoint in endpoints]
        self._methods: dict[tuple[int, str], aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._chance = chance
        self._known: list[Known] = []
        self._changeable: list[str] = []
        self._began_s = time.monotonic()
        self.calls: list[Call] = []
        self.is_over = False

    async def load(self, requests: Sequence[orders_pb2.CreateOrderRequest], at_once: int) -> float:
        """Sends requests, so many at once, and returns how many were answered a second."""
        todo = iter(requests)

        async def work() -> None:
            for request in todo:
                await self._create(request)

        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return len(requests) / (time.monotonic() - began)

    async def capacity(self, seconds: float, at_once: int) -> float:
        """Returns how many calls of the mix are answered a second when so many callers wait for their answers."""
        until = time.monotonic() + seconds
        done = 0

        async def work() -> None:
            nonlocal done
            while time.monotonic() < until:
                error = await self._call(self._draw())
                done += not error  # not in one: what stood there before the wait would be added to

        await asyncio.gather(*(work() for _ in range(at_once)))
        return done / seconds

    async def run(self, rate: float) -> None:
        """Calls ``rate`` times a second until ``is_over``; then waits for the last answers."""
        self._began_s = began = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        while not self.is_over:
            due = began + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._one(self._draw(), due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
        await asyncio.gather(*under_way)

    async def close(self) -> None:
        """Hangs up."""
        for channel in self._channels:
            await channel.close()

    def _draw(self) -> str:
        (kind,) = self._chance.choices(list(_MIX), list(_MIX.values()))
        return kind if self._known else "create"

    async def _one(self, kind: str, due: float) -> None:
        error = await self._call(kind)
        now = time.monotonic()
        self.calls.append(Call(kind, due - self._began_s, (now - due) * 1_000, error))

    async def _call(self, kind: str) -> str:
        try:
            if kind == "create":
                await self._create(create_request(self._chance))
            elif kind == "change":
                await self._change()
            elif kind == "read":
                known = self._chance.choice(self._known)
                read = orders_pb2.GetOrderRequest(order_id=known.order_id)
                raw = await self._send("GetOrder", read)
                order = orders_pb2.GetOrderResponse.FromString(raw).order
                return "" if order.order_id == known.order_id else "another order"
            elif kind == "list":
                customer = self._chance.choice(self._known).request.customer_id
                await self._send("ListOrders", orders_pb2.ListOrdersRequest(customer_id=customer, page_size=20))
            else:
                known = self._chance.choice(self._known)
                answer = orders_pb2.CreateOrderResponse.FromString(await self._send("CreateOrder", known.request))
                same = answer.order.SerializeToString(deterministic=True) == known.created
                return "" if same and answer.replayed else "a repeat was answered otherwise"
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return ""

    async def _create(self, request: orders_pb2.CreateOrderRequest) -> None:
        answer = orders_pb2.CreateOrderResponse.FromString(await self._send("CreateOrder", request))
        order = answer.order
        if len(self._known) < KNOWN_MAX:
            self._known.append(Known(request, order.order_id, order.SerializeToString(deterministic=True)))
            self._changeable.append(order.order_id)

    async def _change(self) -> None:
        if not self._changeable:
            return
        at = self._chance.randrange(len(self._changeable))
        order_id = self._changeable[at]
        self._changeable[at] = self._changeable[-1]
        self._changeable.pop()
        request = orders_pb2.ConfirmPaymentRequest(order_id=order_id, request_id=format_uuid(mint_uuid7()))
        await self._send("ConfirmPayment", request)

    async def _send(self, name: str, request: object) -> bytes:
        worker = self._chance.randrange(len(self._channels))
        method = self._methods.get((worker, name))
        if method is None:
            method = self._methods[worker, name] = self._channels[worker].unary_unary(_SERVICE + name)
        return await method(request.SerializeToString(), timeout=TIMEOUT_S)  # type: ignore[attr-defined]  # a message
