"""Bugs that the simulation of rows must show, beside those of ``plants.ROWS``."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Final
from weakref import WeakKeyDictionary

import pytest

from shards import lanes, routing
from shards.contract import APPLIED, CommitLimits, Consistency, DeadlineExceeded, Outcome, OutcomeUnknown, Row
from shards.handing import link
from shards.handing.frames import Handed
from shards.handing.handing import Handing, HandingLanes
from shards.handing.link import Given, Link
from shards.handing.taking import Taking
from shards.keys import Key
from shards.lanes import Lanes, _Lane, _Waiter
from shards.wrappers.cached import CachedStore
from tests.simulation import plants

PLANTS: Final = plants.Plants(plants.ROWS)


@PLANTS.add
def one_landed_order_speaks_for_all(patch: pytest.MonkeyPatch) -> None:
    """After a commit without a reply the first row's fate is taken for that of the whole batch."""
    settle = Lanes._settle

    async def settle_first(self: Lanes, lane: _Lane, part: Sequence[_Waiter], cause: Exception) -> list[_Waiter]:
        again = await settle(self, lane, part[:1], cause)
        if again:
            return [*again, *part[1:]]
        lanes._answer(part[1:], [APPLIED] * (len(part) - 1))
        return []

    patch.setattr(Lanes, "_settle", settle_first)


@PLANTS.add
def settling_does_not_read_strong(patch: pytest.MonkeyPatch) -> None:
    """Rows are settled by a read that does not settle, so they may land after having been found absent."""
    patch.setattr(lanes, "Consistency", SimpleNamespace(STRONG=Consistency.CACHED))


@PLANTS.add
def two_operations_of_an_order_share_a_commit(patch: pytest.MonkeyPatch) -> None:
    """Rows are taken as they come, whosever they are."""

    def take(_: Lanes, lane: _Lane, limits: CommitLimits) -> list[_Waiter]:
        count = min(len(lane.waiting), limits.rows_max)
        return [lane.waiting.popleft() for _ in range(count)]

    patch.setattr(Lanes, "_take", take)


@PLANTS.add
def limits_are_read_once(patch: pytest.MonkeyPatch) -> None:
    """What a store takes is asked for when the lanes are made, and never again."""
    take = Lanes._take
    first: WeakKeyDictionary[Lanes, CommitLimits] = WeakKeyDictionary()

    def take_as_at_first(self: Lanes, lane: _Lane, limits: CommitLimits) -> Sequence[_Waiter]:
        return take(self, lane, first.setdefault(self, limits))

    patch.setattr(Lanes, "_take", take_as_at_first)


@PLANTS.add
def settling_gives_its_place_away_twice(patch: pytest.MonkeyPatch) -> None:
    """A lane that settles gives its place away twice, so that more commits than allowed are under way."""

    def give_up(self: Lanes, _: _Lane) -> None:
        self._commits -= 1

    patch.setattr(Lanes, "_give_up_place", give_up)


@PLANTS.add
def deferred_reaches_the_caller(patch: pytest.MonkeyPatch) -> None:
    """Deferred rows are answered so, not committed again."""

    def answer(part: Sequence[_Waiter], outcomes: Sequence[Outcome]) -> list[_Waiter]:
        for waiter, outcome in zip(part, outcomes, strict=True):
            if not waiter.outcome.done():
                waiter.outcome.set_result(outcome)
        return []

    patch.setattr(lanes, "_answer", answer)


@PLANTS.add
def deferred_rows_are_lost(patch: pytest.MonkeyPatch) -> None:
    """Deferred rows are neither answered nor committed again."""
    answer = lanes._answer

    def forgetful(part: Sequence[_Waiter], outcomes: Sequence[Outcome]) -> list[_Waiter]:
        answer(part, outcomes)
        return []

    patch.setattr(lanes, "_answer", forgetful)


@PLANTS.add
def a_commit_under_way_is_called_not_written(patch: pytest.MonkeyPatch) -> None:
    """At the deadline of a row that is under way the caller is told that nothing was written."""
    patch.setattr(lanes, "OutcomeUnknown", DeadlineExceeded)


@PLANTS.add
def deadlines_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the deadlines of rows that wait."""
    patch.setattr(Lanes, "_sweep", lambda _: None)


@PLANTS.add
def the_minimum_version_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A cached answer is given though the caller has seen a newer one."""
    read = routing.Router.read

    async def careless(
        self: routing.Router, order_id: bytes, consistency: Consistency, *, min_version: int, deadline: float
    ) -> Row | None:
        return await read(self, order_id, consistency, min_version=min(min_version, 0), deadline=deadline)

    patch.setattr(routing.Router, "read", careless)


@PLANTS.add
def strong_reads_ask_the_cache(patch: pytest.MonkeyPatch) -> None:
    """A STRONG read is answered from memory."""
    read = CachedStore.read

    async def weak(self: CachedStore, keys: Sequence[Key], _: Consistency) -> Sequence[Row | None]:
        return await read(self, keys, Consistency.CACHED)

    patch.setattr(CachedStore, "read", weak)


@PLANTS.add
def a_row_that_comes_back_is_not_in_doubt(patch: pytest.MonkeyPatch) -> None:
    """A row whose committer is gone is committed as if nobody else had it."""
    back = HandingLanes.back

    def sure(self: HandingLanes, given: Given, *, is_unknown: bool) -> None:
        back(self, given, is_unknown=is_unknown and False)

    patch.setattr(HandingLanes, "back", sure)


@PLANTS.add
def an_unknown_outcome_there_is_taken_for_nothing_done(patch: pytest.MonkeyPatch) -> None:
    """A row of which its committer does not know is committed as if it had refused it."""
    patch.setattr(link, "_NOTHING_DONE", (*link._NOTHING_DONE, OutcomeUnknown))


@PLANTS.add
def rows_handed_over_are_handed_on(patch: pytest.MonkeyPatch) -> None:
    """Who takes a row hands it to whom it takes for the committer."""
    around = Handing.around

    def handing_on(self: Handing, shard: int, own: Lanes, memory: CachedStore, *, lanes: int) -> HandingLanes:
        handing = around(self, shard, own, memory, lanes=lanes)
        self._lanes[shard] = handing  # type: ignore[assignment]  # the bug
        return handing

    patch.setattr(Handing, "around", handing_on)


@PLANTS.add
def what_is_taken_is_called_applied(patch: pytest.MonkeyPatch) -> None:
    """Who takes a row answers before it is committed."""
    take = Taking._take

    def hasty(self: Taking, handed: Handed) -> None:
        self._answer(handed.number, APPLIED)
        take(self, handed)

    patch.setattr(Taking, "_take", hasty)


@PLANTS.add
def deadlines_of_rows_handed_over_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Who has handed a row over waits for its answer, however long that takes."""
    patch.setattr(Link, "_tick", lambda _: None)
