"""The torture's callers against the service's own use cases, in simulated time, over stores that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from server.app.listing import Query
from server.app.orders import Orders, Written
from server.domain.errors import OrderError
from server.domain.order import Draft, Line, Order
from server.domain.states import Verb
from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import CommitLimits, Consistency, Invalid
from shards.keys import format_uuid, parse_uuid7
from shards.routing import Router
from shards.topology import Topology
from tests.simulation import virtual_time
from tests.simulation.faulty_store import Faults, FaultyStore
from tests.simulation.ledger import Ledger
from tests.support.history import History, Kind, Listed, Operation, Outcome, Report, Result, Rules, check, failure
from tests.support.observers import Notes
from tests.torture.history.callers import Callers

WORKERS: Final = 3
OPERATIONS: Final = 400
_QUIET_S: Final = 60.0
_SETTLE_S: Final = 600.0
_EPOCH_MS: Final = 4_102_444_800_000
"""The year 2100, by the clock of the simulation: no bucket of it is due for sealing."""


class Clock:
    """Simulated microseconds; no two readings are equal, as two workers would hardly make them."""

    def __init__(self) -> None:
        self._last_us = 0

    def now_us(self) -> int:
        """The time."""
        self._last_us = max(self._last_us + 1, _EPOCH_MS * 1_000 + int(time.monotonic() * 1_000_000))
        return self._last_us


class Workers:
    """Several workers of one service: what ``tests.torture.history.callers`` call a service."""

    def __init__(self, workers: Sequence[Orders], chance: random.Random) -> None:
        self._workers = workers
        self._chance = chance

    async def ask(self, operation: Operation) -> Result:
        """Calls a worker, now and then with too little time, or leaves before it answers."""
        chance = self._chance
        call = asyncio.ensure_future(self._ask(chance.choice(self._workers), operation))
        if chance.random() < 0.05:
            await asyncio.wait([call], timeout=chance.uniform(0, 0.1))
            call.cancel()
        try:
            return await call
        except OrderError as error:
            facts = error.metadata
            current = int(facts.get("current_version", facts.get("version", "0")))
            # these stores say Invalid of rows that are good, which no store does, and which promises as much
            refused = isinstance(error.__cause__, Invalid)
            return failure(operation.kind, "STORE_UNAVAILABLE" if refused else error.reason.name, current)
        except asyncio.CancelledError:
            return failure(operation.kind, "")

    async def _ask(self, worker: Orders, operation: Operation) -> Result:
        deadline = time.monotonic() + self._chance.choice((0.05, 1.0, 10.0, 10.0))
        if operation.kind is Kind.CREATE:
            return _told(await worker.create(draft_of(operation), parse_uuid7(operation.request), deadline))
        if operation.kind is Kind.LIST:
            query = Query(operation.customer, None, 1_000, "")
            page = await worker.list(query, deadline, lambda _: True)
            entries = tuple(
                Listed(format_uuid(order.order_id), order.version, order.state.name, fingerprint(order), steps(order))
                for order in page.orders
            )
            return Result(outcome=Outcome.OK, listed=entries)
        order_id = parse_uuid7(operation.order)
        assert order_id is not None
        if operation.kind is Kind.MOVE:
            return _told(
                await worker.transition(
                    order_id,
                    Verb(operation.verb),
                    parse_uuid7(operation.request),
                    operation.expected or None,
                    operation.payload,
                    deadline,
                )
            )
        consistency = Consistency.STRONG if operation.kind is Kind.READ else Consistency.CACHED
        order = await worker.get(order_id, operation.min_version, consistency, deadline)
        return _told(Written(order, replayed=False))


def draft_of(operation: Operation) -> Draft:
    """Returns what a create asks for, which its payload alone decides."""
    sku, quantity = operation.payload.split()
    return Draft(operation.customer, "EUR", (Line(sku, int(quantity), 995),), ())


def fingerprint(order: Order) -> str:
    """Returns a digest of all of an order."""
    return hashlib.blake2b(repr(order).encode(), digest_size=8).hexdigest()


def steps(order: Order) -> tuple[str, ...]:
    """Returns what ``Result.steps`` asks for."""
    return (fingerprint(order._replace(transitions=())), *map(repr, order.transitions))


def _told(written: Written) -> Result:
    order = written.order
    return Result(
        outcome=Outcome.OK,
        order=format_uuid(order.order_id),
        version=order.version,
        state=order.state.name,
        replayed=written.replayed,
        fingerprint=fingerprint(order),
        steps=steps(order),
    )


def play(seed: int, *, operations: int = OPERATIONS) -> tuple[History, Report]:
    """Plays one run and judges it. Everything in it follows from ``seed``."""
    history = History()
    cache_ttl_s = random.Random(seed).choice((0.3, 2.0))
    virtual_time.run(_play(seed, history, cache_ttl_s, operations))
    return history, check(history, Rules(cache_ttl_s, exact_replays=False))


async def _play(seed: int, history: History, cache_ttl_s: float, operations: int) -> None:
    chance = random.Random(seed)
    faults = Faults(
        refused=chance.choice((0, 0.05)),
        lost=chance.choice((0, 0.1, 0.3)),
        read_fails=chance.choice((0, 0.05)),
        delay_s=chance.choice((0.002, 0.02, 0.2)),
        late_s=chance.choice((0.1, 3)),
    )
    limits = CommitLimits(chance.randint(1, 8), 100_000, chance.randint(1, 3))
    topology = Topology.initial(2)
    stores = [
        FaultyStore(chance, faults, Ledger(cache_ttl_s), limits, lanes=2, all_or_nothing=chance.random() < 0.5)
        for _ in topology.shards
    ]
    async with AsyncExitStack() as closing:
        clock = Clock()
        workers = []
        for _ in range(WORKERS):
            router = _router(topology, stores, cache_ttl_s, chance)
            workers.append(Orders(router, clock))
            closing.push_async_callback(router.close)
            closing.push_async_callback(workers[-1].close)
        callers = Callers(Workers(workers, chance), history, seed, callers=12, mint=_minting(clock))
        await callers.run(time.monotonic() + 3_600, operations)
        for store in stores:
            store.calm()
        await asyncio.sleep(_QUIET_S)  # sleep: simulated, until the last late write has landed
        await callers.settle(time.monotonic() + _SETTLE_S)
        await callers.audit(time.monotonic() + _SETTLE_S)


def _router(topology: Topology, stores: Sequence[FaultyStore], cache_ttl_s: float, chance: random.Random) -> Router:
    settings = StorageSettings(data_dir=Path("none"), queue_rows_max=100, reads_max=100, cache_ttl_s=cache_ttl_s)
    cache = LocalCache(rows_max=1_000, bytes_max=1 << 20, ttl_s=cache_ttl_s, chance=chance.random)
    observer = Notes()
    resources = AsyncExitStack()
    shards = {}
    for number, store in enumerate(stores):
        shards[number] = shard_over(store, number, cache, settings, observer)
        resources.push_async_callback(shards[number].lanes.close)
    return Router.over(topology, shards, observer, resources)


def _minting(clock: Clock) -> Callable[[random.Random], str]:
    def mint(chance: random.Random) -> str:
        number = clock.now_us() // 1_000 << 80 | 0x7 << 76 | 0b10 << 62 | chance.getrandbits(62)
        return format_uuid(number.to_bytes(16, "big"))

    return mint
