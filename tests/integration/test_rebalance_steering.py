"""A mover hears what operators say while it waits, for callers or for workers, and when nobody looks at it any more."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from shards.assembly import StorageSettings, open_fleet
from shards.keys import slot_and_tag
from shards.leases import SCOPE, Lease, SlotStatesWriter, Telemetry
from shards.rebalance import commands
from shards.rebalance.fleet import Fleet, part_of
from shards.rebalance.home import Book
from shards.rebalance.leader import leading
from shards.rebalance.mover import Mover
from shards.rebalance.progress import Progress
from shards.rebalance.record import Command, Kind, Options, RebalanceRecord, State
from shards.stores.embedded import prepare
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.foreground_mover import PAUSED
from tests.support.rebalances import begin, record_of, topology_of
from tests.support.rows import new_row
from tests.support.server_process import ROOT
from tests.support.waiting import until

CUSTOMERS: Final = [f"customer {n}" for n in range(100)]
SLOTS: Final = frozenset(slot_and_tag(customer)[0] for customer in CUSTOMERS)
FELT_MS: Final = 200.0
SLOWLY: Final = Options(rows_per_s_max=1)
"""What is read is read back after so many seconds as it has rows."""
NEVER: Final = Options(rows_per_s_max=1, keep_p99_ms=10)
"""What callers do not get, before anything has moved."""
ENOUGH: Final = Options(keep_p99_ms=1_000)
AHEAD: Final = 1 << 40
"""A revision, and an epoch, that a worker would confirm anything with."""


@pytest_asyncio.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A data directory of two shards with some orders on each."""
    os.close(prepare(tmp_path / "data", 2))
    fleet = await open_fleet(StorageSettings(data_dir=tmp_path / "data"))
    topology = await TopologyStore(fleet.home).create(Topology.initial(2))
    rows = [new_row(customer) for customer in CUSTOMERS for _ in range(10)]
    for shard in (0, 1):
        mine = [row for row in rows if topology.slot_shards[row.key.slot] == shard]
        await (await part_of(fleet, shard)).copies.place(mine, {})
    await fleet.prepare(2)
    yield fleet
    await fleet.close()


@asynccontextmanager
async def worker(fleet: Fleet, *shards: int, epoch: int = AHEAD) -> AsyncIterator[None]:
    """A worker with a lease on these shards, which confirms whatever is asked and whose callers are hurt."""
    lease = Lease("w", AHEAD, epoch, telemetry=Telemetry(FELT_MS, 0.0, 100))

    async def renew() -> None:
        revision = 1
        while True:
            for shard in shards:
                facts = (await part_of(fleet, shard)).facts
                if revision == 1:
                    await facts.create(SCOPE, lease.fact_name, lease.to_fact(revision))
                else:
                    await facts.replace(SCOPE, lease.fact_name, revision - 1, lease.to_fact(revision))
            revision += 1
            is_there.set()
            await asyncio.sleep(0.5)  # sleep: the interval of a renewal

    is_there = asyncio.Event()
    renewing = asyncio.ensure_future(renew())
    await is_there.wait()
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait((renewing,))


async def progress(fleet: Fleet) -> Progress | None:
    """What a mover told last."""
    return (await commands.look(fleet)).progress


async def paused(fleet: Fleet) -> set[int]:
    """The slots that nobody serves."""
    parts = [await part_of(fleet, info.id) for info in (await topology_of(fleet)).shards]
    return {slot for part in parts for slot in (await SlotStatesWriter(part.facts).read()).paused}


async def heard(fleet: Fleet) -> None:
    """Returns when the mover has looked at the record: between two of its tellings it does."""

    async def told_at() -> int:
        told = await progress(fleet)
        return 0 if told is None else told.at_unix_ms

    for _ in range(2):
        await until(told_at, (await told_at()).__ne__)


