"""Callers, workers and shards in simulated time, all drawn from one seed."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import MARK_BYTES, CommitLimits, Consistency, Row, StoreError, Verdict
from shards.handing.handing import Handing
from shards.keys import key_of, mint_uuid7, order_id_of
from shards.places import Places
from shards.routing import Router
from shards.topology import Topology
from tests.simulation import virtual_time
from tests.simulation.faulty_store import POISON, Faults, FaultyStore, Guard
from tests.simulation.ledger import Ledger
from tests.simulation.wires import Wires
from tests.simulation.writing import write
from tests.support.observers import Notes

_NEW_MS: Final = 4_102_444_800_000  # the year 2100: no bucket of it is due
_OLD_MS: Final = 1_000_000_000_000  # 2001: every bucket of it is
_DRAIN_S_MAX: Final = 30.0
_VERSIONS_MAX: Final = 5
_TROUBLE_S: Final = 60.0
_LOOKS_MAX: Final = 12


class World:
    """One run. Everything in it follows from ``seed``."""

    def __init__(self, seed: int, *, callers: int) -> None:
        self._chance = chance = random.Random(seed)
        self._surprises = random.Random(~seed)
        self._callers = callers
        self._cache_ttl_s = chance.uniform(0.1, 3)
        self.ledger = Ledger(self._cache_ttl_s)
        self._topology = Topology.initial(chance.randint(1, 3))
        self._customers = [f"customer {n}" for n in range(chance.randint(1, 8))]
        self._settings = StorageSettings(
            data_dir=Path("none"),
            queue_rows_max=chance.randint(3, 60),
            reads_max=chance.randint(10, 100),
            cache_ttl_s=self._cache_ttl_s,
        )
        self._orders: dict[str, list[bytes]] = {customer: [] for customer in self._customers}
        self._rows_written = 0
        self._writes = 0
        self._notes: list[Notes] = []
        self._handing: list[tuple[Handing, asyncio.Event]] = []
        self._is_handing = self._surprises.random() < 0.7
        self._wires = Wires(
            self._surprises, delay_s=self._surprises.choice([0.001, 0.02]), cuts=self._surprises.choice([0, 0.01, 0.1])
        )

    async def play(self) -> None:
        """Lets all callers call; then nothing may be left under way."""
        stores = self._new_stores()
        for store in stores:
            asyncio.get_running_loop().call_later(self._surprises.uniform(0, 4), store.lower_limits)
        workers = self._chance.randint(1, 3)
        self._routers = [await self._new_router(stores, number, workers) for number in range(workers)]
        background = [
            asyncio.ensure_future(work)
            for h, running in self._handing
            for work in (_freeze(self._surprises, running), _differ(self._surprises, h, workers))
        ]
        async with asyncio.TaskGroup() as callers:
            for _ in range(self._callers):
                callers.create_task(self._caller())
        for task in background:
            task.cancel()
        for _, running in self._handing:
            running.set()
        async with asyncio.timeout(_DRAIN_S_MAX):
            for router in self._routers:
                await router.close()
            for handing, _ in self._handing:
                await handing.close()
            self._wires.close()
        handed = sum(notes.handed for notes in self._notes)
        self.ledger.expect(sum(notes.taken for notes in self._notes) <= handed, "rows taken that nobody handed over")
        self.ledger.expect(handed <= self._writes, "a row that was handed over is handed on")
        self.ledger.told["handed"] = handed
        self.ledger.told |= sum((notes.taken_back for notes in self._notes), Counter())
        for router in self._routers:
            self.ledger.expect(f"rows=0/{self._settings.queue_rows_max}" in repr(router), f"rows left in {router!r}")
        await asyncio.sleep(_DRAIN_S_MAX)  # sleep: simulated, until the last late write has landed
        self.ledger.finish()

    def _new_stores(self) -> Sequence[FaultyStore]:
        chance = self._chance
        faults = Faults(
            refused=chance.choice([0, 0.02, 0.2]),
            lost=chance.choice([0, 0.05, 0.3]),
            read_fails=chance.choice([0, 0.05, 0.3]),
            delay_s=chance.choice([0.001, 0.02, 0.1]),
            late_s=chance.choice([0.1, 5]),
        )
        limits = CommitLimits(chance.randint(1, 8), chance.choice([200, 100_000]), chance.randint(1, 3))
        lanes, all_or_nothing = chance.randint(1, 4), chance.random() < 0.5
        return [
            FaultyStore(chance, faults, self.ledger, limits, lanes=lanes, all_or_nothing=all_or_nothing)
            for _ in self._topology.shards
        ]

    async def _new_router(self, stores: Sequence[FaultyStore], number: int, workers: int) -> Router:
        observer = Notes()
        self._notes.append(observer)
        handing: Handing | None = None
        if self._is_handing:
            running = asyncio.Event()
            running.set()
            handing = Handing(self._wires.face(running), observer, own=number, workers=workers)
            handing.know(range(workers))
            self._handing.append((handing, running))
        cache = LocalCache(
            rows_max=self._chance.randint(1, 30),
            bytes_max=1 << 20,
            ttl_s=self._cache_ttl_s,
            chance=self._chance.random,
        )
        resources = AsyncExitStack()
        shards = {}
        for shard, store in enumerate(stores):
            guard = Guard(store, self.ledger)
            shards[shard] = shard_over(guard, shard, cache, self._settings, observer, handing, lanes=store.lanes)
            resources.push_async_callback(shards[shard].lanes.close)
        places = Places(self._topology, shards, observer)
        if handing is not None:
            await handing.listen(places)
        return Router(places, observer, resources)

    async def _caller(self) -> None:
        """One caller: creates an order, mostly by several tries of one request, changes it, and reads all the while."""
        chance = self._chance
        await self._pause(3.0)
        customer = chance.choice(self._customers)
        request_id = self._mint(_OLD_MS if chance.random() < 0.1 else _NEW_MS)
        order_id = order_id_of(customer, request_id)
        async with asyncio.TaskGroup() as tries:
            router = self._router()
            for _ in range(chance.choice([0, 0, 4])):
                tries.create_task(self._look_out(router, order_id))
            for _ in range(chance.choice([1, 1, 2, 5])):
                tries.create_task(self._create(customer, order_id, request_id))
                if chance.random() < 0.3:
                    await self._pause(0.5)
        async with asyncio.TaskGroup() as others:
            for _ in range(chance.randint(0, 3)):
                others.create_task(self._transition(customer, order_id))
            for _ in range(chance.randint(1, 6)):
                others.create_task(self._read(customer, order_id))

    async def _create(self, customer: str, order_id: bytes, request_id: bytes) -> None:
        mark = request_id + self._chance.choice([b"same", b"same", b"else"]).ljust(MARK_BYTES - 16)
        body = POISON if self._chance.random() < 0.02 else self._body()
        await self._write(Row(key_of(order_id, 0), customer, mark, body))

    async def _look_out(self, router: Router, order_id: bytes) -> None:
        """Asks for an order that is being created until it is there, or the patience is gone."""
        for _ in range(_LOOKS_MAX):
            if await self._read_by(router, order_id, Consistency.CACHED, 0):
                return
            await self._pause(0.02)

    async def _transition(self, customer: str, order_id: bytes) -> None:
        """Moves the order on by one request, tried until it took effect or the patience is gone."""
        request_id = self._mint(_NEW_MS)
        for _ in range(self._chance.randint(1, 6)):
            row = await self._read_by(self._router(), order_id, Consistency.STRONG, 0)
            if row is None or row.version == _VERSIONS_MAX or row.version_made_by(request_id):
                return
            mark = request_id + bytes(MARK_BYTES - 16)
            if await self._write(Row(row.key, customer, row.marks + mark, self._body())):
                return
            await self._pause(0.2)

    async def _read(self, customer: str, order_id: bytes) -> None:
        await self._pause(2.0)
        consistency = self._chance.choice(list(Consistency))
        known = self.ledger.acknowledged(order_id)
        await self._read_by(self._router(), order_id, consistency, self._chance.choice([0, known]))
        known_orders = [order for order in self._orders[customer] if self.ledger.acknowledged(order)]
        try:
            rows = await self._router().list_customer(customer, None, 10_000, deadline=time.monotonic() + 60)
        except StoreError:
            return
        self.ledger.listed(customer, rows, known_orders)

    async def _read_by(self, router: Router, order_id: bytes, consistency: Consistency, min_version: int) -> Row | None:
        known, started = self.ledger.acknowledged(order_id), time.monotonic()
        deadline = started + self._patience()
        try:
            row = await router.read(order_id, consistency, min_version=min_version, deadline=deadline)
        except StoreError:
            return None
        finally:
            self.ledger.in_time(deadline)
        self.ledger.read(order_id, row, consistency, known, min_version, started)
        return row

    async def _write(self, row: Row) -> bool:
        """Writes a row through any worker, perhaps leaving early; tells whether it is known to be stored."""
        chance = self._chance
        if row.version == 1 and row.key.order_id not in self._orders[row.customer]:
            self._orders[row.customer].append(row.key.order_id)
        self._writes += 1
        deadline = time.monotonic() + self._patience()
        writing = asyncio.ensure_future(write(self._router(), row, deadline))
        writing.add_done_callback(lambda _: self.ledger.in_time(deadline))
        if chance.random() < 0.1:
            await self._pause(0.1)
            writing.cancel()
        try:
            outcome = await writing
        except StoreError as error:
            self.ledger.failed(row, error)
            return False
        except asyncio.CancelledError:
            return False
        self.ledger.answered(row, outcome)
        return outcome.verdict is Verdict.APPLIED

    def _router(self) -> Router:
        return self._chance.choice(self._routers)

    def _patience(self) -> float:
        return self._chance.choice([0.02, 0.3, 3.0])

    def _body(self) -> bytes:
        self._rows_written += 1
        return f"row {self._rows_written}".encode()

    def _mint(self, time_ms: int) -> bytes:
        """A request id that the seed alone decides."""
        minted = bytearray(mint_uuid7(time_ms + self._chance.randrange(3_600_000)))
        minted[7], minted[9:] = self._chance.randrange(256), self._chance.randbytes(7)
        minted[6], minted[8] = 0x70, 0x80
        return bytes(minted)

    async def _pause(self, seconds_max: float) -> None:
        await asyncio.sleep(self._chance.uniform(0, seconds_max))  # sleep: simulated, a caller thinks


async def _freeze(chance: random.Random, running: asyncio.Event) -> None:
    """Lets a worker neither hear nor send to the others, for moments shorter and longer than they wait for it."""
    until_s = time.monotonic() + _TROUBLE_S  # not for ever: whatever waits for nothing is then seen to
    while time.monotonic() < until_s:
        await asyncio.sleep(chance.uniform(0, 4))  # sleep: simulated
        running.clear()
        await asyncio.sleep(chance.choice([0.05, 0.3, 2]))  # sleep: simulated
        running.set()


async def _differ(chance: random.Random, handing: Handing, workers: int) -> None:
    """Lets a worker take others than serve for those that do."""
    until_s = time.monotonic() + _TROUBLE_S
    while time.monotonic() < until_s:
        await asyncio.sleep(chance.uniform(0, 2))  # sleep: simulated
        handing.know(number for number in range(workers) if chance.random() < 0.8)


def play(seed: int, *, callers: int = 40) -> Ledger:
    """Plays one run. Raises ``AssertionError`` when a guarantee was broken in it."""
    world = World(seed, callers=callers)
    virtual_time.run(world.play())
    return world.ledger
