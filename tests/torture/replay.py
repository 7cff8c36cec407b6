"""Sends every request one to five times, at once and to all workers, and holds every answer against the others.

Plain channels, one to each worker's own port, bytes in and bytes out: nothing of our client library stands between the
answers and the ledger. A call that ends without an answer is made again through another worker, with the same bytes,
as any caller would; where nothing was killed, such a call is itself a finding.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Self

import grpc
from grpc import aio

from protos.orders.v1 import orders_pb2
from tests.torture.ledger import Ledger, Trial
from tests.torture.trials import Trials, other_payload
from tests.torture.wire import fields, joined, repeated

GROUPS_MAX: Final = 48
"""Groups under way at once, each of up to 100 requests in up to five calls."""

TRIES_MAX: Final = 200
"""A call is made so often before it counts as never answered; with the pause between, that is about a minute."""

CALL_TIMEOUT_S: Final = 30.0
PAGE_ROWS: Final = 1_000
AUDITS_MAX: Final = 8
"""Customers listed at once in the audit."""

_PAUSE_S: Final = (0.02, 0.4)
"""Before a lost call is made again: a random time between these."""

_OTHER_PAYLOAD_SHARE: Final = 0.02
"""So many settled requests are asked again with another payload, which must be refused."""

_LATE_SHARE: Final = 0.25
"""So many groups send their last call only after the others are answered: a replay of what was long settled."""

_LOST: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""What a caller sees of a worker that dies or stops."""

_CHANNEL_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 400),
    ("grpc.enable_retries", 0),  # a retry that we do not see would be an answer that we do not count
)

_ORDER, _REPLAYED, _ERROR = 1, 2, 3  # of CreateOrderResponse and of a batch's Result
_ELEMENTS = 1  # `requests`, `results` and `orders` of the messages that hold many
_NEXT_PAGE_TOKEN = 2


@dataclass(frozen=True, slots=True)
class _Worker:
    """The methods of one worker, from bytes to bytes."""

    create: aio.UnaryUnaryMultiCallable[bytes, bytes]
    batch: aio.UnaryUnaryMultiCallable[bytes, bytes]
    list: aio.UnaryUnaryMultiCallable[bytes, bytes]


