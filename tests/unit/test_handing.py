import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import APPLIED, Consistency, Corrupt, Outcome, OutcomeUnknown, Row, StoreError, Verdict
from shards.handing.frames import Kind, frame, pack_answer
from shards.handing.handing import Handing
from shards.handing.link import SILENCE_S, Given, Link
from shards.handing.network import Network, UnixNetwork
from shards.places import Places
from shards.routing import Router
from shards.topology import Topology
from tests.simulation import virtual_time
from tests.simulation.wires import Wires
from tests.support.memory_store import HeldStore, MemoryStore
from tests.support.observers import Notes
from tests.support.rows import new_row, next_version, soon
from tests.support.waiting import until

SETTINGS = StorageSettings(data_dir=Path("none"))


class Worker:
    """One of two workers over the same shard, of which worker 0 is the committer."""

    def __init__(self, number: int, store: MemoryStore, network: Network) -> None:
        self.notes = Notes()
        self.handing = Handing(network, self.notes, own=number, workers=2)
        self.handing.know((0, 1))
        cache = LocalCache(rows_max=100, bytes_max=1 << 20, ttl_s=5)
        shard = shard_over(store, 0, cache, SETTINGS, self.notes, self.handing)
        self.lanes = shard.lanes
        self.places = Places(Topology.initial(1), {0: shard}, self.notes)
        self.router = Router(self.places, self.notes, AsyncExitStack())

    async def write(self, row: Row, seconds: float = 10.0) -> Outcome:
        """Writes a row as the server does."""
        return await self.router.write(row.key.order_id, row.customer, row.marks, row.body, soon(seconds))

    async def connected(self) -> None:
        """Writes rows until one was handed over."""
        before = self.notes.handed

        async def handed() -> int:
            await self.write(new_row())
            return self.notes.handed - before

        await until(handed, bool)

    async def close(self) -> None:
        """Ends."""
        await self.lanes.close()
        await self.handing.close()


async def two_workers(tmp_path: Path, stores: Sequence[MemoryStore]) -> tuple[Worker, Worker]:
    """The committer, and another one that is connected to it."""
    workers = [Worker(number, store, UnixNetwork(tmp_path)) for number, store in enumerate(stores)]
    await workers[0].handing.listen(workers[0].places)
    await workers[1].connected()
    return workers[0], workers[1]


def one_truth() -> tuple[MemoryStore, MemoryStore]:
    """Two ways to the same rows."""
    stores = MemoryStore(), MemoryStore()
    stores[1].rows, stores[1].history = stores[0].rows, stores[0].history
    return stores


async def test_rows_are_committed_by_their_committer(tmp_path: Path) -> None:
    """A row of a worker that is not the committer is committed by the one that is, and answered what came of it."""
    committer, other = await two_workers(tmp_path, one_truth())
    batches = len(other.notes.batches)
    row = new_row()
    assert await other.write(row) == APPLIED
    assert len(other.notes.batches) == batches
    rival = row._replace(body=b"rival")
    assert await other.write(rival) == Outcome(Verdict.CLASH, row)
    later = next_version(row)
    assert await other.write(later) == APPLIED
    assert committer.notes.taken == other.notes.handed == 4
    assert await committer.write(new_row()) == APPLIED
    assert committer.notes.handed == 0
    await other.close()
    await committer.close()


async def test_what_was_handed_over_is_read_from_the_cache(tmp_path: Path) -> None:
    """A worker whose transition another one committed answers no older version from its own cache."""
    committer, other = await two_workers(tmp_path, one_truth())
    row = new_row()
    await other.write(row)
    assert await other.router.read(row.key.order_id, Consistency.CACHED, deadline=soon()) == row
    later = next_version(row)
    await other.write(later)
    hits = other.notes.cache_events["hit"]
    assert await other.router.read(row.key.order_id, Consistency.CACHED, deadline=soon()) == later
    assert other.notes.cache_events["hit"] == hits + 1
    await other.close()
    await committer.close()


