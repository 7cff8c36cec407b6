"""Callers, workers with leases, and a mover that moves slots there and back, in simulated time, drawn from one seed."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import MARK_BYTES, CommitLimits, Consistency, Outcome, Row, StoreError, Verdict
from shards.facts import Fact, Facts
from shards.following import Follower, OpenShard
from shards.handing.handing import Handing
from shards.keys import Key, key_of, mint_uuid7, order_id_of, slot_of
from shards.leases import SCOPE, LeaseWatch, Leaving, SlotStates, SlotStatesWriter
from shards.leases.hold import boottime_s
from shards.places import Places
from shards.routing import Router
from shards.topology import ShardInfo, Topology
from shards.topology_store import TopologyStore
from shards.wrappers.passing import Passing
from tests.simulation import virtual_time
from tests.simulation.faulty_store import Faults, FaultyStore
from tests.simulation.ledger import Ledger
from tests.simulation.wires import Wires
from tests.simulation.writing import write
from tests.support.memory_facts import FactsLost, MemoryFacts
from tests.support.observers import Notes

_NEW_MS: Final = 4_102_444_800_000  # the year 2100: no bucket of it is due
_PLAY_S: Final = 45.0
_CALM_S: Final = 10.0
_TTL_S: Final = 0.5
_VERSIONS_MAX: Final = 6


class Home:
    """Facts, and faces of them whose calls are slow, get lost, and stop while their worker is frozen."""

    def __init__(self, chance: random.Random, loss: float, trace: list[tuple[float, str]]) -> None:
        self._chance = chance
        self._loss = loss
        self._trace = trace
        self.truth = MemoryFacts()

    def face(self, running: asyncio.Event | None = None) -> Facts:
        """The facts as one process has them."""

        async def between(operation: str, is_done: bool) -> None:
            self._trace.append((time.monotonic(), f"{operation} {'answered' if is_done else 'asked'}"))
            await asyncio.sleep(self._chance.uniform(0, 0.02))  # sleep: simulated, the way there or back
            if running is not None:
                if self._chance.random() < self._loss:
                    raise FactsLost
                await running.wait()

        face = MemoryFacts(between)
        face.kept = self.truth.kept
        return face

    def calm(self) -> None:
        """Loses nothing from now on."""
        self._loss = 0


class Frozen(Passing):
    """A worker's way to a store: while the worker is frozen it sends nothing and hears nothing."""

    def __init__(self, store: FaultyStore, running: asyncio.Event) -> None:
        super().__init__(store)
        self._running = running

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane."""
        await self._running.wait()
        try:
            return await super().commit(rows)
        finally:
            await self._running.wait()

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """Returns the row of each key."""
        await self._running.wait()
        try:
            return await super().read(keys, consistency)
        finally:
            await self._running.wait()

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """Returns a customer's rows."""
        await self._running.wait()
        try:
            return await super().list_customer(customer, slot, gen, tag, before, rows_max)
        finally:
            await self._running.wait()


class Worker:
    """One worker: leases on every shard, a router, and whether it runs."""

    def __init__(self, world: "World", number: int, workers: int) -> None:
        self._world = world
        self.running = asyncio.Event()
        self.running.set()
        self.notes = Notes()
        self._cache = LocalCache(rows_max=50, bytes_max=1 << 20, ttl_s=_TTL_S, chance=world.jitter)
        self._settings = StorageSettings(data_dir=Path("none"), cache_ttl_s=_TTL_S)
        topologies = TopologyStore(world.home.face(self.running))
        self._places = Places(world.first, {}, self.notes, {})
        self.follower = Follower(
            topologies, self._places, self, self.notes, worker=f"worker {number}", chance=world.jitter
        )
        self.router = Router(self._places, self.notes, AsyncExitStack())
        self.handing = Handing(world.wires.face(self.running), self.notes, own=number, workers=workers)
        self.handing.know(range(workers))

    async def start(self) -> None:
        """Serves."""
        await self.follower.start(lease_wait_s=5)
        await self.handing.listen(self._places)

    async def open(self, shard: int) -> OpenShard:
        """See ``shards.following.Opener``."""
        store = Frozen(self._world.stores[shard], self.running)
        facts = self._world.homes[shard].face(self.running)
        around = shard_over(store, shard, self._cache, self._settings, self.notes, self.handing, lanes=2)
        return OpenShard(around, facts, store.close)

    async def freeze_now_and_then(self, chance: random.Random) -> None:
        """Freezes for moments shorter and longer than a lease."""
        while True:
            await pass_time(chance.uniform(0, 15))
            await self.freeze(chance.choice([0.1, 3, 6, 9]))

    async def freeze(self, seconds: float) -> None:
        """Stops at once, and goes on after that; sooner where it was stopped before."""
        self.running.clear()
        await pass_time(seconds)
        self.running.set()


