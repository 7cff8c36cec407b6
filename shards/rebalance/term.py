"""One attempt of a leading mover at a rebalance: fences, adds shards, moves slots, finishes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from shards.contract import StoreError
from shards.facts import Fact
from shards.rebalance.batch import Batch, as_opened
from shards.rebalance.fleet import At, Deposed, Fleet, Part, part_of
from shards.rebalance.gates import Gates
from shards.rebalance.home import Home
from shards.rebalance.pausing import mean_steps_ms
from shards.rebalance.progress import PROGRESS, Pace, Progress
from shards.rebalance.record import SCOPE, Command, Move, RebalanceRecord, State, Stuck
from shards.rebalance.sealing import Sealing
from shards.rebalance.throttle import Throttle, felt_of
from shards.topology import ShardInfo, Topology

BATCH_SLOTS_MAX: Final = 16
"""Slots copied together, and the most that are paused together."""

_TICK_S: Final = 0.5
_WORKERS_S: Final = 0.1
_RETRY_S: Final = 0.25


class Term:
    """One attempt. ``run`` returns when it is over; raises ``Deposed`` when somebody else has ended it."""

    def __init__(
        self, record: RebalanceRecord, fleet: Fleet, mover: str, at: At, tell: Callable[[Progress], None]
    ) -> None:
        self._begun: Final = record
        self._fleet: Final = fleet
        self._mover: Final = mover
        self._at: Final = at
        self._tell: Final = tell
        self._home: Final = Home(fleet.home, record.attempt, at)
        self._throttle: Final = Throttle(record.options, is_wanted=self._is_wanted_further)
        self._parts: Final[dict[int, Part]] = {}
        self._gates: Final[dict[int, Gates]] = {}
        self._sealing: Final = Sealing(self._parts, at)
        self._batches: Final[set[Batch]] = set()
        self._stuck: Final[dict[int, Stuck]] = {}
        self._pace: Final = Pace()
        self._rows_of_done = (0, 0)
        self._moved = 0
        self._began_s = time.monotonic()
        self._is_stopping = False
        self._phase = "beginning"

    @property
    def _record(self) -> RebalanceRecord:
        return self._home.seen or self._begun

    def __repr__(self) -> str:
        return f"Term(attempt={self._record.attempt}, moved={self._moved}, batches={len(self._batches)})"

    def stop(self) -> None:
        """Begins no more batches; those that are not paused yet are left."""
        self._is_stopping = True

    async def run(self) -> None:
        """Does what is left to do of the record."""
        await self._fence()
        work = asyncio.ensure_future(self._work())
        helpers = [asyncio.ensure_future(gates.watch()) for gates in self._gates.values()]
        helpers.append(asyncio.ensure_future(self._follow()))
        try:
            # a helper ends only by a defect; then nothing may go on that relies on it
            await asyncio.wait((work, *helpers), return_when=asyncio.FIRST_COMPLETED)
            for task in (work, *helpers):
                if task.done():
                    task.result()
        finally:
            for task in (work, *helpers):
                task.cancel()
            await asyncio.wait((work, *helpers))

    async def _work(self) -> None:
        if await self._workers_everywhere():
            await self._move_all()
        await self._finish()
        with suppress(StoreError):
            await self._publish()

    # ---------------------------------------------------------------------------------------------------- beginning

    async def _fence(self) -> None:
        """Makes sure that nothing of an earlier attempt lands any more, and opens what it left paused."""
        topology = await self._home.change("fence topology", self._first_epoch)
        sources = {move.source for move in self._record.moves}
        # no others: one that is down and has nothing to do with it holds nothing up
        involved = {shard for move in self._record.moves for shard in (move.source, move.target)}
        known = {info.id for info in topology.shards}
        for shard in sorted(involved & known or known):  # what moves nothing is there to open whatever is paused
            self._parts[shard] = part = await part_of(self._fleet, shard)
            self._gates[shard] = Gates(shard, part.facts, self._record.attempt, self._at)
        # workers look often where slots are paused, and nowhere else
        left = await asyncio.gather(*(gates.fence(is_active=shard in sources) for shard, gates in self._gates.items()))
        for gates, states in zip(self._gates.values(), left, strict=True):
            if (opened := await gates.settle(states)) is not None:
                topology = await self._home.change("flip", partial(as_opened, leaving=opened), is_own=True)
                await gates.known(topology.epoch)
        # whatever is paused has gone elsewhere by now, or never will by the one who paused it
        await asyncio.gather(
            *(
                gates.unpause(states.paused, epoch_min=topology.epoch)
                for gates, states in zip(self._gates.values(), left, strict=True)
            )
        )
        if self._record.state is State.RUNNING:
            await self._add_shards()

    def _first_epoch(self, topology: Topology) -> Topology:
        return replace(topology, epoch=topology.epoch + 1)

    async def _add_shards(self) -> None:
        """Names every shard that slots go to, and the new weights, in the topology."""
        weights = dict(self._record.shards_after)
        topology = await self._home.topology()
        known = {info.id for info in topology.shards}
        for shard in sorted(weights.keys() - known):
            await self._fleet.prepare(shard)
            self._parts[shard] = part = await part_of(self._fleet, shard)
            self._gates[shard] = gates = Gates(shard, part.facts, self._record.attempt, self._at)
            await gates.fence(is_active=False)

        def add(topology: Topology) -> Topology | None:
            infos = dict(topology.shards) | weights
            shards = tuple(ShardInfo(shard, infos[shard]) for shard in sorted(infos))
            if shards == topology.shards:
                return None
            following = max(topology.next_shard_id, shards[-1].id + 1)
            return replace(topology, epoch=topology.epoch + 1, shards=shards, next_shard_id=following)

        await self._home.change("add shard", add)

    async def _workers_everywhere(self) -> bool:
        """Returns when every worker that serves any shard has a lease on every shard that slots go to.

        False as soon as nothing is to be moved any more.
        """
        targets = {move.target for move in self._record.moves}
        self._phase = "waiting for every worker to open the shards"
        while self._is_wanted():
            with suppress(StoreError):
                topology = await self._home.topology()
                workers = {shard: await gates.workers() for shard, gates in self._gates.items()}
                everyone = frozenset().union(*workers.values())
                is_known = all(gates.is_known(topology.epoch) for gates in self._gates.values())
                if is_known and all(everyone <= workers[shard] for shard in targets):
                    return True
            await asyncio.sleep(_WORKERS_S)
        return False

    # ------------------------------------------------------------------------------------------------------- moving

    async def _move_all(self) -> None:
        self._phase = "moving"
        topology = await self._home.topology()
        by_source: dict[int, list[Move]] = {}
        for move in self._record.remaining(topology):
            by_source.setdefault(move.source, []).append(move)
        self._moved = len(self._record.moves) - sum(map(len, by_source.values()))
        sources = [asyncio.ensure_future(self._move_from(moves, len(by_source))) for moves in by_source.values()]
        try:
            await asyncio.gather(*sources)
        finally:
            for source in sources:
                source.cancel()
            if sources:
                await asyncio.wait(sources)

    async def _move_from(self, moves: list[Move], sources: int) -> None:
        """Moves the slots of one source, batch by batch."""
        gates = self._gates[moves[0].source]
        try:
            await self._move_by(
                gates, moves, min(BATCH_SLOTS_MAX, max(1, self._record.options.slots_at_once // sources))
            )
            await gates.finished()
        finally:
            await gates.abandon()

    async def _move_by(self, gates: Gates, moves: list[Move], size: int) -> None:
        for start in range(0, len(moves), size):
            if not self._is_wanted():
                return
            batch = Batch(
                moves[start : start + size],
                self._record.attempt,
                self._parts,
                gates,
                self._home,
                self._sealing,
                self._throttle,
                self._at,
            )
            self._batches.add(batch)
            try:
                outcome = await batch.run(self._is_wanted_further)
            finally:
                self._batches.discard(batch)
                self._rows_of_done = _sum(self._rows_of_done, batch.rows)
            self._moved += len(outcome.moved)
            if outcome.stuck:
                self._stuck.update({stuck.slot: stuck for stuck in outcome.stuck})
                await self._home.note("name stuck", partial(RebalanceRecord.with_stuck, stuck=outcome.stuck))

    def _is_wanted(self) -> bool:
        return self._record.state is State.RUNNING and not self._is_stopping

    def _is_wanted_further(self) -> bool:
        """Tells whether slots under way are to be finished, rather than left.

        A cancel that does not undo has them finished, but not while callers feel so much that nothing is copied.
        """
        record = self._record
        is_finishing = record.state is State.CANCELLING and not record.undo_under_way and self._throttle.rate > 0
        return self._is_wanted() or (is_finishing and not self._is_stopping)

    # ------------------------------------------------------------------------------------------------------- ending

    async def _finish(self) -> None:
        """Leaves the shards at rest, and says in the record how it ended."""
        self._phase = "finishing"
        for gates in self._gates.values():
            await gates.rest()
        if self._is_stopping and self._record.state is State.RUNNING:
            return
        record = await self._home.record()
        topology = await self._home.topology()
        remaining = record.remaining(topology)
        if record.state is State.RUNNING and len(remaining) > record.stuck_count:
            return  # it was paused and resumed meanwhile: the next attempt moves what this one has left
        if record.state is State.RUNNING and remaining:
            told = f"{len(remaining)} slots are stuck"
            await self._home.note("finish", lambda record: record.after(Command.PAUSE, "mover", told))
            return
        if record.state in {State.RUNNING, State.CANCELLING}:
            await self._drop_burnt(record, topology)
            told = f"{len(record.moves) - len(remaining)} of {len(record.moves)} slots have moved"
            await self._home.note("finish", lambda record: record.after(Command.FINISH, "mover", told))
            await self._home.remember(self._record)

    async def _drop_burnt(self, record: RebalanceRecord, topology: Topology) -> None:
        """Deletes what earlier attempts, or this one, copied in vain. Copies that slots left behind stay."""
        targets = {move.target for move in record.moves}
        is_first = record.attempt == record.id + 1  # its start, and one mover that led from then on
        if is_first and record.state is State.RUNNING and not self._stuck:
            targets = set()  # every copy is in use, and nobody needs to look for others
        await self._at("before drop burnt")
        for shard in sorted(targets & self._parts.keys()):
            for slot, gen in sorted(await self._parts[shard].copies.present()):
                is_live = (topology.slot_shards[slot], topology.slot_gens[slot]) == (shard, gen)
                if record.id <= gen <= record.attempt and not is_live:
                    await self._parts[shard].copies.drop(slot, gen)
        await self._at("after drop burnt")

    # ------------------------------------------------------------------------------------------------------ telling

    async def _follow(self) -> None:
        """Looks at what operators say and callers feel, and tells how far it is. Never returns."""
        revision = 0
        while True:
            with suppress(StoreError, Deposed):
                self._throttle.follow((await self._home.record()).options)
                self._throttle.observe(felt_of([one for gates in self._gates.values() for one in gates.told()]))
                revision = await self._publish(revision)
            await asyncio.sleep(_TICK_S)

    async def _publish(self, revision: int = 0) -> int:
        progress = self._progress()
        self._tell(progress)
        facts = self._fleet.home
        if not revision:
            fact = await facts.glance(SCOPE, PROGRESS)
            revision = 0 if fact is None else fact.revision
        fact = Fact(revision + 1, progress.to_bytes())
        if revision == 0:
            await facts.create(SCOPE, PROGRESS, fact)
            return 1
        return revision + 1 if await facts.replace(SCOPE, PROGRESS, revision, fact) else 0

    def _progress(self) -> Progress:
        copied, verified = self._rows_of_done
        for batch in self._batches:
            copied, verified = _sum((copied, verified), batch.rows)
        moves = self._record.moves
        moved = self._moved + sum(batch.moved for batch in self._batches)
        remaining = len(moves) - moved - len(self._stuck)
        taken_s = time.monotonic() - self._began_s
        seen = [pause for gates in self._gates.values() for pause in gates.pauses]
        pauses = sorted(pause.took_s for pause in seen)
        done = len(pauses)
        return Progress(
            id=self._record.id,
            attempt=self._record.attempt,
            mover=self._mover,
            phase=self._phase if self._record.is_open else self._record.state.value,
            at_unix_ms=time.time_ns() // 1_000_000,
            slots_total=len(moves),
            slots_moved=moved,
            slots_stuck=len(self._stuck),
            rows_total=0,
            rows_copied=copied,
            rows_verified=verified,
            rows_per_s=self._pace.tell(copied),
            remaining_s=None if not done or not moved else taken_s / moved * remaining,
            throttle_rows_per_s=self._throttle.rate,
            throttle_reason=self._throttle.reason,
            slot_states={move.slot: batch.state for batch in self._batches for move in batch.moves},
            waiting_for=tuple(
                sorted({seen.lease.worker for gates in self._gates.values() for seen in gates.waiting_for()})
            ),
            pause_ms_p99=pauses[min(done - 1, done * 99 // 100)] * 1_000 if pauses else 0.0,
            pause_ms_max=pauses[-1] * 1_000 if pauses else 0.0,
            pause_steps_ms=mean_steps_ms(seen),
            pauses=done,
        )


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