async def test_rows_of_a_slot_that_is_elsewhere_are_not_taken(tmp_path: Path) -> None:
    """A committer that knows the slot under another gen does nothing about a row, and the worker commits it."""
    committer, other = await two_workers(tmp_path, one_truth())
    row = new_row()
    committer.places.slots[row.key.slot].gen = 7
    assert await other.write(row) == APPLIED
    assert other.notes.taken_back == {"refused": 1}
    await other.close()
    await committer.close()


async def test_a_committer_that_is_gone_leaves_its_rows_in_doubt(tmp_path: Path) -> None:
    """When a committer dies over a row, the other worker finds the very row stored and calls it applied."""
    held = HeldStore()
    truth = MemoryStore()
    truth.rows = held.rows
    workers = [Worker(number, store, UnixNetwork(tmp_path)) for number, store in enumerate((held, truth))]
    committer, other = workers
    await committer.handing.listen(committer.places)
    other.lanes.write(new_row(), soon())  # connects
    await until(lambda: _absent(other), lambda absent: not absent)
    row = new_row()
    writing = asyncio.ensure_future(other.write(row))
    call = await held.next_call("commit")
    held.apply(call.items)  # stored, but nobody is told
    await committer.handing.close()
    assert await writing == APPLIED
    assert other.notes.taken_back == {"closed": 1}
    call.go()
    await other.close()
    await committer.close()


async def _absent(worker: Worker) -> bool:
    return "absent" in repr(worker.handing)


async def test_nothing_is_handed_to_who_leaves(tmp_path: Path) -> None:
    """A worker that leaves answers what it has taken, is handed nothing more, and its successor takes over."""
    stores = one_truth()
    committer, other = await two_workers(tmp_path, stores)
    successor = Worker(0, stores[0], UnixNetwork(tmp_path))
    await successor.handing.listen(successor.places)
    await committer.handing.leave()

    async def taken() -> int:
        assert await other.write(new_row()) == APPLIED
        return successor.notes.taken

    await until(taken, bool)
    assert not other.notes.taken_back
    await other.close()
    await committer.close()
    await successor.close()


async def test_a_worker_that_talks_nonsense_is_hung_up_on(tmp_path: Path) -> None:
    """Bytes that no worker sends end the connection, at either end, and cost nothing else."""
    committer, other = await two_workers(tmp_path, one_truth())
    for noise in (b"\xff" * 64, frame(Kind.ANSWERS), frame(Kind.ROWS, b"short")):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "commits-0.sock"))
        writer.write(noise)
        assert await reader.read() == b""
        writer.close()
    assert await other.write(new_row()) == APPLIED
    await other.close()
    await committer.close()


async def test_a_socket_that_cannot_be_made_is_no_disaster(tmp_path: Path) -> None:
    """Where a worker cannot listen, the others commit their rows by themselves."""
    stores = one_truth()
    network = UnixNetwork(tmp_path / ("long" * 40))
    committer, other = [Worker(number, store, network) for number, store in enumerate(stores)]
    await committer.handing.listen(committer.places)
    assert await other.write(new_row()) == APPLIED
    assert other.notes.handed == 0
    await other.close()
    await committer.close()


def test_a_frozen_committer_is_waited_for_half_a_second() -> None:
    """Rows of a committer that hears nothing are committed by who has them long before their deadline; what it does
    about them when it wakes up changes nothing; and then it is handed rows again.
    """

    async def play() -> None:
        loop = asyncio.get_running_loop()
        wires = Wires(random.Random(1), delay_s=0.001, cuts=0)
        runs = [asyncio.Event() for _ in range(2)]
        for running in runs:
            running.set()
        stores = one_truth()
        committer, other = [Worker(n, stores[n], wires.face(runs[n])) for n in range(2)]
        await committer.handing.listen(committer.places)
        await other.connected()
        runs[0].clear()
        row, began_s = new_row(), loop.time()
        assert await other.write(row, 60.0) == APPLIED
        assert SILENCE_S <= loop.time() - began_s <= SILENCE_S + 0.2
        assert other.notes.taken_back == {"silent": 1}
        later = next_version(row)
        began_s = loop.time()
        assert await other.write(later, 60.0) == APPLIED
        assert loop.time() - began_s < 0.01
        runs[0].set()
        await other.connected()
        assert stores[0].rows[row.key] == later
        await other.close()
        await committer.close()
        wires.close()

    virtual_time.run(play())