async def waiting(fleet: Fleet, options: Options = NEVER) -> tuple[Mover, asyncio.Future[RebalanceRecord | None]]:
    """A mover that waits in the middle of its first copies: until callers feel less, which they never do."""

    def waits(told: Progress | None) -> bool:
        least = 1 if options is SLOWLY else 0
        return told is not None and bool(told.slot_states) and told.throttle_rows_per_s == least

    await begin(fleet, Kind.ADD, slots=SLOTS, options=options)
    mover = Mover(fleet)
    running = asyncio.ensure_future(mover.run(stays=False))
    await until(lambda: progress(fleet), waits)
    return mover, running


async def is_done(fleet: Fleet) -> bool:
    """Whether all has moved, and is served."""
    record = await record_of(fleet)
    return record.state is State.DONE and not record.remaining(await topology_of(fleet)) and not await paused(fleet)


async def test_a_mover_that_waits_for_callers_is_paused_and_resumed_with_another_limit(fleet: Fleet) -> None:
    """The remedy that the throttle names works: paused, the mover leaves, and resumed it goes by the new limit."""
    async with worker(fleet, 0, 1, 2):
        _, running = await waiting(fleet)
        await commands.tell(fleet, Command.PAUSE, "ann")
        async with asyncio.timeout(30):
            await running
        assert (await record_of(fleet)).state is State.PAUSED
        await commands.tell(fleet, Command.RESUME, "ann", options=ENOUGH)
        async with asyncio.timeout(30):
            await Mover(fleet).run(stays=False)
    assert await is_done(fleet)


async def test_a_limit_that_is_changed_between_two_looks_of_the_mover_counts(fleet: Fleet) -> None:
    """A mover that never saw the pause goes on by the options of the resume."""
    async with worker(fleet, 0, 1, 2):
        _, running = await waiting(fleet)
        found = await Book(fleet.home).read()
        assert found is not None
        attempt = found[1].attempt
        resumed = found[1].after(Command.PAUSE, "ann").after(Command.RESUME, "ann")
        assert await Book(fleet.home).replace(found[0], replace(resumed, options=ENOUGH))
        async with asyncio.timeout(30):
            await running
    assert await is_done(fleet)
    assert (await record_of(fleet)).attempt == attempt


@pytest.mark.parametrize("options", [NEVER, SLOWLY])
async def test_a_mover_that_waits_is_stopped(fleet: Fleet, options: Options) -> None:
    """Asked to leave, a mover does not wait for callers, nor for its turn; all is left to the next one."""
    async with worker(fleet, 0, 1, 2):
        mover, running = await waiting(fleet, options)
        mover.stop()
        async with asyncio.timeout(30):
            await running
    assert (await record_of(fleet)).state is State.RUNNING
    assert not await paused(fleet)


@pytest.mark.parametrize("undo", [True, False])
async def test_a_mover_that_waits_for_callers_is_cancelled(fleet: Fleet, *, undo: bool) -> None:
    """Cancelled, a mover leaves the slots that wait for callers where they are, whether or not it was to undo them."""
    async with worker(fleet, 0, 1, 2):
        _, running = await waiting(fleet)
        await commands.tell(fleet, Command.CANCEL, "ann", undo=undo)
        async with asyncio.timeout(30):
            await running
    record = await record_of(fleet)
    assert (record.state, record.moved(await topology_of(fleet))) == (State.CANCELLED, ())
    assert not await paused(fleet)


