"""One case: callers call, slots move, something dies, the move is resumed; then what callers were told is judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from shards.assembly import open_fleet
from shards.keys import slot_and_tag
from shards.rebalance.fleet import Fleet
from shards.rebalance.home import Book
from shards.rebalance.record import Kind, State, start
from shards.rebalance.verify import verify
from tests.support.history import History, Outcome, Rules, check, sample
from tests.support.rebalances import record_of, run_mover, topology_of
from tests.torture.history.callers import Callers
from tests.torture.history.face import Face
from tests.torture.rebalance.cases import Case, Place

CALLERS: Final = 12
CUSTOMERS: Final = 48
"""Of a trial; the slots of all of them move."""

LEAD_S: Final = 1.5  # callers call so long before the rebalance begins
TAIL_S: Final = 0.6  # and so long after it has ended
SETTLE_TIMEOUT_S: Final = 120.0
OPERATIONS_MAX: Final = 200_000
SEALED_BUCKETS: Final = 1_000_000
"""Buckets long before the first order."""

VIOLATIONS_SHOWN: Final = 3
_ROUND_S: Final = 0.3
CACHE_TTL_S: Final = 1.0


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
    history = History()
    fleet = await open_fleet(place.where.settings)
    try:
        async with Face(endpoints, seed) as face:
            callers = Callers(face, history, seed, callers=callers_count)
            over = asyncio.Event()
            calling = asyncio.ensure_future(_call(callers, over))
            try:
                await asyncio.sleep(LEAD_S)  # sleep: orders are there before they move
                began_s = time.monotonic()
                place = await _begin(fleet, place, seed)
                await case.inflict(place)
                ended = await _resume(fleet, place)
                resume_s = time.monotonic() - began_s
                await asyncio.sleep(TAIL_S)  # sleep: the slots are used where they are now
            finally:
                over.set()
                await calling
            await callers.settle(time.monotonic() + SETTLE_TIMEOUT_S)
            await callers.audit(time.monotonic() + SETTLE_TIMEOUT_S)
        record, topology = await record_of(fleet), await topology_of(fleet)
        proof = await verify(fleet, topology, record.moves)
        report = await asyncio.to_thread(
            check, history, Rules(CACHE_TTL_S, exact_replays=place.where.store == "embedded")
        )
        stale = sample(history, CACHE_TTL_S)
        for violation in report.violations[:VIOLATIONS_SHOWN]:
            print(violation)
        if stale.beyond_ttl or stale.below_min_version:
            print(f"cached answers: {stale}")
        failed = {Outcome.UNKNOWN, Outcome.FAILED}
        return Result(
            store=place.where.store,
            case=case.name,
            operations=report.operations,
            refused_or_late=sum(operation.result.outcome in failed for operation in history),
            slots=len(record.moved(topology)),
            verified=proof.compared,
            lost=report.missing + proof.wrong,
            doubled=report.doubled,
            stale=report.violations_count + stale.below_min_version + stale.beyond_ttl,
            resume_s=round(resume_s, 1),
            ended=ended,
        )
    finally:
        await fleet.close()


async def _call(callers: Callers, over: asyncio.Event) -> None:
    while not over.is_set():
        await callers.run(time.monotonic() + _ROUND_S, OPERATIONS_MAX)


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
    record = start(topology, targets, topology.shards, kind=Kind.SPLIT, who="torture", last=last)
    assert await Book(fleet.home).replace(revision, record)
    return place._replace(source=source, target=target)


async def _resume(fleet: Fleet, place: Place) -> str:
    """Lets another mover do what is left; returns how it ended."""
    if (await record_of(fleet)).state is State.RUNNING:
        assert await run_mover(place.where) == 0
    record = await record_of(fleet)
    assert record.state is State.DONE, f"{record.state.value}: {record.stuck}"
    return str(record.state.value)