class Ends:
    """The two ends of a link: what it writes to, and who hands rows over."""

    def __init__(self) -> None:
        self.began_s: list[float] = []
        self.failures: list[tuple[bytes, type[StoreError]]] = []

    def write(self, data: bytes) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""

    def answered(self, answers: Sequence[tuple[Given, Outcome]], began_s: float) -> None:
        """Notes since when what is answered may be true."""
        assert answers
        self.began_s.append(began_s)

    def failed(self, given: Given, error: StoreError) -> None:
        """Notes the order and the error."""
        self.failures.append((given.row.key.order_id, type(error)))

    def back(self, given: Given, *, is_unknown: bool) -> None:
        """Nothing."""


def test_rows_are_remembered_from_when_the_first_was_handed_over() -> None:
    """Rows answered together, in whatever order, are remembered no longer than the one handed over first allows."""

    async def scenario() -> None:
        ends = Ends()
        link = Link(1, Notes(), lambda _: None)
        link.connection_made(ends)  # type: ignore[arg-type]  # the part of a transport that is used
        first_s = time.monotonic()
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        assert link.hand(ends, 0, new_row("first"), soon(10), answer)
        await asyncio.sleep(0.2)  # sleep: of virtual time
        assert link.hand(ends, 0, new_row("second"), soon(10), answer)
        link.data_received(frame(Kind.ANSWERS, pack_answer(1, APPLIED) + pack_answer(0, APPLIED)))
        assert ends.began_s == [first_s]
        link.end()

    virtual_time.run(scenario())


def test_each_row_handed_over_has_its_own_deadline() -> None:
    """Rows that nobody answers fail one after the other, each soon after its own deadline, whatever came first."""

    async def scenario() -> None:
        ends = Ends()
        link = Link(1, Notes(), lambda _: None)
        link.connection_made(ends)  # type: ignore[arg-type]  # as above
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        rows = [new_row("first"), new_row("second"), new_row("third")]
        for row, seconds in zip(rows, (0.25, 0.1, 0.4), strict=True):
            assert link.hand(ends, 0, row, soon(seconds), answer)
        due = [row.key.order_id for row in (rows[1], rows[0], rows[2])]
        for count, pause_s in enumerate((0.05, 0.125, 0.15, 0.15)):
            await asyncio.sleep(pause_s)  # sleep: of virtual time
            assert ends.failures == [(order_id, OutcomeUnknown) for order_id in due[:count]]
        link.end()

    virtual_time.run(scenario())


async def test_a_row_that_fails_there_is_done_with(tmp_path: Path) -> None:
    """When its committer has failed a row, the shard of who handed it over closes."""
    held = HeldStore()
    truth = MemoryStore()
    workers = [Worker(number, store, UnixNetwork(tmp_path)) for number, store in enumerate((held, truth))]
    committer, other = workers
    await committer.handing.listen(committer.places)

    async def handed() -> int:
        writing = asyncio.ensure_future(other.write(new_row()))
        await asyncio.sleep(0.01)  # sleep: it connects meanwhile
        if not other.notes.handed:
            await writing
            return 0
        (await held.next_call("commit")).fail(Corrupt("broken"), takes_effect=False)
        (await held.next_call("read")).fail(Corrupt("broken"), takes_effect=False)
        with pytest.raises(Corrupt):
            await writing
        return other.notes.handed

    await until(handed, bool)
    async with asyncio.timeout(30):
        await other.lanes.close()
    for worker in workers:
        await worker.close()
