"""One case: callers call, slots move, something dies, the move is resumed; then what callers were told is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from shards.assembly import open_fleet
from shards.keys import slot_and_tag
from shards.rebalance.fleet import Fleet
from shards.rebalance.home import Book
from shards.rebalance.record import Command, Kind, Options, State, start
from shards.rebalance.verify import verify
from tests.support.rebalances import Where, begin, record_of, run_mover, topology_of
from tests.torture.rebalance.cases import THERE_AND_BACK, Case, Place
from tests.torture.rebalance.watching import LEAD_ORDERS, ORDERS_A_CUSTOMER, Watched, watched

CALLERS: Final = 12
CUSTOMERS: Final = LEAD_ORDERS // ORDERS_A_CUSTOMER
"""Of a trial; the slots of all of them move."""

GROWTH_OPTIONS: Final = Options(keep_error_rate=1.0)
"""Callers of 20 ms of patience do not hold up the move: what is asked is what becomes of orders."""

OPTIONS: Final = Options(keep_error_rate=1.0, slots_at_once=4)
"""Slots move in several pauses: something dies in the second of them, while others are copied."""

GROWTH_TIMEOUT_S: Final = 900.0
"""A quarter of all slots, beside callers who leave no room on a small machine."""

RESUMES_MAX: Final = 4
PATIENT_S: Final = 10.0
"""The deadline of callers who are to notice nothing."""

SEALED_BUCKETS: Final = 1_000_000
"""Buckets long before the first order."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial showed."""

    store: str
    case: str
    operations: int
    refused_or_late: int
    """Operations that ended UNAVAILABLE or past their deadline, while something was dead."""
    slots: int
    """Slots that moved."""
    verified: int
    """Orders compared with the copy left behind."""
    lost: int
    """Acknowledged and not there in the end, or wrong in a copy."""
    doubled: int
    stale: int
    """Answers that no order of events explains, or that came from the past."""
    resume_s: float
    """From the beginning of the rebalance to its end, resumed."""
    ended: str
    """The state of the record in the end."""

    @property
    def passed(self) -> bool:
        """Whether no promise was broken."""
        return not (self.lost or self.doubled or self.stale)


async def run(case: Case, place: Place, endpoints: Sequence[str], seed: int, *, callers_count: int = CALLERS) -> Result:
    """Runs a case against workers that serve. Raises ``AssertionError`` when the rebalance does not come to its end."""
    fleet = await open_fleet(place.where.settings)

    async def disturbed() -> None:
        begun = await _begin(fleet, place, seed)
        await case.inflict(begun)
        await _resume(fleet, begun)

    try:
        seen = await watched(
            endpoints, seed, disturbed, callers_count=callers_count, exact_replays=place.where.store == "embedded"
        )
        return await _result(fleet, place.where.store, case.name, seen)
    finally:
        await fleet.close()


async def there_and_back(where: Where, endpoints: Sequence[str], seed: int) -> list[Result]:
    """Adds a shard, and drains it, while callers call with time to wait; nothing is killed, and no call may fail."""
    fleet = await open_fleet(where.settings)
    results = []
    try:
        for number, kind in enumerate((Kind.ADD, Kind.DRAIN)):

            async def moved(kind: Kind = kind) -> None:
                topology = await topology_of(fleet)
                await begin(fleet, kind, shard=topology.shards[-1].id, options=GROWTH_OPTIONS)
                assert await run_mover(where, timeout_s=GROWTH_TIMEOUT_S) == 0
                assert (await record_of(fleet)).state is State.DONE

            shards = len({*(await topology_of(fleet)).slot_shards})
            seen = await watched(
                endpoints,
                seed + number,
                moved,
                callers_count=CALLERS,
                exact_replays=where.store == "embedded",
                timeouts_s=(PATIENT_S,),
            )
            after = await topology_of(fleet)
            sizes = [count for info in after.shards if (count := after.slot_shards.count(info.id))]
            assert max(sizes) - min(sizes) <= 1, sizes
            name = f"{THERE_AND_BACK}: {shards} -> {len(sizes)} shards"
            results.append(await _result(fleet, where.store, name, seen))
    finally:
        await fleet.close()
    return results


async def _result(fleet: Fleet, store: str, name: str, seen: Watched) -> Result:
    record, topology = await record_of(fleet), await topology_of(fleet)
    proof = await verify(fleet, topology, record.moves)
    return Result(
        store=store,
        case=name,
        operations=seen.report.operations,
        refused_or_late=seen.failed.total(),
        slots=len(record.moved(topology)),
        verified=proof.compared,
        lost=seen.report.missing + proof.wrong,
        doubled=seen.report.doubled,
        stale=seen.stale,
        resume_s=round(seen.took_s, 1),
        ended=record.state.value,
    )


async def _begin(fleet: Fleet, place: Place, seed: int) -> Place:
    """Writes down that the slots of all customers of the trial move from the shard that has most of them."""
    found = await Book(fleet.home).read()
    revision, last = found or (0, None)
    topology = await topology_of(fleet)
    slots = {slot_and_tag(f"torture-{seed}-{number}")[0] for number in range(CUSTOMERS)}
    on = {info.id: [slot for slot in slots if topology.slot_shards[slot] == info.id] for info in topology.shards}
    source = max(on, key=lambda shard: len(on[shard]))
    target = next(shard for shard in on if shard != source)
    targets = dict.fromkeys(on[source], target)
    # something to seal on the target: a bucket of its own for each trial
    _, copies = await fleet.part(source)
    await copies.seal(on[source][0], {seed % SEALED_BUCKETS})
    record = start(topology, targets, topology.shards, kind=Kind.SPLIT, who="torture", last=last, options=OPTIONS)
    assert await Book(fleet.home).replace(revision, record)
    return place._replace(source=source, target=target)


async def _resume(fleet: Fleet, place: Place) -> None:
    """Lets another mover do what is left; and once more, as an operator would, where a node was away for too long."""
    for _ in range(RESUMES_MAX):
        found = await Book(fleet.home).read()
        assert found is not None
        revision, record = found
        if record.state is State.DONE:
            break
        if record.state is State.PAUSED:
            assert await Book(fleet.home).replace(revision, record.after(Command.RESUME, "torture"))
        assert await run_mover(place.where) == 0
    record = await record_of(fleet)
    assert record.state is State.DONE, f"{record.state.value}: {record.stuck}"