class Replay:
    """One run against the workers at ``endpoints``. An async context manager, for its channels.

    ``deadly``: workers are killed meanwhile, so calls without an answer are expected and made again.
    """

    def __init__(self, endpoints: Sequence[str], seed: int, ledger: Ledger, *, deadly: bool = False) -> None:
        self.ledger = ledger
        self.sends = 0
        """Requests sent, each time counted."""
        self._endpoints = endpoints
        self._chance = random.Random(seed ^ 0xC4E57)
        self._deadly = deadly
        self._workers: list[_Worker] = []
        self._channels = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for endpoint in self._endpoints:
            channel = await self._channels.enter_async_context(aio.insecure_channel(endpoint, _CHANNEL_OPTIONS))
            method = "/orders.v1.OrderService/".__add__
            self._workers.append(
                _Worker(
                    channel.unary_unary(method("CreateOrder")),
                    channel.unary_unary(method("BatchCreateOrders")),
                    channel.unary_unary(method("ListOrders")),
                )
            )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._channels.aclose()

    async def run(self, trials: Trials, until: float, progress: Callable[[int], None] = lambda _: None) -> None:
        """Sends all trials, or those begun before ``until`` (``time.monotonic`` seconds), and judges each."""

        async def one_after_another() -> None:
            while time.monotonic() < until and (group := trials.group()):
                await self._send_group(group)
                progress(len(group))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(GROUPS_MAX):
                tasks.create_task(one_after_another())

    async def audit(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Lists the orders of everybody and holds them against what was acknowledged."""
        left = iter(self.ledger.customers)

        async def one_after_another() -> None:
            for customer in left:
                listed = await self._list(customer)
                self.ledger.audit(customer, listed)
                progress(len(listed))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AUDITS_MAX):
                tasks.create_task(one_after_another())

    async def _send_group(self, group: list[Trial]) -> None:
        """Sends call k with all trials that are to be sent k times, each call to a random worker, all at once."""
        waves = [[trial for trial in group if trial.sends > number] for number in range(max(t.sends for t in group))]
        for wave in waves:
            self._chance.shuffle(wave)
        late = waves.pop() if len(waves) > 1 and self._chance.random() < _LATE_SHARE else None
        await asyncio.gather(*map(self._send, waves))
        if late:
            await self._send(late)
        for trial in group:
            self.ledger.close(trial)
            if trial.order is not None and self._chance.random() < _OTHER_PAYLOAD_SHARE:
                await self._send_other_payload(trial)

    async def _send(self, trials: list[Trial]) -> None:
        """Sends trials in one call until it is answered."""
        self.sends += len(trials)
        if len(trials) == 1:
            answer = await self._call("create", trials[0].raw, trials)
            results = [answer] if answer is not None else []
        else:
            answer = await self._call("batch", joined(_ELEMENTS, (trial.raw for trial in trials)), trials)
            results = repeated(answer, _ELEMENTS) if answer is not None else []
        if answer is not None and len(results) != len(trials):
            self.ledger.find(f"a batch of {len(trials)} was answered by {len(results)} results")
        for trial, result in zip(trials, results, strict=False):
            self._take(trial, result)

    def _take(self, trial: Trial, result: bytes) -> None:
        found = dict(fields(result))
        order = found.get(_ORDER)
        if isinstance(order, bytes) and _ERROR not in found:
            self.ledger.answered(trial, order, replayed=bool(found.get(_REPLAYED, 0)))
        else:
            error = orders_pb2.BatchCreateOrdersResponse.Result.FromString(result).error
            self.ledger.find(f"request {trial.request.request_id}: refused: {error.reason} {error.message}")

    async def _send_other_payload(self, trial: Trial) -> None:
        request = other_payload(trial)
        for _ in range(TRIES_MAX):
            try:
                await self._pick().create(request, timeout=CALL_TIMEOUT_S)
            except aio.AioRpcError as error:
                if self._deadly and error.code() in _LOST:
                    await self._pause()
                    continue
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    return
                self.ledger.find(f"request {trial.request.request_id} with another payload: {_told(error)}")
            else:
                self.ledger.find(f"request {trial.request.request_id} with another payload was accepted")
            return

    async def _call(self, method: str, request: bytes, trials: Sequence[Trial] = ()) -> bytes | None:
        """Returns the answer of the first worker that gives one, or None after noting why there is none."""
        for number in itertools.count(1):
            call: aio.UnaryUnaryMultiCallable[bytes, bytes] = getattr(self._pick(), method)
            try:
                return await call(request, timeout=CALL_TIMEOUT_S)
            except aio.AioRpcError as error:
                for trial in trials:
                    self.ledger.lost_answer(trial)
                if not self._deadly or error.code() not in _LOST or number >= TRIES_MAX:
                    self.ledger.find(f"{method} failed at try {number}: {_told(error)}")
                    return None
            await self._pause()
        raise AssertionError("count does not end")

    async def _list(self, customer: str) -> list[bytes]:
        orders: list[bytes] = []
        token = ""
        while True:
            request = orders_pb2.ListOrdersRequest(customer_id=customer, page_size=PAGE_ROWS, page_token=token)
            page = await self._call("list", request.SerializeToString())
            if page is None:
                return orders
            found = repeated(page, _ELEMENTS)
            orders += found
            told = dict(fields(page)).get(_NEXT_PAGE_TOKEN, b"")
            token = told.decode() if isinstance(told, bytes) else ""
            if not token:
                return orders

    def _pick(self) -> _Worker:
        return self._chance.choice(self._workers)

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(*_PAUSE_S))  # sleep: a caller's pause before it tries again


def _told(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
