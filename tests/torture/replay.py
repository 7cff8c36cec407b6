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
"""A call is made so often before it counts as never answered; with the pause between, that is over three minutes."""

CALL_TIMEOUT_S: Final = 30.0
"""Of a call that may be left open, and is made again."""

PATIENT_TIMEOUT_S: Final = 240.0
"""Of a call that may not be: there a machine that is slow is waited for."""

PAGE_ROWS: Final = 1_000
AUDITS_MAX: Final = 8
"""Customers listed at once in the audit."""

_PAUSE_S: Final = (0.02, 0.4)
"""Before a lost call is made again: a random time between these."""

_LONG_PAUSE_S: Final = (0.2, 2.0)
"""The same for a call that was lost more than ``_HASTY_TRIES`` times: whoever died is not back so soon."""

_HASTY_TRIES: Final = 10

_OTHER_PAYLOAD_SHARE: Final = 0.02
"""So many settled requests are asked again with another payload, which must be refused."""

_LATE_SHARE: Final = 0.25
"""So many groups send their last call only after the others are answered: a replay of what was long settled."""

REFUSED_FOR_NOW: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED})
"""What a caller sees of a worker that has more to do than it can: nothing was done, and it may try again."""

LOST_WITH_WORKERS: Final = REFUSED_FOR_NOW | {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""What it sees of a worker that dies or stops."""

LOST_WITH_NODES: Final = LOST_WITH_WORKERS | {grpc.StatusCode.DEADLINE_EXCEEDED}
"""What it sees of a store that is away: also what could not be settled in time."""

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

    ``excused``: calls, and items of batches, that fail with one of these codes are made again, as what is killed
    meanwhile explains it.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        seed: int,
        ledger: Ledger,
        *,
        excused: frozenset[grpc.StatusCode] = REFUSED_FOR_NOW,
    ) -> None:
        self.ledger = ledger
        self.sends = 0
        """Requests sent, each time counted."""
        self._endpoints = endpoints
        self._chance = random.Random(seed ^ 0xC4E57)
        self._excused = excused
        self._timeout_s = CALL_TIMEOUT_S if grpc.StatusCode.DEADLINE_EXCEEDED in excused else PATIENT_TIMEOUT_S
        self._excused_items = {code.value[0] for code in excused}
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

    async def run(
        self,
        trials: Trials,
        until: float,
        progress: Callable[[int], None] = lambda _: None,
        *,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Sends all trials, or those begun before ``until`` (``time.monotonic`` seconds) or ``is_over``, and judges."""

        async def one_after_another() -> None:
            while time.monotonic() < until and not is_over() and (group := trials.group()):
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
        for number in itertools.count(1):
            trials = await self._send_once(trials, is_last=number >= TRIES_MAX)
            if not trials:
                return
            await self._pause(number)

    async def _send_once(self, trials: list[Trial], *, is_last: bool) -> list[Trial]:
        """Sends trials in one call until that is answered; returns those which are to be sent again."""
        if len(trials) == 1:
            answer = await self._call("create", trials[0].raw, trials)
            results = [answer] if answer is not None else []
        else:
            answer = await self._call("batch", joined(_ELEMENTS, (trial.raw for trial in trials)), trials)
            results = repeated(answer, _ELEMENTS) if answer is not None else []
        if answer is not None and len(results) != len(trials):
            self.ledger.find(f"a batch of {len(trials)} was answered by {len(results)} results")
        answered = zip(trials, results, strict=False)
        return [trial for trial, result in answered if not self._take(trial, result, is_last=is_last)]

    def _take(self, trial: Trial, result: bytes, *, is_last: bool) -> bool:
        """Takes an answer; returns whether it is one, and not a failure that is excused."""
        found = dict(fields(result))
        order = found.get(_ORDER)
        if isinstance(order, bytes) and _ERROR not in found:
            self.ledger.answered(trial, order, replayed=bool(found.get(_REPLAYED, 0)))
            return True
        error = orders_pb2.BatchCreateOrdersResponse.Result.FromString(result).error
        if error.code in self._excused_items and not is_last:
            self.ledger.lost_answer(trial)
            return False
        self.ledger.find(f"request {trial.request.request_id}: refused: {error.reason} {error.message}")
        return True

    async def _send_other_payload(self, trial: Trial) -> None:
        request = other_payload(trial)
        for number in range(1, TRIES_MAX + 1):
            try:
                await self._pick().create(request, timeout=self._timeout_s)
            except aio.AioRpcError as error:
                if error.code() in self._excused:
                    await self._pause(number)
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
                return await call(request, timeout=self._timeout_s)
            except aio.AioRpcError as error:
                for trial in trials:
                    self.ledger.lost_answer(trial)
                if error.code() not in self._excused or number >= TRIES_MAX:
                    self.ledger.find(f"{method} failed at try {number}: {_told(error)}")
                    return None
            await self._pause(number)
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

    async def _pause(self, tries: int) -> None:
        pause_s = _PAUSE_S if tries <= _HASTY_TRIES else _LONG_PAUSE_S
        await asyncio.sleep(self._chance.uniform(*pause_s))  # sleep: a caller's pause before it tries again


def _told(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