async def test_slots_that_a_pause_left_move_when_it_is_resumed_while_others_are_still_under_way(fleet: Fleet) -> None:
    """Nothing is called stuck that a pause has left: resumed before all sources rested, each slot moves."""
    held: list[asyncio.Event] = []

    async def at(reached: str) -> None:
        if reached == "before index and place" and len(held) < 2:
            held.append(asyncio.Event())
            await held[-1].wait()

    async def slots_under_way() -> int:
        told = await progress(fleet)
        return 0 if told is None else len(told.slot_states)

    await begin(fleet, Kind.ADD, slots=SLOTS)
    running = asyncio.ensure_future(Mover(fleet, at=at).run(stays=False))
    await until(slots_under_way, lambda _: len(held) == 2)
    await commands.tell(fleet, Command.PAUSE, "ann")
    await heard(fleet)
    both = await slots_under_way()
    held[0].set()
    await until(slots_under_way, lambda now: now < both)
    await commands.tell(fleet, Command.RESUME, "ann")
    await heard(fleet)
    held[1].set()
    async with asyncio.timeout(30):
        await running
    assert await is_done(fleet)


@pytest.mark.parametrize(("shards", "epoch"), [((0,), AHEAD), ((0, 1, 2), 0)])
async def test_a_mover_that_waits_for_a_worker_to_open_a_shard_is_cancelled(
    fleet: Fleet, shards: tuple[int, ...], epoch: int
) -> None:
    """A worker that never opens the new shard, or hears of it, keeps slots from moving, and nobody from cancelling."""

    async def phase() -> str:
        told = await progress(fleet)
        return "" if told is None else told.phase

    async with worker(fleet, *shards, epoch=epoch):
        await begin(fleet, Kind.ADD, slots=SLOTS)
        running = asyncio.ensure_future(Mover(fleet).run(stays=False))
        await until(phase, lambda now: "every worker" in now)
        await commands.tell(fleet, Command.CANCEL, "ann")
        async with asyncio.timeout(30):
            await running
    record = await record_of(fleet)
    assert (record.state, record.moved(await topology_of(fleet))) == (State.CANCELLED, ())


async def in_foreground(data_dir: Path, how: str, *words: str) -> None:
    """Runs a mover whose view goes while slots are paused, to its end."""
    command = [sys.executable, "-m", "tests.support.foreground_mover", how, "run", "--data-dir", str(data_dir), *words]
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with ExitStack() as reading:
        reading.callback(os.close, reader)
        try:
            async with asyncio.timeout(60):
                assert process.stderr is not None
                if how == "unread":
                    assert await process.stderr.readline() == PAUSED
                    reading.close()
                await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.parametrize(("how", "words"), [("unread", ()), ("unread", ("--json",)), ("hangup", ())])
async def test_a_mover_whose_view_goes_leaves_nothing_paused(
    fleet: Fleet, tmp_path: Path, how: str, words: tuple[str, ...]
) -> None:
    """When its reader or its terminal goes, a mover finishes the slots that are paused and leaves, as on Ctrl-C."""
    await begin(fleet, Kind.ADD, slots=SLOTS)
    await in_foreground(tmp_path / "data", how, *words)
    assert not await paused(fleet)
    record, topology = await record_of(fleet), await topology_of(fleet)
    assert record.state is State.RUNNING
    assert record.moved(topology)
    assert record.remaining(topology)
    assert await leading(fleet.home) is None


async def test_a_mover_that_nohup_keeps_works_on_without_its_terminal(fleet: Fleet, tmp_path: Path) -> None:
    """Whoever has started a mover to outlive the terminal finds the work done."""
    await begin(fleet, Kind.ADD, slots=SLOTS)
    await in_foreground(tmp_path / "data", "nohup")
    assert await is_done(fleet)


async def test_a_mover_that_is_stopped_while_it_takes_over_leaves(fleet: Fleet) -> None:
    """One stop is enough, whenever it comes: nothing is moved after it."""
    await begin(fleet, Kind.ADD, slots=SLOTS)

    async def at(point: str) -> None:
        if point == "after take over":
            mover.stop()

    mover = Mover(fleet, at=at)
    async with asyncio.timeout(30):
        await mover.run(stays=False)
    record = await record_of(fleet)
    assert record.state is State.RUNNING
    assert len(record.remaining(await topology_of(fleet))) == len(record.moves)
