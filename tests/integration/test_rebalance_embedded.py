"""Slots of a data directory move between its files, by movers alone: no worker serves them meanwhile."""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from shards.assembly import StorageSettings, open_fleet
from shards.contract import Row
from shards.keys import bucket_of, format_uuid
from shards.leases import SlotStatesWriter
from shards.rebalance.cleanup import clean_up, leftovers, may_clean_up
from shards.rebalance.fleet import POINTS, At, Fleet, part_of
from shards.rebalance.home import Book
from shards.rebalance.mover import Mover
from shards.rebalance.progress import Progress
from shards.rebalance.record import Command, IllegalStep, Kind, Options, RebalanceRecord, State
from shards.rebalance.verify import verify
from shards.stores.embedded import prepare
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.damage import damaged_copy, flipped_byte
from tests.support.rebalances import DIED, Where, begin, record_of, run_mover, topology_of
from tests.support.rows import new_row, next_version

SLOTS_MANY = 400
SLOTS_MOVED = 96
"""Of a rebalance that is not about the number of slots."""


@pytest_asyncio.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A data directory of one shard, with its first topology and no orders."""
    os.close(prepare(tmp_path / "data", 1))
    fleet = await open_fleet(StorageSettings(data_dir=tmp_path / "data"))
    await TopologyStore(fleet.home).create(Topology.initial(1))
    yield fleet
    await fleet.close()


async def fill(fleet: Fleet, orders: int) -> list[Row]:
    """Puts orders of as many customers onto shard 0, some with later versions; returns them."""
    source = random.Random(7)
    rows = [new_row(f"customer {n}", body=source.randbytes(100)) for n in range(orders)]
    rows = [next_version(row) if n % 3 else row for n, row in enumerate(rows)]
    copies = (await part_of(fleet, 0)).copies
    for first in range(0, orders, 500):
        await copies.place(rows[first : first + 500], {})
    return rows


async def found(fleet: Fleet, rows: list[Row]) -> list[Row | None]:
    """The rows where the topology says that they are, under their first gen, for comparison."""
    topology = await topology_of(fleet)
    there = []
    for row in rows:
        slot = row.key.slot
        copies = (await part_of(fleet, topology.slot_shards[slot])).copies
        (present,) = await copies.rows([row.key._replace(gen=topology.slot_gens[slot])])
        there.append(None if present is None else present._replace(key=row.key))
    return there


async def command(fleet: Fleet, what: Command, **changes: bool) -> RebalanceRecord:
    """What an operator does."""
    kept = await Book(fleet.home).read()
    assert kept is not None
    record = replace(kept[1].after(what, "ann"), **changes)  # type: ignore[arg-type]  # its flags
    assert await Book(fleet.home).replace(kept[0], record)
    return record


def reaching(point: str, number: int, act: Callable[[], Awaitable[object]]) -> At:
    """Does something when the work comes to a point for that many times."""
    left = number

    async def at(reached: str) -> None:
        nonlocal left
        left -= reached == point
        if reached == point and left == 0:
            await act()

    return at


async def test_slots_move_to_a_new_shard(fleet: Fleet) -> None:
    """A new shard gets exactly the slots that are meant for it, with every order as it was, and its progress told."""
    rows = await fill(fleet, 3_000)
    record = await begin(fleet, Kind.ADD, slots_max=SLOTS_MANY)
    told: list[Progress] = []
    finished = await Mover(fleet, tell=told.append).run(stays=False)
    assert finished is not None
    assert finished.state is State.DONE
    topology = await topology_of(fleet)
    assert topology.slot_shards.count(1) == SLOTS_MANY == len(record.moves)
    assert await found(fleet, rows) == rows
    assert (told[-1].slots_moved, told[-1].phase) == (SLOTS_MANY, "done")
    assert told[-1].rows_copied == told[-1].rows_verified == sum(topology.slot_shards[r.key.slot] for r in rows)
    assert [(one.id, one.moved) for one in await Book(fleet.home).history()] == [(record.id, SLOTS_MANY)]
    report = await verify(fleet, topology, record.moves)
    assert (report.wrong, report.compared) == (0, told[-1].rows_copied)


async def test_a_late_write_is_told_from_an_order_that_is_lost(fleet: Fleet) -> None:
    """What landed at the source after the move, and was never answered, is late; what does not add up is wrong."""
    rows = await fill(fleet, 400)
    await begin(fleet, Kind.ADD, slots_max=SLOTS_MOVED)
    assert await Mover(fleet).run(stays=False) is not None
    topology, moves = await topology_of(fleet), (await record_of(fleet)).moves
    (_, source), (_, target) = await part_of(fleet, 0), await part_of(fleet, 1)
    moved = [row for row in rows if topology.slot_shards[row.key.slot] == 1]
    changed, made = next_version(moved[0]), new_row(moved[1].customer)
    await source.place([changed, made], {changed.key.order_id: moved[0].version})
    report = await verify(fleet, topology, moves)
    assert (report.late, report.wrong, report.named) == (2, 0, [])
    slot = moved[1].key.slot
    lost = [row for row in (*moved, made) if row.key.slot == slot]
    await target.drop(slot, topology.slot_gens[slot])
    report = await verify(fleet, topology, moves)
    assert report.wrong == len(lost)
    assert report.late == (changed.key.slot != slot)
    assert all("it is missing" in line for line in report.named)


async def test_a_late_write_that_was_made_again_is_told_from_a_damaged_order(fleet: Fleet) -> None:
    """A first try that landed after the move, when its retry had been served, is late; a byte that turned is wrong."""
    rows = await fill(fleet, 400)
    await begin(fleet, Kind.ADD, slots_max=SLOTS_MOVED)
    assert await Mover(fleet).run(stays=False) is not None
    topology, moves = await topology_of(fleet), (await record_of(fleet)).moves
    (_, source), (_, target) = await part_of(fleet, 0), await part_of(fleet, 1)

    def as_moved(row: Row) -> Row:
        return row._replace(key=row.key._replace(gen=topology.slot_gens[row.key.slot]))

    alone = [row for row in rows if topology.slot_shards[row.key.slot] == 1]
    alone = [row for row in alone if [other.key.slot for other in rows].count(row.key.slot) == 1]
    first, later = (next(row for row in alone if row.version == version) for version in (1, 2))
    for row in (first, later):
        for copies, sound in ((source, row), (target, as_moved(row))):
            for put, wrong in ((flipped_byte(sound), 1), (sound, 0)):
                await copies.drop(sound.key.slot, sound.key.gen)
                await copies.place([put], {})
                report = await verify(fleet, topology, moves)
                assert (report.late, report.wrong) == (0, wrong)
    for made in (new_row(first.customer, body=b"12:00:00"), next_version(later, body=b"12:00:00")):
        again = as_moved(made)._replace(body=b"12:00:07")
        await source.place([made], {made.key.order_id: made.version - 1})
        await target.place([again], {made.key.order_id: made.version - 1})
    report = await verify(fleet, topology, moves)
    assert (report.late, report.wrong, report.named) == (2, 0, [])


async def test_a_damaged_copy_is_named_and_not_flipped(fleet: Fleet) -> None:
    """A bit that turned in one copy is found, the order named, its slot left; all others move, and later it too."""
    rows = await fill(fleet, 2_000)
    record = await begin(fleet, Kind.ADD, slots_max=SLOTS_MOVED)
    damaged: list[Row] = []

    async def damage() -> None:
        if (row := await damaged_copy(fleet)) is not None:
            damaged.append(row)

    stopped = await Mover(fleet, at=reaching("after index and place", 1, damage)).run(stays=False)
    assert stopped is not None
    assert stopped.state is State.PAUSED
    (stuck,) = stopped.stuck
    assert (stuck.slot, stuck.order_ids) == (damaged[0].key.slot, (format_uuid(damaged[0].key.order_id),))
    assert [move.slot for move in record.remaining(await topology_of(fleet))] == [stuck.slot]
    assert await found(fleet, rows) == rows
    await command(fleet, Command.RESUME)
    finished = await Mover(fleet).run(stays=False)
    assert finished is not None
    assert finished.state is State.DONE
    assert finished.stuck == ()
    assert await found(fleet, rows) == rows
    assert {gen for _, gen in await (await part_of(fleet, 1)).copies.present()} <= set(
        (await topology_of(fleet)).slot_gens
    )


async def test_cancel_reverse_and_clean_up(fleet: Fleet) -> None:
    """What had moved when it was cancelled stays; reversed all is back; cleaned up no copy and no new shard is left."""
    rows = await fill(fleet, 2_000)
    record = await begin(fleet, Kind.ADD, slots_max=SLOTS_MOVED, options=Options(soak_s=0))
    cancelling = reaching("after flip", 2, lambda: command(fleet, Command.CANCEL, undo_under_way=True))
    cancelled = await Mover(fleet, at=cancelling).run(stays=False)
    assert cancelled is not None
    assert cancelled.state is State.CANCELLED
    moved = record.moved(await topology_of(fleet))
    assert 0 < len(moved) < len(record.moves)
    assert await found(fleet, rows) == rows
    assert {slot for slot, _ in await (await part_of(fleet, 1)).copies.present()} <= {move.slot for move in moved}
    back = await begin(fleet, Kind.REVERSE, options=Options(soak_s=0))
    assert {move.slot for move in back.moves} == {move.slot for move in moved}
    assert await Mover(fleet).run(stays=False) is not None
    topology = await topology_of(fleet)
    assert set(topology.slot_shards) == {0}
    assert await found(fleet, rows) == rows
    last = await record_of(fleet)
    may_clean_up(last)
    with pytest.raises(IllegalStep, match="soaked"):
        may_clean_up(replace(last, options=Options()), now_unix_ms=last.finished_unix_ms + 5_000)
    assert await leftovers(fleet, topology, last) != []
    cleaned = await clean_up(fleet, "ann")
    assert cleaned.is_clean
    topology = await topology_of(fleet)
    assert await leftovers(fleet, topology, cleaned) == []
    assert [info.id for info in topology.shards] == [0]
    assert await found(fleet, rows) == rows


async def test_seals_move_with_the_slots(fleet: Fleet) -> None:
    """A bucket sealed on the source is sealed on the target before any slot is flipped, also one sealed at the last."""
    rows = await fill(fleet, 200)
    source = (await part_of(fleet, 0)).copies
    await begin(fleet, Kind.ADD, slots_max=SLOTS_MOVED)
    early, late = bucket_of(rows[0].key.order_id, 600) - 300, bucket_of(rows[0].key.order_id, 600) - 5
    await source.seal(0, {early})
    await Mover(fleet, at=reaching("before final place", 1, lambda: source.seal(0, {late}))).run(stays=False)
    assert await (await part_of(fleet, 1)).copies.sealed(0, 0) >= {early, late}


async def test_a_deposed_mover_flips_nothing(fleet: Fleet) -> None:
    """A mover that is deposed just before its flip, or its pause, flips nothing; the next attempt does the work."""
    rows = await fill(fleet, 1_000)
    for point in ("before flip", "before pause"):
        await begin(fleet, Kind.REVERSE if point == "before pause" else Kind.ADD, slots_max=SLOTS_MOVED)
        epochs: list[int] = []

        async def depose(epochs: list[int] = epochs) -> None:
            await command(fleet, Command.TAKE_OVER)
            epochs.append((await topology_of(fleet)).epoch)

        async def look(point: str, epochs: list[int] = epochs) -> None:
            if point == "after take over" and epochs:
                assert (await topology_of(fleet)).epoch == epochs[0], "the deposed mover has changed the topology"

        deposing = reaching(point, 1, depose)

        async def at(reached: str, deposing: At = deposing, look: At = look) -> None:
            await look(reached)
            await deposing(reached)

        finished = await Mover(fleet, at=at).run(stays=False)
        assert finished is not None
        assert finished.state is State.DONE
        assert len(epochs) == 1
        assert await found(fleet, rows) == rows


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_a_mover_killed_anywhere_is_resumed(fleet: Fleet, tmp_path: Path) -> None:
    """Killed with -9 at a point of its work, a mover leaves nothing that the next one does not finish."""
    rows = await fill(fleet, 1_000)
    where = Where("embedded", tmp_path / "data")
    every = [point for point in POINTS if not point.endswith((" name stuck", " open"))]  # no word is given here
    points = every if os.environ.get("TORTURE") else ["before flip", "after flip"]
    for number, point in enumerate(points):
        await begin(fleet, Kind.REVERSE if number % 2 else Kind.ADD, slots_max=48)
        assert await run_mover(where, point, 1) == DIED
        assert await run_mover(where) == 0
        record = await record_of(fleet)
        assert record.state is State.DONE
        assert record.remaining(await topology_of(fleet)) == ()
        assert await found(fleet, rows) == rows, point
        for shard in (0, 1):
            states = await SlotStatesWriter((await part_of(fleet, shard)).facts).read()
            assert (states.paused, states.is_active) == (frozenset(), False), point
