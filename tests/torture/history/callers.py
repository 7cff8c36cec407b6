"""What the callers of a run do: create, move, read, list, repeat, and in the end ask until nothing is in doubt.

They know no transport: a ``Service`` answers an operation. The same callers drive the real server and the simulation.
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from shards.keys import format_uuid, order_id_of, parse_uuid7
from tests.support.history import AUDITOR, WRITES, History, Kind, Operation, Outcome, Result

HOT_ORDERS: Final = 8
"""The newest orders, which most operations are about: many callers meet at each."""

ORDERS_A_CUSTOMER: Final = 25
TRIES_MAX: Final = 6
"""A caller gives a request up after so many tries; whether it took effect is settled in the end."""

LOOKS_MAX: Final = 10
SETTLERS: Final = 16
"""Requests settled, and orders audited, at once."""

_PAUSE_S: Final = (0.01, 0.4)
"""Before another try: a random time between these."""

_LOOK_S: Final = 0.05
"""Longest pause of who looks out for an order."""

_NEXT: Final = {
    "PENDING": ("ConfirmPayment", "ConfirmPayment", "ConfirmPayment", "CancelOrder"),
    "PAID": ("ShipOrder", "ShipOrder", "RefundOrder"),
    "SHIPPED": ("DeliverOrder", "DeliverOrder", "RefundOrder"),
    "DELIVERED": ("RefundOrder",),
}
_VERBS: Final = ("ConfirmPayment", "ShipOrder", "DeliverOrder", "CancelOrder", "RefundOrder")
_WITH_REASON: Final = frozenset({"CancelOrder", "RefundOrder"})


class Service(Protocol):
    """Answers operations."""

    async def ask(self, operation: Operation) -> Result:
        """Makes one call, to any worker, and tells what came of it; never raises but for its own cancellation."""


class Unsettled(AssertionError):
    """The service did not answer when nothing disturbed it any more."""


@dataclass(slots=True)
class _Known:
    """An order that was asked for, and what the callers know of it."""

    create: Operation
    version: int = 0
    state: str = "PENDING"
    moves: list[Operation] = field(default_factory=list)


class Callers:
    """``callers`` of them, one operation at a time each, all drawn from ``seed``."""

    def __init__(
        self,
        service: Service,
        history: History,
        seed: int,
        *,
        callers: int = 32,
        mint: Callable[[random.Random], str] | None = None,
        orders_a_customer: int = ORDERS_A_CUSTOMER,
    ) -> None:
        self._service = service
        self._history = history
        self._seed = seed
        self._callers = callers
        self._mint = mint or _mint_now
        self._orders_a_customer = orders_a_customer
        self._known: dict[str, _Known] = {}
        self._orders: list[_Known] = []

    @property
    def orders(self) -> int:
        """Orders that were asked for so far."""
        return len(self._orders)

    async def run(self, until: float, operations_max: int, operations_min: int = 0) -> None:
        """Calls until that ``time.monotonic`` second and for so many operations at least, and never for more."""

        def goes_on() -> bool:
            count = len(self._history)
            return count < operations_max and (count < operations_min or time.monotonic() < until)

        async with asyncio.TaskGroup() as tasks:
            for number in range(self._callers):
                tasks.create_task(self._call(number, goes_on))

    async def settle(self, until: float) -> None:
        """Sends every request that is in doubt again, the same bytes, until it is answered. Raises ``Unsettled``."""
        answered = {
            operation.request
            for operation in self._history
            if operation.result.outcome in (Outcome.OK, Outcome.REFUSED) and operation.kind in WRITES
        }
        doubtful = {
            operation.request: operation
            for operation in self._history
            if operation.kind in WRITES and operation.request not in answered
        }
        await self._insist(list(doubtful.values()), until)

    async def audit(self, until: float) -> None:
        """Reads every order that was ever asked for, and lists every customer. Raises ``Unsettled``."""
        reads = [
            Operation(kind=Kind.READ, customer=known.create.customer, order=known.create.order)
            for known in self._orders
        ]
        customers = dict.fromkeys(read.customer for read in reads)
        lists = [Operation(kind=Kind.LIST, customer=customer) for customer in customers]
        await self._insist([*reads, *lists], until)

    async def _insist(self, asks: Sequence[Operation], until: float) -> None:
        left = iter(asks)

        async def one_after_another() -> None:
            chance = random.Random(self._seed ^ 0xA0D17)
            for ask in left:
                async for result in self._tries(ask, AUDITOR, chance):
                    if result.outcome in (Outcome.OK, Outcome.REFUSED):
                        break
                    if time.monotonic() > until:
                        raise Unsettled(f"not answered in the end: {ask}: {result.reason or 'no answer'}")

        async with asyncio.TaskGroup() as tasks:
            for _ in range(SETTLERS):
                tasks.create_task(one_after_another())

    async def _call(self, number: int, goes_on: Callable[[], bool]) -> None:
        chance = random.Random(self._seed << 16 ^ number)
        actions = (self._create, self._move, self._repeat, self._read, self._list)
        while goes_on():
            (action,) = chance.choices(actions, (9, 30, 12, 45, 4)) if self._orders else (self._create,)
            await action(number, chance)

    async def _create(self, number: int, chance: random.Random) -> None:
        customer = f"torture-{self._seed}-{len(self._orders) // self._orders_a_customer}"
        request = self._mint(chance)
        raw = parse_uuid7(request)
        assert raw is not None, request
        create = Operation(
            kind=Kind.CREATE,
            customer=customer,
            request=request,
            order=format_uuid(order_id_of(customer, raw)),
            payload=f"SKU-{chance.randrange(1_000)} {chance.randrange(1, 100)}",
        )
        known = self._known[create.order] = _Known(create)
        self._orders.append(known)
        lookers = chance.choice((0, 0, 0, 0, 2))
        await asyncio.gather(
            self._request(create, number, chance), *(self._look_out(known, number, chance) for _ in range(lookers))
        )

    async def _look_out(self, known: _Known, number: int, chance: random.Random) -> None:
        """Asks for an order that is being created until it is there, and once more, or until the patience is gone."""
        look = Operation(kind=Kind.CACHED, customer=known.create.customer, order=known.create.order)
        for _ in range(LOOKS_MAX):
            there = known.version > 0
            await self._try(look, number)
            if there:
                return
            await asyncio.sleep(chance.uniform(0, _LOOK_S))  # sleep: a caller's pace

    async def _move(self, number: int, chance: random.Random) -> None:
        known = self._pick(chance)
        verb = chance.choice(_NEXT.get(known.state, _VERBS) if chance.random() < 0.9 else _VERBS)
        move = Operation(
            kind=Kind.MOVE,
            customer=known.create.customer,
            order=known.create.order,
            request=self._mint(chance),
            verb=verb,
            payload=f"because {chance.randrange(100)}" if verb in _WITH_REASON else "",
            expected=chance.choice((0, 0, 0, known.version, known.version, max(1, known.version - 1))),
        )
        known.moves.append(move)
        await self._request(move, number, chance)

    async def _repeat(self, number: int, chance: random.Random) -> None:
        """Sends an earlier request again, or another payload under its id."""
        known = chance.choice(self._orders) if chance.random() < 0.4 else self._pick(chance)
        ask = copy.copy(chance.choice([known.create, *known.moves]))
        if chance.random() < 0.15:
            if ask.kind is Kind.CREATE:
                ask.payload = f"{ask.payload}0"
            else:
                ask.expected = 3 if ask.expected != 3 else 2
        await self._try(ask, number)

    async def _read(self, number: int, chance: random.Random) -> None:
        known = self._pick(chance)
        read = Operation(
            kind=chance.choice((Kind.READ, Kind.CACHED, Kind.CACHED)),
            customer=known.create.customer,
            order=known.create.order,
            min_version=known.version if chance.random() < 0.5 else 0,
        )
        if chance.random() < 0.01:
            read.min_version = 9  # no order ever gets there
        await self._try(read, number)

    async def _list(self, number: int, chance: random.Random) -> None:
        await self._try(Operation(kind=Kind.LIST, customer=self._pick(chance).create.customer), number)

    def _pick(self, chance: random.Random) -> _Known:
        known = self._orders[-1]
        for _ in range(3):  # one that is there, mostly
            known = chance.choice(self._orders[-HOT_ORDERS:] if chance.random() < 0.85 else self._orders)
            if known.version:
                break
        return known

    async def _request(self, ask: Operation, number: int, chance: random.Random) -> None:
        """Sends a request as an impatient caller does: again when it was not answered, now and then twice at once."""
        if chance.random() < 0.15:
            await asyncio.gather(self._try(ask, number), self._try(ask, number))
            return
        tries = 0
        async for result in self._tries(ask, number, chance):
            tries += 1
            if result.outcome in (Outcome.OK, Outcome.REFUSED) or tries == TRIES_MAX:
                return

    async def _tries(self, ask: Operation, number: int, chance: random.Random) -> AsyncIterator[Result]:
        while True:
            yield await self._try(ask, number)
            await asyncio.sleep(chance.uniform(*_PAUSE_S))  # sleep: a caller's pause before it tries again

    async def _try(self, ask: Operation, number: int) -> Result:
        operation = copy.copy(ask)
        operation.process = number
        self._history.invoke(operation)
        result = await self._service.ask(operation)
        self._history.conclude(operation, result)
        known = self._known.get(operation.order)
        if known is not None and result.outcome is Outcome.OK and result.version > known.version:
            known.version, known.state = result.version, result.state
        return result


def _mint_now(chance: random.Random) -> str:
    number = time.time_ns() // 1_000_000 << 80 | 0x7 << 76 | chance.getrandbits(12) << 64
    return str(uuid.UUID(int=number | 0b10 << 62 | chance.getrandbits(62)))