class World:
    """One run. Everything in it follows from ``seed``; ``trace`` is what happened, and when."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.jitter = random.Random(f"jitter {seed}").random
        self.trace: list[tuple[float, str]] = []
        self.first = Topology(1, (ShardInfo(0), ShardInfo(1)), (0,) * 4096, (0,) * 4096, 2)
        self.customers = [f"customer {n}" for n in range(chance.randint(1, 4))]
        loss = chance.choice([0, 0.02, 0.1])
        self.home = Home(chance, loss, self.trace)
        self.homes = [Home(chance, loss, self.trace) for _ in range(2)]
        faults = Faults(
            refused=0,
            lost=chance.choice([0, 0.05, 0.3]),
            read_fails=0,
            delay_s=chance.choice([0.002, 0.02, 0.2]),
            late_s=chance.choice([0.1, 8]),
        )
        ledger = Ledger(_TTL_S)  # of the stores' own; what callers are told is judged here
        limits = CommitLimits(8, 100_000, 2)
        self.stores = [
            FaultyStore(chance, faults, ledger, limits, lanes=2, all_or_nothing=chance.random() < 0.5) for _ in range(2)
        ]
        self.wires = Wires(random.Random(~seed), delay_s=0.01, cuts=0.005)
        self.acknowledged: dict[bytes, list[tuple[float, Row]]] = {}
        self.seen: list[Row] = []
        self.told: Counter[str] = Counter()
        self.flips = 0

    async def play(self) -> None:
        """Lets callers call while slots move; then looks whether each order is where, and what, it was said to be."""
        await TopologyStore(self.home.truth).create(self.first)
        count = self.chance.randint(1, 3)
        workers = [Worker(self, number, count) for number in range(count)]
        await asyncio.gather(*(worker.start() for worker in workers))
        until_s = time.monotonic() + _PLAY_S
        background = [asyncio.ensure_future(worker.freeze_now_and_then(self.chance)) for worker in workers]
        mover = asyncio.ensure_future(self._move(until_s, workers))
        async with asyncio.TaskGroup() as callers:
            for _ in range(12):
                callers.create_task(self._call(workers, until_s))
        for task in background:
            task.cancel()
        for worker in workers:
            worker.running.set()
        for home in (self.home, *self.homes):
            home.calm()
        await mover
        await pass_time(_CALM_S)
        await asyncio.gather(*(worker.follower.close() for worker in workers))
        await asyncio.gather(*(worker.handing.close() for worker in workers))
        self.wires.close()
        self.told["handed"] = sum(worker.notes.handed for worker in workers)
        for worker in workers:
            self.told += worker.notes.taken_back
        await self._judge()

    # ------------------------------------------------------------------------------------------------------- the mover

    async def _move(self, until_s: float, workers: Sequence[Worker]) -> None:
        topologies = TopologyStore(self.home.truth)
        writers = [SlotStatesWriter(home.truth) for home in self.homes]
        watches = [LeaseWatch(home.truth) for home in self.homes]
        attempt = 0
        background: list[asyncio.Future[None]] = []
        while time.monotonic() < until_s:
            await pass_time(self.chance.uniform(0, 4))
            attempt += 1
            slot = slot_of(order_id_of(self.chance.choice(self.customers), mint_uuid7(_NEW_MS)))
            topology = await topologies.load()
            assert topology is not None
            source, target = topology.slot_shards[slot], 1 - topology.slot_shards[slot]
            old = topology.slot_gens[slot]
            writer, watch = writers[source], watches[source]
            await change(writer, is_active=True)
            self._copy(slot, source, old, target, attempt)
            targets = {slot: target} if self.chance.random() < 0.8 else None
            states = await change(writer, attempt=attempt, pause=frozenset({slot}), targets=targets)
            await self._confirmed(watch, states)
            if self.chance.random() < 0.2:
                await change(writer, unpause=frozenset({slot}))
                continue
            await pass_time(self.chance.choice([0, 0.05, 2]))  # the rest is copied, and compared
            self._copy(slot, source, old, target, attempt)
            gen = attempt
            if states.opens is not None:
                facts, word = self.homes[source].truth, states.opens
                if self.chance.random() < 0.5:
                    attempt += 1
                    late_s = self.chance.choice([0.1, self.chance.uniform(0, 12), self.chance.uniform(5, 12)])
                    # the mover is gone, its word on its way, and perhaps a worker stopped with it
                    background.append(asyncio.ensure_future(self._say(facts, word, late_s)))
                    if self.chance.random() < 0.5 and time.monotonic() < until_s:
                        stopping = self.chance.choice(workers).freeze(self.chance.choice([9, 12]))
                        background.append(asyncio.ensure_future(stopping))
                    if not await self._settled(writer, watch, attempt, facts, word):
                        await change(writer, unpause=frozenset({slot}))
                        continue
                else:
                    await self._say(facts, word, self.chance.choice([0, 0.2, self.chance.uniform(0, 12)]))
            flipped = Topology(
                topology.epoch + 1,
                topology.shards,
                (*topology.slot_shards[:slot], target, *topology.slot_shards[slot + 1 :]),
                (*topology.slot_gens[:slot], gen, *topology.slot_gens[slot + 1 :]),
                2,
            )
            assert await topologies.compare_and_set(topology.epoch, flipped)
            self.flips += 1
            await watch.look()
            while watch.behind(flipped.epoch):
                await pass_time(0.01)
                await watch.look()
            await change(writer, is_active=False, unpause=frozenset({slot}), epoch_min=flipped.epoch)

    async def _settled(
        self, writer: SlotStatesWriter, watch: LeaseWatch, attempt: int, facts: Facts, word: Leaving
    ) -> bool:
        """Takes over; tells whether the slot was opened at the word, once nobody can open it any more."""
        await pass_time(self.chance.choice([0, 0.1, 3]))
        await self._confirmed(watch, await change(writer, attempt=attempt))
        is_found = await facts.revision(SCOPE, word.word_name) == word.revision
        self.told["found" if is_found else "settled"] += 1
        await pass_time(self.chance.choice([0, 3]))
        return is_found

    async def _say(self, facts: Facts, word: Leaving, late_s: float) -> None:
        await pass_time(late_s)
        await facts.tell(SCOPE, word.word_name, Fact(word.revision, b""))

    async def _confirmed(self, watch: LeaseWatch, states: SlotStates) -> None:
        written_s = boottime_s()
        await watch.look()
        while watch.pending(states.revision, written_s):
            await pass_time(0.01)
            await watch.look()

    def _copy(self, slot: int, source: int, old: int, target: int, gen: int) -> None:
        there = self.stores[target].rows
        for key, row in self.stores[source].rows.items():
            if key.slot == slot and key.gen == old:
                placed = row._replace(key=key._replace(gen=gen))
                if placed.key not in there or there[placed.key].version < row.version:
                    there[placed.key] = placed

    # -------------------------------------------------------------------------------------------------------- callers

    async def _call(self, workers: Sequence[Worker], until_s: float) -> None:
        chance = self.chance
        while time.monotonic() < until_s:
            customer = chance.choice(self.customers)
            request_id = self._mint()
            order_id = order_id_of(customer, request_id)
            row = Row(key_of(order_id, 0), customer, request_id.ljust(MARK_BYTES, b"c"), self._body())
            is_there = await self._write(chance.choice(workers).router, row)
            while time.monotonic() < until_s and chance.random() < 0.9:
                await pass_time(chance.uniform(0, 0.5))
                router = chance.choice(workers).router
                found = await self._read(router, order_id, Consistency.STRONG)
                if chance.random() < 0.3:
                    await self._read(router, order_id, Consistency.CACHED)
                if chance.random() < 0.2:
                    await self._list(router, customer)
                if found is None:
                    if not is_there:
                        is_there = await self._write(router, row)
                elif found.version < _VERSIONS_MAX and chance.random() < 0.5:
                    mark = self._mint().ljust(MARK_BYTES, b"t")
                    await self._write(router, Row(found.key, customer, found.marks + mark, self._body()))

    async def _write(self, router: Router, row: Row) -> bool:
        try:
            outcome = await write(router, row, self._deadline())
        except StoreError as error:
            self._tell(type(error).__name__)
            return False
        self._tell(outcome.verdict.name)
        if outcome.verdict is Verdict.APPLIED:
            self.acknowledged.setdefault(row.key.order_id, []).append((time.monotonic(), row))
        return outcome.verdict is Verdict.APPLIED

    async def _read(self, router: Router, order_id: bytes, consistency: Consistency) -> Row | None:
        age_s = 0 if consistency is Consistency.STRONG else _TTL_S
        least = self._known(order_id, time.monotonic() - age_s)
        try:
            row = await router.read(order_id, consistency, deadline=self._deadline())
        except StoreError:
            return None
        assert (0 if row is None else row.version) >= least, f"{consistency}: {row}, but {least} was acknowledged"
        self.trace.append((time.monotonic(), repr(row)))
        if row is not None:
            self.seen.append(row)
        return row

    async def _list(self, router: Router, customer: str) -> None:
        now_s = time.monotonic()
        wanted = {
            order_id: least
            for order_id, rows in self.acknowledged.items()
            if rows[0][1].customer == customer and (least := self._known(order_id, now_s))
        }
        try:
            rows = await router.list_customer(customer, None, 10_000, deadline=self._deadline())
        except StoreError:
            return
        found = {row.key.order_id: row.version for row in rows}
        stale = {order_id for order_id, least in wanted.items() if found.get(order_id, 0) < least}
        assert not stale, "a list without what was acknowledged"

    def _tell(self, word: str) -> None:
        self.told[word] += 1
        self.trace.append((time.monotonic(), word))

    def _known(self, order_id: bytes, at_s: float) -> int:
        return max((row.version for when_s, row in self.acknowledged.get(order_id, ()) if when_s < at_s), default=0)

    async def _judge(self) -> None:
        topology = await TopologyStore(self.home.truth).load()
        assert topology is not None
        for order_id, rows in self.acknowledged.items():
            slot = slot_of(order_id)
            key = key_of(order_id, topology.slot_gens[slot])
            present = self.stores[topology.slot_shards[slot]].rows.get(key)
            assert present is not None, "an acknowledged order is lost"
            for _, row in rows:
                assert present.marks.startswith(row.marks), "an acknowledged version is lost"
        for row in self.seen:
            slot = slot_of(row.key.order_id)
            key = key_of(row.key.order_id, topology.slot_gens[slot])
            present = self.stores[topology.slot_shards[slot]].rows.get(key)
            assert present is not None, "an order was shown that is not there"
            assert present.marks.startswith(row.marks), "a version was shown that never was"

    def _deadline(self) -> float:
        return time.monotonic() + self.chance.choice([0.3, 3, 20])

    def _body(self) -> bytes:
        return self.chance.randbytes(8)

    def _mint(self) -> bytes:
        """A request id that the seed alone decides."""
        minted = bytearray(mint_uuid7(_NEW_MS + self.chance.randrange(600_000)))
        minted[7], minted[9:] = self.chance.randrange(256), self.chance.randbytes(7)
        minted[6], minted[8] = 0x70, 0x80
        return bytes(minted)


async def change(
    writer: SlotStatesWriter,
    *,
    attempt: int | None = None,
    epoch_min: int | None = None,
    is_active: bool | None = None,
    pause: frozenset[int] = frozenset(),
    unpause: frozenset[int] = frozenset(),
    targets: Mapping[int, int] | None = None,
) -> SlotStates:
    """Changes the states of a shard's slots, as the one mover there is."""
    before = await writer.read()
    after = before.next(
        attempt=attempt, epoch_min=epoch_min, is_active=is_active, pause=pause, unpause=unpause, targets=targets
    )
    assert await writer.replace(before, after)
    return after


async def pass_time(seconds: float) -> None:
    """Lets simulated seconds pass."""
    await asyncio.sleep(seconds)  # sleep: simulated


def play(seed: int) -> World:
    """Plays one run. Raises ``AssertionError`` when a guarantee was broken in it."""
    world = World(seed)
    virtual_time.run(world.play())
    return world
